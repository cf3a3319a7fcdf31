"""Rooms whose joining or leaving goes wrong half-way, and arguments that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import leaks
import pytest
from waiting import until

import arqon
import arqon.testing
from arqon import errors


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[arqon.testing.Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


NO_META = [
    pytest.param({"a": 1}, TypeError, id="a number"),
    pytest.param({1: "a"}, TypeError, id="a key that is a number"),
    pytest.param({"a": None}, TypeError, id="None"),
    pytest.param(["a"], TypeError, id="a list"),
    pytest.param({"a": "\ud800"}, ValueError, id="half a character"),
]


@pytest.mark.parametrize(("meta", "kind"), NO_META)
async def test_a_meta_that_is_none_changes_nothing(
    gw: arqon.testing.Gateway, meta: object, kind: type[Exception]
) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        with pytest.raises(kind):
            await bus.join("lobby", meta=meta)  # type: ignore[arg-type]
        assert dict(bus.rooms) == {}
        room = await bus.join("lobby", meta={"a": "before"})
        with pytest.raises(kind):
            await room.presence.set(meta)  # type: ignore[arg-type]
        gw.drop_all()
        await until(lambda: bus.reconnects == 1 and room.joined)
        [member] = await room.presence.get()
        assert member.meta == {"a": "before"}


async def test_a_meta_that_changes_later_is_not_sent(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        meta = {"a": "1"}
        room = await bus.join("lobby", meta=meta)
        meta["a"] = 2  # type: ignore[assignment]
        gw.drop_all()
        await until(lambda: bus.reconnects == 1 and room.joined)


async def test_a_refused_join_puts_nobody_else_out(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        gw.fail_next("join", "SPINE_UNAVAILABLE")

        async def first() -> None:
            with pytest.raises(errors.SpineUnavailable):
                await bus.join("lobby")

        async def second() -> arqon.Room:
            while True:
                try:
                    return await bus.join("lobby")
                except errors.AlreadyJoined:
                    await asyncio.sleep(0)

        _, room = await asyncio.gather(first(), second())
        await bus.ping()  # whatever was sent before it has been answered
        assert gw.members("lobby") == ["ada"]
        gw.publish("lobby", b"hi", user="ben")
        assert (await room.get()).payload == b"hi"


async def test_a_join_that_is_cancelled_is_taken_back(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        joining = asyncio.ensure_future(bus.join("lobby"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        await bus.ping()
        assert gw.members("lobby") == []
        assert (await bus.join("lobby")).joined


async def test_leaving_while_a_room_is_being_restored(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(
        gw.url, token=gw.token("ada"), reconnect=arqon.Reconnect(base=0.01)
    ) as bus:
        async with await bus.join("lobby") as room:
            gw.fail_next("join", "SPINE_UNAVAILABLE", 3.0)
            gw.drop_all()
            await until(lambda: bus.reconnects == 1)
            await bus.ping()
            assert not room.joined
        assert dict(bus.rooms) == {}
        await bus.ping()
        assert gw.members("lobby") == []


async def test_nothing_arrives_after_close_even_by_an_old_iterator(
    gw: arqon.testing.Gateway,
) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        iterator = (await bus.join("lobby")).events()
        gw.publish("lobby", b"hi", user="ben")
        await bus.ping()
        gw.close_all(4503)
        with pytest.raises(errors.TokenRevokedClose):
            await bus.wait_closed()
    # What ended the client is told; what was not read is gone.
    with pytest.raises((StopAsyncIteration, errors.TokenRevokedClose)):
        await iterator.__anext__()


@pytest.mark.parametrize("twist_id", ["", "x", "a\nb", "\ud800", 5, "0" * 36])
async def test_an_id_that_is_none(gw: arqon.testing.Gateway, twist_id: object) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        room = await bus.join("lobby")
        for ack in (False, True):
            with pytest.raises(errors.HeaderInvalid, match="twist_id"):
                await room.publish(b"x", ack=ack, twist_id=twist_id)  # type: ignore[call-overload]
        with pytest.raises(errors.HeaderInvalid):
            await room.publish(b"x", headers={"a": "\ud800"})
        given = "018F0000-0000-7000-8000-00000000000A"
        receipt = await room.publish(b"x", ack=True, twist_id=given)
        assert receipt.twist_id == given.lower()
        assert (await room.get()).twist_id == given.lower()


async def test_what_others_publish_raises_only_what_is_documented(
    gw: arqon.testing.Gateway,
) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        room = await bus.join("lobby")
        await room.publish(b"[" * 50_000)
        message = await room.get()
        with pytest.raises(ValueError):
            message.json()
        for time in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", ""):
            message._envelope.headers["X-Timestamp"] = time
            with pytest.raises(errors.ServerGarbage):
                _ = message.timestamp


def test_arguments_that_are_none() -> None:
    for reconnect in (True, False, 5):
        with pytest.raises(TypeError, match="reconnect"):
            arqon.connect("ws://localhost", token="a", reconnect=reconnect)  # type: ignore[arg-type]
    nan, inf = float("nan"), float("inf")
    for policy in (
        {"base": nan},
        {"cap": nan},
        {"base": inf, "cap": inf},
        {"cap": inf},
        {"give_up_after": nan},
        {"base": 0.0},
        {"base": 2.0, "cap": 1.0},
    ):
        with pytest.raises(ValueError, match="Reconnect"):
            arqon.Reconnect(**policy)  # type: ignore[arg-type]
