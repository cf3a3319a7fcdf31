"""Rooms whose joining or leaving goes wrong half-way, and arguments that are none."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

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


async def test_a_client_in_another_loop_says_so(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        room = await bus.join("lobby", meta={"a": "b"})
        changes = room.presence.__aiter__()
        assert (await changes.__anext__()).kind == "join"
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.join("side"),
            lambda: bus.publish("lobby", b"x"),
            lambda: room.publish(b"x", ack=True),
            room.get,
            room.events().__anext__,
            room.leave,
            room.presence.get,
            lambda: room.presence.set({}),
            room.presence.__aiter__().__anext__,
            bus.ping,
            bus.refresh,
            lambda: bus.wait_for(arqon.State.CLOSED),
            bus.wait_closed,
            bus.close,
        ]

        async def try_all() -> list[str]:
            told = []
            for call in calls:
                try:
                    while True:
                        await call()
                except RuntimeError as error:
                    told.append(str(error))
            return told

        told = await asyncio.to_thread(lambda: asyncio.run(try_all()))
        assert len(told) == len(calls)
        assert all("another event loop" in each for each in told)
        await room.publish(b"still there", ack=True)


async def test_presence_that_is_not_told_is_no_endless_wait(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        none = await bus.join("none")
        count = await bus.join("count", presence="count")
        for iterator in (
            none.presence.__aiter__(),
            none.presence.counts(),
            count.presence.__aiter__(),
        ):
            with pytest.raises(errors.PresenceNotTold, match="was joined with presence="):
                await iterator.__anext__()
        assert await count.presence.counts().__anext__() == 1


async def test_a_state_is_its_text(gw: arqon.testing.Gateway) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        assert bus.state == "connected"
        await bus.wait_for("connected", timeout=30.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'up'"):
            await bus.wait_for("up")  # type: ignore[arg-type]


async def test_a_forgotten_await_is_named() -> None:
    connecting = arqon.connect("ws://localhost", token="a.b.c")
    with pytest.raises(AttributeError, match=r"not awaited.*\.join"):
        connecting.join  # type: ignore[attr-defined] # noqa: B018
    with (
        pytest.raises(TypeError, match=r"not awaited.*arqon\.sync"),
        connecting,  # type: ignore[attr-defined]
    ):
        pass


@pytest.mark.parametrize(
    ("token", "kind", "told"),
    [
        ("", errors.TokenMissing, "empty"),
        (" \n", errors.TokenMissing, "empty"),
        ("Bearer a.b.c", errors.TokenMalformed, "'Bearer'"),
        ("a\nb", errors.TokenMalformed, "no JWT"),
        (None, TypeError, "None; is the variable set"),
        (b"a.b.c", TypeError, "bytes"),
    ],
)
def test_a_text_that_is_no_token_is_refused_at_once(
    token: object, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        arqon.connect("ws://localhost", token=token)  # type: ignore[arg-type]


def test_a_coroutine_is_no_token_function() -> None:
    async def token() -> str:
        return "a.b.c"

    with pytest.raises(TypeError, match="give the function itself"):
        arqon.connect("ws://localhost", token=token())  # type: ignore[arg-type]


async def test_arguments_of_another_type_are_named(gw: arqon.testing.Gateway) -> None:
    with pytest.raises(TypeError, match="open_timeout is a number of seconds"):
        arqon.connect(gw.url, token="a.b.c", open_timeout="5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_event is a function"):
        arqon.connect(gw.url, token="a.b.c", on_event="x")  # type: ignore[arg-type]
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        with pytest.raises(TypeError, match="echo is True or False"):
            await bus.join("lobby", echo="no")  # type: ignore[arg-type]
        room = await bus.join("lobby")
        with pytest.raises(TypeError, match="publish_text takes text"):
            await room.publish_text(b"x")  # type: ignore[call-overload]
        for publish, payload in ((room.publish, b"x"), (room.publish_text, "x")):
            with pytest.raises(TypeError, match="headers is a mapping"):
                await publish(payload, headers=[("a", "1")])  # type: ignore[call-overload]
        with pytest.raises(errors.HeaderInvalid):
            await room.publish(b"x", headers={"a": 1})  # type: ignore[dict-item]
        assert room.joined


def test_ids_are_new_and_in_order_of_time() -> None:
    ids = [arqon.new_twist_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [each[:13] for each in ids] == sorted(each[:13] for each in ids)
    assert {uuid.UUID(each).version for each in ids} == {7}


async def test_metas_whose_refusal_nobody_heard_do_not_cost_the_room(
    gw: arqon.testing.Gateway,
) -> None:
    def too_large(number: int) -> dict[str, str]:
        return {"a": str(number) * 5000}

    async with arqon.connect(
        gw.url, token=gw.token("ada"), reconnect=arqon.Reconnect(base=0.01)
    ) as bus:
        room = await bus.join("lobby", meta={"a": "good"})
        # Two at once, then one that is cancelled with its answer under way.
        results = await asyncio.gather(
            *(room.presence.set(too_large(number)) for number in (1, 2)), return_exceptions=True
        )
        assert [type(each) for each in results] == [errors.MetaTooLarge] * 2
        setting = asyncio.ensure_future(room.presence.set(too_large(3)))
        await asyncio.sleep(0)
        setting.cancel()
        await asyncio.wait([setting])
        gw.drop_all()
        await until(lambda: bus.reconnects == 1 and room.joined)
        [member] = await room.presence.get()
        assert member.meta == {"a": "good"}


async def test_a_fault_of_the_library_closes_the_client_for_good(
    gw: arqon.testing.Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise MemoryError("no more")

    async with arqon.connect(
        gw.url, token=gw.token("ada"), reconnect=arqon.Reconnect(base=0.01, cap=0.01)
    ) as bus:
        monkeypatch.setattr(bus._core.rooms, "_join", broken)
        with pytest.raises(errors.ConnectionLost, match="a fault of arqon-sdk itself"):
            await bus.join("lobby")
        await gw.wait_until(lambda: not gw.sessions, timeout=30.0)
        supervisor = bus._core._supervisor
        assert supervisor is not None
        await asyncio.wait([supervisor])
        assert bus.state is arqon.State.CLOSED
        assert not gw.sessions


async def test_no_token_is_asked_for_after_closing(gw: arqon.testing.Gateway) -> None:
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        return gw.token("ada")

    async with arqon.connect(gw.url, token=token) as bus:
        pass
    with pytest.raises(errors.ClientClosed):
        await bus.refresh()
    assert calls == 1
