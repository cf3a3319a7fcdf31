"""Servers that hang, lie or break off: each a typed error with a remedy, within the time limit, and
nothing left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import hostile_server as hostile
import leaks
import pytest
from hostile_server import (
    BINARY,
    BOUND,
    CLOSE,
    PATIENCE,
    TEXT,
    Peer,
    frame,
    refused_by,
    serving,
    welcome,
)

import arqon
from arqon import errors
from arqon._proto import envelope_pb2 as pb


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


# ---- servers that hang


async def test_a_server_that_never_answers() -> None:
    error = await refused_by(hostile.Peer.silence, errors.ConnectTimeout)
    assert isinstance(error, TimeoutError)


async def test_a_server_that_stops_in_the_middle_of_its_answer() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")
        await peer.silence()

    await refused_by(behave, errors.ConnectTimeout)


async def test_a_server_that_drips_its_answer() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.say(b"X-A: b\r\n")
            await asyncio.sleep(0.1)

    await refused_by(behave, errors.ConnectTimeout)


async def test_a_server_that_never_sends_welcome() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.silence()

    error = await refused_by(behave, errors.ConnectTimeout)
    assert "WELCOME" in str(error)


async def test_a_server_that_stops_in_the_middle_of_welcome() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.say(frame(BINARY, welcome().SerializeToString())[:10])
        await peer.silence()

    await refused_by(behave, errors.ConnectTimeout)


async def test_a_server_that_pings_instead_of_welcoming() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        while True:
            await peer.say(frame(hostile.PING, b""))
            await asyncio.sleep(0.05)

    await refused_by(behave, errors.ConnectTimeout)


async def test_a_server_that_ends_before_welcome() -> None:
    await refused_by(Peer.upgrade, errors.ConnectionLost)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4001, errors.GoingAway),
        (4501, errors.TenantGone),
        (4502, errors.TooManyOffences),
        (1011, errors.ConnectionLost),
        (3000, errors.ConnectionLost),
    ],
)
async def test_a_server_that_closes_before_welcome(code: int, kind: type[arqon.ArqonError]) -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.say(frame(CLOSE, code.to_bytes(2, "big") + b"sorry"))
        await peer.silence()

    await refused_by(behave, kind)


# ---- servers that talk nonsense


@pytest.mark.parametrize("subprotocol", ["mqtt", "arqon.v2", "ARQON.V1"])
async def test_a_subprotocol_that_was_not_offered(subprotocol: str) -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade(subprotocol)
        await peer.silence()

    await refused_by(behave, errors.NotArqonbus)


async def test_a_websocket_server_of_something_else() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade(None)
        await peer.silence()

    await refused_by(behave, errors.NotArqonbus)


JOINED = pb.Envelope(op=pb.OPCODE_JOINED, room="lobby", joined=pb.Joined())

NONSENSE: dict[str, bytes] = {
    "text": frame(TEXT, b"hello"),
    "text in parts": frame(TEXT, b"hel", fin=False) + frame(0, b"lo"),
    "garbage": frame(BINARY, b"\xff" * 64),
    "empty": frame(BINARY, b""),
    "a client's opcode": frame(BINARY, pb.Envelope(op=pb.OPCODE_PING).SerializeToString()),
    "a body that does not fit": frame(
        BINARY, pb.Envelope(op=pb.OPCODE_ACK, joined=pb.Joined()).SerializeToString()
    ),
    "a WELCOME of another version": frame(BINARY, welcome(version=2).SerializeToString()),
    "another frame first": frame(BINARY, JOINED.SerializeToString()),
    "an enormous frame": frame(BINARY, b"", length=2**40),
    "a frame over the limit": frame(BINARY, bytes(2 * 1024 * 1024)),
    "a length with the highest bit": b"\x82\x7f" + b"\xff" * 8,
    "a masked frame": b"\x82\x81\x00\x00\x00\x00a",
    "a reserved bit": b"\xc2\x00",
    "a reserved opcode": b"\x83\x00",
    "a ping that is too long": frame(hostile.PING, bytes(126)),
    "a continuation of nothing": frame(0, b"a"),
    "a message within a message": frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"),
    "a close of one byte": frame(CLOSE, b"\x0f"),
    "a close with a reserved code": frame(CLOSE, (1005).to_bytes(2, "big")),
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_instead_of_welcome(data: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.say(data)
        await peer.silence()

    await refused_by(behave, errors.ServerGarbage)


@pytest.mark.parametrize(
    "data",
    [value for key, value in NONSENSE.items() if key != "another frame first"],
    ids=[key for key in NONSENSE if key != "another frame first"],
)
async def test_nonsense_after_welcome(data: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        await peer.say(data)
        await peer.silence()

    await refused_by(behave, errors.ServerGarbage)


async def test_a_server_that_stops_in_the_middle_of_a_frame() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome(heartbeat=1))
        await peer.say(frame(BINARY, b"x" * 40, length=100))
        await peer.silence()

    error = await refused_by(behave, errors.ConnectionLost)
    assert "heartbeat" in str(error)


async def test_a_server_that_ends_in_the_middle_of_a_frame() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        await peer.say(frame(BINARY, b"x" * 40, length=100))

    await refused_by(behave, errors.ConnectionLost)


async def test_a_frame_of_a_newer_server_is_left_out() -> None:
    newer = frame(BINARY, b"\x08\x7f\x12\x05lobby")  # opcode 127

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        await peer.say(newer)
        await peer.send(pb.Envelope(op=pb.OPCODE_GOAWAY, goaway=pb.Goaway(retry_after_ms=60_000)))
        await peer.silence()

    asked = asyncio.Event()

    def on_event(event: arqon.Event) -> None:
        if isinstance(event, arqon.ReconnectAsked):
            asked.set()

    async with (
        serving(behave) as address,
        arqon.connect(
            f"ws://{address}/",
            token="a.b.c",
            close_timeout=PATIENCE,
            proxy=None,
            on_event=on_event,
        ) as bus,
    ):
        await asyncio.wait_for(asked.wait(), BOUND)
        assert bus.state is arqon.State.CONNECTED


async def test_a_server_that_never_closes_its_side() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        await peer.silence()

    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}/", token="a.b.c", proxy=None, close_timeout=PATIENCE
        )
        await asyncio.wait_for(bus.close(), BOUND)
        assert bus.state is arqon.State.CLOSED


async def test_a_caller_who_gives_up_leaves_nothing() -> None:
    async with serving(hostile.Peer.silence) as address:
        task = asyncio.ensure_future(
            hostile.enter(arqon.connect(f"ws://{address}/", token="a.b.c", proxy=None))
        )
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
