"""Lost connections, drains, frozen servers and tokens that expire, against a real ArqonBus."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable

import pytest
from leaks import none_left
from live_stack import Stack
from waiting import LONG, until

import arqon


async def in_thread(stack_call: Callable[..., None], *arguments: str) -> None:
    """A part is started or stopped while the loop goes on."""
    await asyncio.to_thread(stack_call, *arguments)


async def test_rooms_and_presence_come_back(own_stack: Stack) -> None:
    events: list[arqon.Event] = []
    quick = arqon.Reconnect(base=0.05, cap=0.2)
    async with (
        none_left(),
        arqon.connect(
            own_stack.url, token=own_stack.token, reconnect=quick, on_event=events.append
        ) as bus,
    ):
        room = await bus.join("lobby", meta={"name": "Ada"})
        await room.presence.set({"name": "Ada L."})
        before = bus.session
        await in_thread(own_stack.kill, "shield")
        await bus.wait_for(arqon.State.RECONNECTING, LONG)
        assert not room.joined
        # What was not sent is safe to wait: it goes as soon as there is a room again.
        publishing = asyncio.ensure_future(room.publish(b"after", ack=True))
        await in_thread(own_stack.start_shield)
        await asyncio.wait_for(publishing, LONG)
        assert bus.reconnects == 1
        assert before is not None
        assert bus.session.id != before.id
        stream = room.events()
        gap = await asyncio.wait_for(anext(stream), LONG)
        assert gap == arqon.Gap("lobby", arqon.GapReason.RECONNECTED, None)
        message = await asyncio.wait_for(anext(stream), LONG)
        assert isinstance(message, arqon.Message)
        assert message.payload == b"after"
        await asyncio.wait_for(seen(room, bus.session.id, {"name": "Ada L."}), LONG)
    states = [event.state for event in events if isinstance(event, arqon.StateChanged)]
    assert states == [
        arqon.State.CONNECTED,
        arqon.State.RECONNECTING,
        arqon.State.CONNECTED,
        arqon.State.CLOSED,
    ]


async def test_an_acknowledgement_that_was_cut_is_uncertain(own_stack: Stack) -> None:
    async with arqon.connect(own_stack.url, token=own_stack.token()) as bus:
        room = await bus.join("lobby")
        with own_stack.frozen("nats"):
            # Shield has the message and gets no answer of the Spine.
            sent = asyncio.ensure_future(room.publish(b"where am I", ack=True))
            await bus.ping()
            await in_thread(own_stack.kill, "shield")
            with pytest.raises(arqon.PublishUncertain) as cut:
                await asyncio.wait_for(sent, LONG)
        assert not cut.value.retryable
        assert cut.value.twist_id in str(cut.value)


async def test_the_spine_that_hangs_makes_a_publish_uncertain(own_stack: Stack) -> None:
    async with arqon.connect(own_stack.url, token=own_stack.token()) as bus:
        room = await bus.join("lobby")
        with own_stack.frozen("nats"), pytest.raises(arqon.PublishUncertain) as unknown:
            await asyncio.wait_for(room.publish(b"x", ack=True), LONG)
        assert isinstance(unknown.value.__cause__, arqon.AckUnknown)
        assert bus.reconnects == 0


async def test_a_drain_asks_for_a_reconnect(tmp_path: pathlib.Path) -> None:
    with Stack(tmp_path, {"drain": {"spread_secs": 1}}) as stack:
        events: list[arqon.Event] = []
        quick = arqon.Reconnect(base=0.05, cap=0.2)
        async with arqon.connect(
            stack.url, token=stack.token, reconnect=quick, on_event=events.append
        ) as bus:
            room = await bus.join("lobby")
            stack.terminate("shield")
            await bus.wait_for(arqon.State.RECONNECTING, LONG)
            await in_thread(stack.wait, "shield")
            await in_thread(stack.start_shield)
            await asyncio.wait_for(room.publish(b"x", ack=True), LONG)
        assert any(isinstance(event, arqon.ReconnectAsked) for event in events)


async def test_a_server_that_hangs_is_noticed(own_stack: Stack) -> None:
    """The heartbeat of `own_stack` is a second."""
    async with arqon.connect(
        own_stack.url, token=own_stack.token(), open_timeout=0.5, close_timeout=0.5
    ) as bus:
        room = await bus.join("lobby")
        with own_stack.frozen("shield"):
            await bus.wait_for(arqon.State.RECONNECTING, LONG)
            error = bus.last_error
            assert isinstance(error, (arqon.ConnectionLost, arqon.ConnectTimeout))
            # Its port still takes connections; each try ends by its own time limit.
            await until(lambda: isinstance(bus.last_error, arqon.ConnectTimeout))
        await asyncio.wait_for(room.publish(b"x", ack=True), LONG)


async def test_an_idle_client_is_not_taken_for_dead(own_stack: Stack) -> None:
    async with arqon.connect(own_stack.url, token=own_stack.token()) as bus:
        await asyncio.sleep(3.5)  # more than two heartbeats in which nobody says anything
        assert bus.state is arqon.State.CONNECTED
        assert bus.reconnects == 0


async def test_a_spine_that_restarts_is_a_gap(own_stack: Stack) -> None:
    events: list[arqon.Event] = []
    token = own_stack.token()
    async with arqon.connect(own_stack.url, token=token, on_event=events.append) as bus:
        room = await bus.join("lobby")
        await in_thread(own_stack.kill, "nats")
        with pytest.raises((arqon.SpineUnavailable, arqon.PublishUncertain)):
            await asyncio.wait_for(room.publish(b"x", ack=True), LONG)
        await in_thread(own_stack.start_nats)
        stream = room.events()
        got = await asyncio.wait_for(anext(stream), LONG)
        while not isinstance(got, arqon.Gap):
            got = await asyncio.wait_for(anext(stream), LONG)
        assert got.reason is arqon.GapReason.SPINE_RECONNECTED
        assert bus.reconnects == 0


async def test_a_token_is_refreshed_on_the_live_session(stack: Stack) -> None:
    events: list[arqon.Event] = []
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        # The first one expires soon; the next one does not.
        ttl = "4s" if asked == 1 else "1h"
        return await asyncio.to_thread(lambda: stack.token("ann", ttl=ttl))

    async with arqon.connect(stack.url, token=get_token, on_event=events.append) as bus:
        session = bus.session
        room = await bus.join("refreshed")
        await until(lambda: any(isinstance(event, arqon.TokenRefreshed) for event in events))
        await asyncio.sleep(6)  # past the expiry of the first, and Shield's grace
        assert bus.reconnects == 0
        assert session is not None
        assert bus.session.id == session.id
        assert bus.session.expires_at > session.expires_at
        await room.publish(b"x", ack=True)
    assert asked == 2


async def test_narrowed_rights_take_a_room_away(stack: Stack) -> None:
    events: list[arqon.Event] = []
    tokens = iter([stack.token("ann"), stack.token("ann", join="kept")])
    async with arqon.connect(stack.url, token=lambda: next(tokens), on_event=events.append) as bus:
        kept, lost = await bus.join("kept"), await bus.join("lost")
        await bus.refresh()
        with pytest.raises(arqon.JoinForbidden):
            await asyncio.wait_for(lost.get(), LONG)
        assert kept.joined
        assert list(bus.rooms) == ["kept"]
    assert any(isinstance(event, arqon.RoomLeft) and event.room == "lost" for event in events)


async def test_a_token_of_another_user_is_no_refresh(stack: Stack) -> None:
    tokens = iter([stack.token("ann"), stack.token("bob")])
    async with arqon.connect(stack.url, token=lambda: next(tokens)) as bus:
        with pytest.raises(arqon.TokenMismatch):
            await bus.refresh()
        assert bus.state is arqon.State.CONNECTED


async def test_a_text_that_expires_ends_the_client(stack: Stack) -> None:
    events: list[arqon.Event] = []
    token = stack.token("ann", ttl="2s")
    async with none_left(), arqon.connect(stack.url, token=token, on_event=events.append) as bus:
        with pytest.raises(arqon.TokenExpired):
            await asyncio.wait_for(bus.wait_closed(), LONG)
    failed = [event for event in events if isinstance(event, arqon.TokenRefreshFailed)]
    assert len(failed) == 1
    assert "give a function" in str(failed[0].error)


async def seen(room: arqon.Room, session: str, meta: dict[str, str]) -> None:
    """Waits until the room shows that session, with that meta."""
    async for change in room.presence:
        if change.member.sessions[0].session == session:
            assert change.member.meta == meta
            return
