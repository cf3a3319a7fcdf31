"""Moves what the dashboards show: sessions, messages, presence, policies, refusals, slow readers.

Beside the Shield of `arq dev up` it talks to a second one, which speaks TLS and has small limits
(second_shield.py). All troubles are made again and again, until the time is over.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.server
import itertools
import json
import pathlib
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator

import arqon
from arqon._proto import envelope_pb2 as wire
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_raw
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

#: Longest wait for any one answer.
PATIENCE = 20.0
#: Patterns cost a policy some 50 us a kilobyte each: this is over the millisecond that it may have.
COSTLY = b"abcdefgh " * 6_000
PATTERNS = [f"{letter}[0-9]+{letter}x" for letter in "abcdefgh"]


class Bus:
    """The ArqonBus under load, as its clients and its operator see it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._arq = [given.arq, "--state", given.state]
        self.plain_url: str = given.shield
        self.tls_url: str = given.tls_shield
        self.tls = ssl.create_default_context(cafile=given.authority)
        self._tokens: dict[tuple[str, ...], str] = {}

    def arq(self, *arguments: str) -> str:
        """Runs `arq`; what it printed."""
        done = subprocess.run(
            [*self._arq, *arguments], capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"arq {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def token(self, tenant: str, user: str, *more: str) -> str:
        """A token, made once for each who asks."""
        key = (tenant, user, *more)
        if key not in self._tokens:
            self._tokens[key] = self.arq("auth", "gen", "--tenant", tenant, "--user", user, *more)
        return self._tokens[key]

    def connect(self, tenant: str, user: str, *, tls: bool = False) -> arqon.Connecting:
        """A client of the SDK."""
        return arqon.connect(
            self.tls_url if tls else self.plain_url,
            token=self.token(tenant, user),
            ssl=self.tls if tls else None,
            proxy=None,
        )

    def raw(self, tenant: str, user: str, *, tls: bool = False) -> connect_raw:
        """A WebSocket without the SDK, with a small receive buffer."""
        url = self.tls_url if tls else self.plain_url
        address = urllib.parse.urlsplit(url)
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect((address.hostname, address.port))
        return connect_raw(
            url,
            sock=peer,
            ssl=self.tls if tls else None,
            subprotocols=[Subprotocol("arqon.v1")],
            additional_headers={"Authorization": f"Bearer {self.token(tenant, user)}"},
            compression=None,
            max_queue=1,
            close_timeout=1,
            proxy=None,
        )


class Issuer:
    """An identity provider: its keys as a JWKS document, and tokens signed by them."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        encoded = (
            _base64(number.to_bytes((number.bit_length() + 7) // 8, "big"))
            for number in (numbers.n, numbers.e)
        )
        key = dict(zip(("n", "e"), encoded, strict=True))
        key |= {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one"}
        document = json.dumps({"keys": [key]}).encode()

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        self.name = "https://id.example"

    def token(self, tenant: str) -> str:
        """A token of it."""
        now = int(time.time())
        claims = {
            **{"iss": self.name, "aud": "arqon", "sub": "ann", "tenant": tenant},
            **{"iat": now, "exp": now + 600},
        }
        header = {"typ": "JWT", "alg": "RS256", "kid": "one"}
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def furnish(bus: Bus, issuer: Issuer, folder: pathlib.Path) -> None:
    """Tenants and policies."""
    bus.arq("tenant", "create", "initech")
    bus.arq("tenant", "create", "umbrella", "--issuer", issuer.name, "--jwks", issuer.url)
    with closed_port() as port:
        gone = f"http://127.0.0.1:{port}/jwks.json"
    bus.arq("tenant", "create", "hooli", "--issuer", issuer.name, "--jwks", gone)
    policy = ("policy", "add")
    bus.arq(*policy, "blocklist", "--words", "malware", "--platform")
    bus.arq(*policy, "redact", "--emails", "--tenant", "acme")
    patterns = itertools.chain.from_iterable(("--pattern", pattern) for pattern in PATTERNS)
    bus.arq(*policy, "blocklist", "--name", "costly", "--tenant", "initech", *patterns)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]


# ---- what is fine


async def stay(bus: Bus, until: float) -> None:
    """Sessions that are open all the time, as most are."""
    async with bus.connect("acme", "stayer") as one, bus.connect("globex", "stayer") as other:
        rooms = [await client.join("hall", meta={"here": "always"}) for client in (one, other)]
        while time.monotonic() < until:
            for room in rooms:
                await room.publish(b"still here", ack=True)
            await asyncio.sleep(0.5)


async def chat(bus: Bus) -> None:
    """Members of a room on both Shields, who are seen, speak and leave."""
    for tenant in ("acme", "globex"):
        async with (
            bus.connect(tenant, "ann") as ann,
            bus.connect(tenant, "bob", tls=True) as bob,
            bus.connect(tenant, "warden") as warden,
        ):
            watched = await warden.join("lobby", presence="watch")
            counted = await bob.join("counted", presence="count")
            hears = await ann.join("lobby", meta={"name": "Ann"})
            speaks = await bob.join("lobby", meta={"name": "Bob"})
            for number in range(40):
                await speaks.publish(b"hello", ack=number % 4 == 0)
                await hears.publish_text("my address is ann@example.org")
                await asyncio.sleep(0.02)
            await speaks.presence.set({"name": "Bob", "status": "busy"})
            await watched.presence.get()
            await counted.presence.get_count()
            await hears.get()
            await speaks.leave()
            await asyncio.sleep(0.3)


async def sign_in_elsewhere(bus: Bus, issuer: Issuer) -> None:
    """A tenant whose keys come from an issuer, and one whose issuer is away."""
    async with arqon.connect(bus.plain_url, token=issuer.token("umbrella"), proxy=None) as ann:
        room = await ann.join("lobby")
        await room.publish(b"hello", ack=True)
    with contextlib.suppress(arqon.errors.ArqonError):
        async with arqon.connect(bus.plain_url, token=issuer.token("hooli"), proxy=None):
            pass


# ---- what is blocked, refused, or too much


async def policies(bus: Bus) -> None:
    """Messages that are blocked, and some for which the policy has not time enough."""
    async with bus.connect("acme", "eve") as eve:
        room = await eve.join("lobby")
        with contextlib.suppress(arqon.errors.PolicyError):
            await room.publish(b"free malware", ack=True)
    async with bus.connect("initech", "pete") as pete:
        room = await pete.join("lobby")
        for _ in range(3):
            with contextlib.suppress(arqon.errors.ArqonError):
                await room.publish(COSTLY, ack=True)


async def bad_tokens(bus: Bus) -> None:
    """An expired token, none, one of an unknown tenant, and one of nobody's key."""
    expired = bus.token("acme", "late", "--ttl=-5m")
    unknown = bus.token("nobody", "ann")
    for token in (expired, unknown, bus.token("acme", "ann")[:-8] + "AAAAAAAA", "no token"):
        for _ in range(3):
            with contextlib.suppress(arqon.errors.ArqonError):
                async with arqon.connect(bus.plain_url, token=token, proxy=None):
                    pass
    await request(bus.plain_url, b"GET /v1/socket HTTP/1.1\r\nHost: bus\r\n\r\n")


async def no_clients(bus: Bus) -> None:
    """What is no HTTP, no TLS, or says nothing at all."""
    await request(bus.plain_url, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    await request(bus.tls_url, b"GET / HTTP/1.1\r\n\r\n")
    address = urllib.parse.urlsplit(bus.tls_url)
    writers = []
    # Four places, eight times as many that wait, and some more.
    for number in range(4 * 9 + 4):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        # Some begin with TLS, and stop.
        if number % 10 == 0:
            writer.write(b"\x16")
        writers.append(writer)
    await asyncio.sleep(2.5)
    for writer in writers:
        writer.close()


async def request(url: str, content: bytes) -> bytes:
    """The answer to some bytes, by TCP."""
    address = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(content)
        return await asyncio.wait_for(reader.read(4096), PATIENCE)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def wrong_requests(bus: Bus) -> None:
    """Requests that are answered with an ERROR."""
    async with bus.raw("globex", "gus") as gus:
        await receive(gus, wire.OPCODE_WELCOME)
        await publish(gus, "elsewhere", b"not joined", ack=True)
        await receive(gus, wire.OPCODE_ERROR)
        await gus.send(join("lobby"))
        await receive(gus, wire.OPCODE_JOINED)
        await publish(gus, "lobby", b"x" * 61_441, ack=True)
        await receive(gus, wire.OPCODE_ERROR)


async def slow_readers(bus: Bus) -> None:
    """One who is closed for it, and on the second Shield one who loses the oldest messages."""
    for tls, size, count in ((False, 16_000, 300), (True, 2_000, 1_000)):
        room = f"firehose-{tls}".lower()
        async with bus.raw("globex", "sloth", tls=tls) as sloth:
            await receive(sloth, wire.OPCODE_WELCOME)
            await sloth.send(join(room))
            await receive(sloth, wire.OPCODE_JOINED)
            async with bus.connect("globex", "hose", tls=tls) as hose:
                speaks = await hose.join(room, echo=False)
                for number in range(count):
                    await speaks.publish(bytes(size), ack=number == count - 1)
            await asyncio.sleep(0.5)
            # Its TCP window is full: a proper goodbye would wait for it.
            sloth.transport.abort()


def join(room: str) -> bytes:
    """A JOIN."""
    return wire.Envelope(
        op=wire.OPCODE_JOIN, room=room, ref=1, join=wire.Join()
    ).SerializeToString()


async def publish(client: ClientConnection, room: str, payload: bytes, *, ack: bool) -> None:
    """A PUBLISH."""
    body = wire.Publish(ack=ack)
    frame = wire.Envelope(op=wire.OPCODE_PUBLISH, room=room, ref=2, payload=payload, publish=body)
    await client.send(frame.SerializeToString())


async def receive(client: ClientConnection, op: int) -> wire.Envelope:
    """The next frame of that kind."""
    async with asyncio.timeout(PATIENCE):
        while True:
            frame = wire.Envelope.FromString(await client.recv(decode=False))
            if frame.op == op:
                return frame


# ---- all of it


async def again_and_again(what: Callable[[], Awaitable[None]], until: float, pause: float) -> int:
    """Does it until the time is over, once at least; how often it was.

    One that another trouble turned away, the flood of connections for instance, is tried anew.
    """
    times = 0
    while True:
        try:
            await what()
            times += 1
        except (arqon.errors.ArqonError, InvalidStatus) as error:
            if time.monotonic() > until + PATIENCE:
                raise SystemExit(f"it never worked: {error}") from error
        if times and time.monotonic() + pause >= until:
            return times
        await asyncio.sleep(pause)


async def run(given: argparse.Namespace) -> None:
    """Everything at once."""
    bus, issuer = Bus(given), Issuer()
    furnish(bus, issuer, pathlib.Path(given.state))
    until = time.monotonic() + given.seconds
    jobs: dict[str, tuple[Callable[[], Awaitable[None]], float]] = {
        "chat": (lambda: chat(bus), 0.1),
        "sign in elsewhere": (lambda: sign_in_elsewhere(bus, issuer), 2.0),
        "policies": (lambda: policies(bus), 1.0),
        "bad tokens": (lambda: bad_tokens(bus), 2.0),
        "no clients": (lambda: no_clients(bus), 6.0),
        "wrong requests": (lambda: wrong_requests(bus), 2.0),
        "slow readers": (lambda: slow_readers(bus), 5.0),
    }
    repeated = (again_and_again(job, until, pause) for job, pause in jobs.values())
    _, *counts = await asyncio.gather(stay(bus, until), *repeated)
    done = zip(jobs, counts, strict=True)
    print(", ".join(f"{name} {count} times" for name, count in done))


def main() -> None:
    """Reads who is to be loaded."""
    parser = argparse.ArgumentParser()
    for name in ("arq", "state", "shield", "tls-shield", "authority"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, default=40.0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
