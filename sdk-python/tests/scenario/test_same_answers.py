"""Frames and tokens made up by chance get the same answers from the gateway for tests as from a
real one. What scenarios say by name, this asks of everything in between.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import cast

import pytest
from live_stack import Stack
from signing import Signer, with_issuer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import arqon.testing
from arqon._proto import envelope_pb2 as pb
from arqon.testing import _claims

SEEDS = (1, 2, 3)
#: Sessions of one run, and frames of one session: fewer than the offences that close it.
SESSIONS, FRAMES = 40, 18
PATIENCE = 10.0
#: A longer one closes the session.
MAX_FRAME = 65_536

#: Answers to requests. Messages, acknowledgements and presence come by way of other parts, at a
#: time of their own.
ANSWERS = frozenset(
    {pb.OPCODE_ERROR, pb.OPCODE_JOINED, pb.OPCODE_LEFT, pb.OPCODE_PONG, pb.OPCODE_REFRESHED}
)

ROOMS = ["a", "a", "a", "b", "a.b.c.d"]
ODD_ROOMS = ["", "_a", "a._b", "a.b.c.d.e", "x" * 64, "x" * 65, "y" * 200, "y" * 201, "é" * 101]
LONG_ROOM = ".".join(["x" * 64] * 3)
HEADERS = ["a", "X-Twist-ID", "X-Foo", "x", "traceparent", "Traceparent", "n" * 128, "n" * 129]
VALUES = ["", "v", "v" * 256, "v" * 257, "v" * 4094, "v" * 4095, "é" * 2048, "\x00", "a\r\nb"]
PAYLOADS = [b"", b"x", bytes(125), bytes(126), bytes(61_440), bytes(61_441)]
USUAL, ODD = [1, 1, 2, 2, 3, 3, 4, 5, 6, 7], [0, 8, 63, 64, 69, 78, 99, 128, -5, 2**31 - 1]
BODIES = {1: "join", 3: "publish", 4: "presence_get", 5: "presence_set", 6: "refresh"}
CHARACTERS = "abAZ09_-. ./*>é\u0085\u200b\x00\x7f~!#:\r\n用\U0001f600"


class Chance:
    """Makes up frames and claims; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def frame(self, ref: int) -> bytes:
        pick, maybe = self._random.choice, self._random.random
        envelope = pb.Envelope(ref=ref if maybe() < 0.95 else 0)
        op = pick(USUAL) if maybe() < 0.85 else pick(ODD)
        envelope.op = cast(pb.Opcode, op)
        if op not in (6, 7) or maybe() < 0.1:
            some = [pick(ROOMS), pick(ROOMS), pick(ODD_ROOMS), LONG_ROOM, self._text(8)]
            envelope.room = some[0] if maybe() < 0.6 else pick(some)
        if op == 3 or maybe() < 0.05:
            for _ in range(pick([0, 0, 0, 1, 2, 33])):
                envelope.headers[pick([*HEADERS, self._text(4)])] = pick([*VALUES, self._text(6)])
            envelope.payload = pick(PAYLOADS)
        elif op == 7:
            envelope.payload = pick(PAYLOADS[:4])
        body = BODIES.get(op) if maybe() < 0.9 else pick([*BODIES.values(), "welcome", "ack"])
        if body is not None and (op in (5, 6) or maybe() < 0.8):
            self._fill(envelope, body)
        data = self._spoilt(envelope.SerializeToString())
        return data[:MAX_FRAME]

    def _fill(self, envelope: pb.Envelope, body: str) -> None:
        pick = self._random.choice
        getattr(envelope, body).SetInParent()
        if body == "join":
            if pick([True, False]):
                envelope.join.echo = pick([True, False])
            envelope.join.presence = cast(pb.PresenceMode, pick([0, 1, 2, 3, 4, 5, -1]))
            self._fill_meta(envelope.join.meta)
        elif body == "publish":
            envelope.publish.ack = pick([True, False])
        elif body == "presence_get":
            envelope.presence_get.count_only = pick([True, False])
        elif body == "presence_set":
            self._fill_meta(envelope.presence_set.meta)
        elif body == "refresh":
            envelope.refresh.token = pick(["", "a.b.c", self._text(9)])

    def _fill_meta(self, meta: object) -> None:
        for number in range(self._random.choice([0, 0, 1, 2, 32, 33])):
            value = self._random.choice(["", "v", "v" * 1000, "é" * 512])
            meta[f"{self._text(2)}{number}"] = value  # type: ignore[index]

    def _spoilt(self, data: bytes) -> bytes:
        pick, maybe = self._random.randrange, self._random.random()
        raw = bytearray(data)
        if maybe < 0.12 and raw:
            for _ in range(3):
                raw[pick(len(raw))] = pick(256)
        elif maybe < 0.16:
            del raw[pick(len(raw) + 1) :]
        elif maybe < 0.2:
            raw += bytes(pick(256) for _ in range(4))
        return bytes(raw)

    def _text(self, most: int) -> str:
        length = self._random.randint(0, most)
        return "".join(self._random.choice(CHARACTERS) for _ in range(length))

    def claims(self) -> dict[str, object]:
        """Claims of a tenant that was made just now, by its issuer: what only the real gateway
        knows is left out.
        """
        pick = self._random.choice
        now = int(time.time())
        claims: dict[str, object] = {"sub": "ada", "tenant": "acme", "iat": now, "exp": now + 60}
        names = [*claims, "nbf", "jti", "role", "rooms", "aud", "iss"]
        for name in self._random.sample(names, 2):
            claims[name] = pick([None, -1, 1e300, True, {}, [""], *self._claim(name, now)])
        return claims

    def _claim(self, name: str, now: int) -> list[object]:
        odd: list[object] = ["", "a", " a", 0, 7, 1.5, [], "用"]
        later: list[object] = [now + 60, now + 90_000, float(now), now + 0.5, "now"]
        if name == "rooms":
            some = (["a"], [">"], ["a.*"], ["*.>"], ["a.>.b"], ["_a"], [1], "a", ["a"] * 129)
            pick = self._random.choice
            return ["a", {"join": pick(some)}, {"publish": pick(some)}, {"join": [], "see": []}]
        some_of: dict[str, list[object]] = {
            "iat": later,
            "exp": [*odd, *later, now - 60],
            "nbf": [*odd, *later, now - 60],
            "role": [*odd, "user", "observer", "service", "admin", "USER"],
            "aud": [*odd, "arqon", ["x", "arqon"], ["arqon", 1]],
            "sub": [*odd, "x" * 128, "x" * 129, "a b", "a\nb", "\u200b", "\ue000"],
            "jti": [*odd, "x" * 128, "x" * 129],
            "tenant": [*odd, "globex", "Acme", "arqon", "a.b"],
            "iss": [1, []],
        }
        return some_of[name]


async def answers(url: str, token: str, frames: Sequence[bytes]) -> list[list[str]]:
    """What each frame of one session is answered with."""
    told: list[list[str]] = []
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        url, additional_headers=headers, compression=None, proxy=None, max_queue=None
    ) as socket:
        await socket.recv()
        for number, frame in enumerate(frames):
            mark = 10**12 + number
            await socket.send(frame)
            await socket.send(pb.Envelope(op=pb.OPCODE_PING, ref=mark).SerializeToString())
            told.append([])
            while True:
                data = await asyncio.wait_for(socket.recv(), PATIENCE)
                assert isinstance(data, bytes)
                envelope = pb.Envelope.FromString(data)
                if envelope.op == pb.OPCODE_PONG and envelope.ref == mark:
                    break
                if envelope.op in ANSWERS:
                    told[-1].append(str(envelope))
    return told


@pytest.fixture(scope="module")
def signer(stack: Stack) -> Signer:
    time.sleep(1)  # a token of the tenants' first second would be refused
    return Signer(stack)


@pytest.mark.parametrize("seed", SEEDS)
async def test_frames_made_up_by_chance(seed: int, stack: Stack, signer: Signer) -> None:
    chance = Chance(seed)
    told: Counter[str] = Counter()
    now = int(time.time())
    claims = {"sub": "ada", "tenant": "acme", "iat": now, "exp": now + 3600}
    async with arqon.testing.gateway() as gateway:
        for _ in range(SESSIONS):
            frames = [chance.frame(ref) for ref in range(2, 2 + FRAMES)]
            fake = await answers(gateway.url, _claims.make(with_issuer(claims)), frames)
            real = await answers(stack.url, signer.token(claims), frames)
            for frame, of_fake, of_real in zip(frames, fake, real, strict=True):
                assert of_fake == of_real, f"{frame.hex()[:400]}"
                told.update(answer.splitlines()[0] for answer in of_real)
    # Else nothing was tried.
    assert min(told[f"op: OPCODE_{op}"] for op in ("ERROR", "JOINED", "LEFT", "PONG")) > 0, told


@pytest.mark.parametrize("seed", SEEDS)
async def test_claims_made_up_by_chance(seed: int, stack: Stack, signer: Signer) -> None:
    chance = Chance(seed)
    told: Counter[str] = Counter()
    settings = arqon.testing.Settings(tenants=frozenset({"acme", "globex"}))
    async with arqon.testing.gateway(settings=settings) as gateway:
        for _ in range(120):
            claims = chance.claims()
            fake = await verdict(gateway.url, _claims.make(with_issuer(claims)))
            real = await verdict(stack.url, signer.token(claims))
            assert fake == real, json.dumps(claims)
            told[real] += 1
    assert {"welcome", "TOKEN_MALFORMED"} <= set(told), told


async def verdict(url: str, token: str) -> str:
    """What comes of an upgrade with this token."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            await asyncio.wait_for(socket.recv(), PATIENCE)
            return "welcome"
    except InvalidStatus as refused:
        return str(json.loads(refused.response.body or b"{}").get("name"))
