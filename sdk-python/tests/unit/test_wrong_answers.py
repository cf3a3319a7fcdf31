"""A server that answers another thing than was asked, or asks for the impossible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import leaks
import pytest
from hostile_server import BINARY, BOUND, PING, Peer, frame, serving, welcome
from waiting import until

import arqon
from arqon import errors
from arqon._proto import envelope_pb2 as pb

TWIST = "018f0000-0000-7000-8000-00000000000a"
Answer = Callable[[pb.Envelope], pb.Envelope | None]


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


async def next_request(peer: Peer) -> pb.Envelope:
    """The next frame of the protocol that the client sends."""
    while True:
        first, second = await peer.reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await peer.reader.readexactly(2), "big")
        mask = await peer.reader.readexactly(4)
        data = await peer.reader.readexactly(size)
        if first & 0xF == BINARY:
            plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            return pb.Envelope.FromString(plain)


def joined(request: pb.Envelope) -> pb.Envelope:
    body = pb.Joined(presence=request.join.presence)
    return pb.Envelope(op=pb.OPCODE_JOINED, room=request.room, ref=request.ref, joined=body)


@asynccontextmanager
async def client(
    answers: dict[int, Answer],
    *,
    then: Callable[[Peer], Awaitable[None]] | None = None,
    greeting: pb.Envelope | None = None,
    **options: object,
) -> AsyncIterator[arqon.Client]:
    """A client of a server that answers each opcode so; joining it answers well."""

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(greeting or welcome())
        while True:
            request = await next_request(peer)
            answer = answers.get(request.op, joined if request.op == pb.OPCODE_JOIN else None)
            told = None if answer is None else answer(request)
            if told is not None:
                await peer.send(told)
            if request.op == pb.OPCODE_JOIN and then is not None:
                await then(peer)

    settings: dict[str, object] = {"reconnect": None, "request_timeout": BOUND, **options}
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            close_timeout=1.0,
            **settings,  # type: ignore[arg-type]
        )
        try:
            yield bus
        finally:
            await bus.close()


def told(op: int, **body: object) -> Answer:
    return lambda request: pb.Envelope(
        op=op,  # type: ignore[arg-type]
        room=request.room,
        ref=request.ref,
        **body,  # type: ignore[arg-type]
    )


NO_ACK = [
    pytest.param(told(pb.OPCODE_PONG), id="PONG"),
    pytest.param(told(pb.OPCODE_REFRESHED, refreshed=pb.Refreshed()), id="REFRESHED"),
    pytest.param(told(pb.OPCODE_JOINED, joined=pb.Joined()), id="JOINED"),
    pytest.param(told(pb.OPCODE_LEFT, left=pb.Left(code=3004)), id="LEFT"),
    pytest.param(told(pb.OPCODE_ACK, ack=pb.Ack(twist_id=TWIST)), id="ACK of another message"),
    pytest.param(told(pb.OPCODE_ACK, ack=pb.Ack()), id="ACK of none"),
    *(
        pytest.param(told(pb.OPCODE_ERROR, error=pb.Error(code=code)), id=f"ERROR {code}")
        for code in (0, 999, 4001, 5010, 5013, 5014)
    ),
]


@pytest.mark.parametrize("answer", NO_ACK)
async def test_what_is_no_acknowledgement_leaves_a_publish_uncertain(answer: Answer) -> None:
    async with client({pb.OPCODE_PUBLISH: answer}) as bus:
        room = await bus.join("lobby")
        with pytest.raises(errors.PublishUncertain) as raised:
            await room.publish(b"x", ack=True)
        assert raised.value.twist_id
        with pytest.raises(errors.ServerGarbage, match="PROTOCOL_MISMATCH"):
            await bus.wait_closed()


@pytest.mark.parametrize("op", ["ACK", "PONG", "LEFT"])
async def test_what_is_no_answer_to_join_joins_nothing(op: str) -> None:
    bodies: dict[str, dict[str, object]] = {"ACK": {"ack": pb.Ack()}, "LEFT": {"left": pb.Left()}}
    answer = told(pb.Opcode.Value(f"OPCODE_{op}"), **bodies.get(op, {}))
    async with client({pb.OPCODE_JOIN: answer}) as bus:
        with pytest.raises(errors.ServerGarbage, match="JOIN of lobby"):
            await bus.join("lobby")
        assert dict(bus.rooms) == {}


async def test_other_requests_take_only_their_answer() -> None:
    async with client({pb.OPCODE_PRESENCE_GET: told(pb.OPCODE_PONG)}) as bus:
        room = await bus.join("lobby")
        with pytest.raises(errors.ConnectionLost):
            await room.presence.get()
    async with client({pb.OPCODE_REFRESH: told(pb.OPCODE_PONG)}) as bus:
        with pytest.raises(errors.ConnectionLost):
            await bus.refresh()
        assert bus.session.expires_at.year > 2000
    async with client({pb.OPCODE_PING: told(pb.OPCODE_ACK, ack=pb.Ack())}) as bus:
        with pytest.raises(errors.ConnectionLost):
            await bus.ping()


async def test_a_second_joined_is_no_gap() -> None:
    def twice(request: pb.Envelope) -> pb.Envelope:
        again.append(joined(request))
        return again[0]

    again: list[pb.Envelope] = []

    async def then(peer: Peer) -> None:
        await peer.send(again[0])
        message = pb.Envelope(op=pb.OPCODE_MESSAGE, room="lobby", payload=b"hi")
        message.message.sender.user = "ben"
        await peer.send(message)

    async with client({pb.OPCODE_JOIN: twice}, then=then) as bus:
        room = await bus.join("lobby")
        first = await asyncio.wait_for(room.events().__anext__(), BOUND)
        assert isinstance(first, arqon.Message)


# ---- without end


def member(number: int) -> pb.PresenceMember:
    return pb.PresenceMember(
        user=f"user-{number}", sessions=[pb.PresenceMeta(session="s", meta={"a": "b" * 1000})]
    )


def page(ref: int, at: int, size: int = 500) -> pb.Envelope:
    state = pb.PresenceState(
        members=[member(at + each) for each in range(size)], count=1, last_page=False
    )
    return pb.Envelope(op=pb.OPCODE_PRESENCE_STATE, room="lobby", ref=ref, presence_state=state)


async def test_a_presence_without_end_is_given_up() -> None:
    async def then(peer: Peer) -> None:
        at = 0
        while True:
            await peer.send(page(0, at))
            at += 500

    async with client({}, then=then) as bus:
        with pytest.raises(errors.ServerGarbage, match="does not end"):
            await asyncio.gather(bus.join("lobby", presence="full"), bus.wait_closed())


async def test_an_answer_without_end_is_given_up() -> None:
    async with client({pb.OPCODE_PRESENCE_GET: lambda request: page(request.ref, 0)}) as bus:
        room = await bus.join("lobby")
        link = bus._core.link
        assert link is not None
        request = asyncio.ensure_future(room.presence.get())
        await until(lambda: len(bus._core.requests) == 1)
        ref = link._next_ref
        one = page(ref, 0)
        size = one.ByteSize()
        for _ in range(32 * 1024 * 1024 // size + 2):
            bus._core._dispatch.frame(link, one, size)
        with pytest.raises(errors.ConnectionLost):
            await request
        with pytest.raises(errors.ServerGarbage, match="PRESENCE_GET of lobby does not end"):
            await bus.wait_closed()


async def test_pages_that_nobody_asked_for_are_not_kept() -> None:
    async with client({}) as bus:
        room = await bus.join("lobby", presence="full")
        link = bus._core.link
        assert link is not None
        for ref in range(100, 200):
            bus._core._dispatch.frame(link, page(ref, 0, 1), 100)
        assert len(room.presence._pages) == 0
        # The first state has the id of JOIN.
        bus._core._dispatch.frame(link, page(min(room._join_refs), 0, 1), 100)
        assert len(room.presence._pages) == 1


async def test_empty_fragments_take_no_memory() -> None:
    async def then(peer: Peer) -> None:
        await peer.say(frame(BINARY, b"", fin=False) + frame(0, b"", fin=False) * 1000)
        message = pb.Envelope(op=pb.OPCODE_MESSAGE, room="lobby", payload=b"hi")
        message.message.sender.user = "ben"
        await peer.say(frame(0, message.SerializeToString()))

    async with client({}, then=then) as bus:
        room = await bus.join("lobby")
        assert (await asyncio.wait_for(room.get(), BOUND)).payload == b"hi"
        link = bus._core.link
        assert link is not None
        assert link._socket._parts == b""


async def test_a_server_that_pings_and_does_not_read_is_left() -> None:
    async def then(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            await peer.say(frame(PING, b"x" * 125) * 100)

    async with client({}, then=then, send_buffer=1024) as bus:
        with pytest.raises(errors.ServerGarbage, match="does not read the answers"):
            await asyncio.gather(bus.join("lobby"), bus.wait_closed())


# ---- absurd numbers


async def test_a_limit_that_forbids_all_frames_hides_no_dead_server() -> None:
    greeting = welcome(heartbeat=1)
    greeting.welcome.limits.max_frame_bytes = 1
    async with client({}, greeting=greeting) as bus:
        with pytest.raises(errors.PayloadTooLarge):
            await bus.publish("lobby", b"x")
        with pytest.raises(errors.ConnectionLost, match="two heartbeats"):
            await asyncio.wait_for(bus.wait_closed(), BOUND)


async def test_a_heartbeat_of_years_is_taken_as_the_longest_there_is() -> None:
    async with client({}, greeting=welcome(heartbeat=2**32 - 1)) as bus:
        link = bus._core.link
        assert link is not None
        assert link._heartbeat is not None
        # By the loop's clock of milliseconds, in uvloop.
        assert link._heartbeat.when() - bus._core.loop.time() <= 151.0


async def test_goaway_after_each_welcome_is_followed_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.upgrade()
        await peer.send(welcome())
        await peer.send(pb.Envelope(op=pb.OPCODE_GOAWAY, goaway=pb.Goaway()))
        await peer.silence()

    waits: list[float] = []
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            close_timeout=0.05,
            reconnect=arqon.Reconnect(base=0.001, cap=1000.0),
        )
        after = bus._core._backoff.after

        def noted(error: arqon.ArqonError, without_session: float) -> float:
            waits.append(after(error, without_session))
            return waits[-1]

        monkeypatch.setattr(bus._core._backoff, "after", noted)
        await until(lambda: len(waits) >= 8)
        await bus.close()
    # Full jitter doubles its bound: without it this would be a connection for every round trip.
    assert connections <= len(waits) + 1
    assert max(waits) > 0.0


async def test_goaway_of_weeks_ends_with_the_patience_of_the_application() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        far = pb.Goaway(retry_after_ms=2**32 - 1, spread_ms=2**32 - 1)
        await peer.send(pb.Envelope(op=pb.OPCODE_GOAWAY, goaway=far))
        await peer.say(frame(0x8, (4001).to_bytes(2, "big")))
        await peer.silence()

    asked: list[arqon.Event] = []
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            reconnect=arqon.Reconnect(give_up_after=0.2),
            on_event=asked.append,
        )
        with pytest.raises(errors.ReconnectGivenUp):
            await asyncio.wait_for(bus.wait_closed(), BOUND)
        await bus.close()
    after = [event.after for event in asked if isinstance(event, arqon.ReconnectAsked)]
    assert after == [3600.0]


async def test_a_wait_of_weeks_in_an_error_is_an_hour() -> None:
    refusal = pb.Error(code=3701, retry_after_ms=2**32 - 1)
    async with client({pb.OPCODE_PUBLISH: told(pb.OPCODE_ERROR, error=refusal)}) as bus:
        with pytest.raises(errors.RateLimited) as raised:
            await bus.publish("lobby", b"x", ack=True)
        assert raised.value.retry_after == 3600.0


async def test_a_token_that_always_expires_is_not_refreshed_in_a_loop() -> None:
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        return f"a.b.{calls}"

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        soon = pb.TokenExpiring(expires_at=4_000_000_000)
        await peer.send(pb.Envelope(op=pb.OPCODE_TOKEN_EXPIRING, token_expiring=soon))
        while True:
            request = await next_request(peer)
            body = pb.Refreshed(expires_at=4_000_000_000)
            await peer.send(pb.Envelope(op=pb.OPCODE_REFRESHED, ref=request.ref, refreshed=body))
            await peer.send(pb.Envelope(op=pb.OPCODE_TOKEN_EXPIRING, token_expiring=soon))

    async with serving(behave) as address:
        bus = await arqon.connect(f"ws://{address}", token=token, proxy=None)
        await until(lambda: calls >= 2)
        # The next one was asked for, and waits.
        await until(lambda: bus._core._expiring == bus._core.refreshes == 1)
        assert calls == 2
        await until(lambda: calls >= 3)
        await bus.close()


# ---- frames that cross or come late


async def test_goaway_is_followed_though_the_server_takes_nothing() -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.upgrade()
        await peer.send(welcome())
        if connections == 1:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await full.wait()
            await peer.send(pb.Envelope(op=pb.OPCODE_GOAWAY, goaway=pb.Goaway()))
            await over.wait()
        await peer.silence()

    full, over = asyncio.Event(), asyncio.Event()
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            send_buffer=65_536,
            request_timeout=BOUND,
            close_timeout=0.2,
            reconnect=arqon.Reconnect(base=0.01, cap=0.01),
        )
        link = bus._core.link
        assert link is not None
        publishing = [
            asyncio.ensure_future(bus.publish("lobby", bytes(50_000))) for _ in range(300)
        ]
        await until(lambda: len(link._senders) > 10)
        full.set()
        # Those that waited leave on the next connection.
        assert await asyncio.gather(*publishing) == [None] * 300
        assert bus.reconnects == 1
        await bus.close()
        over.set()


async def test_a_join_that_is_answered_after_its_time_has_its_presence() -> None:
    connections = 0

    async def behave(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.upgrade()
        await peer.send(welcome())
        first = await next_request(peer)
        state = pb.PresenceState(members=[member(connections)], count=1, last_page=True)
        if connections == 1:
            await peer.send(joined(first))
        else:
            second = await next_request(peer)
            assert (first.op, second.op) == (pb.OPCODE_JOIN, pb.OPCODE_JOIN)
            await peer.send(joined(first))
            error = pb.Error(code=3002, name="ALREADY_JOINED")
            await peer.send(
                pb.Envelope(op=pb.OPCODE_ERROR, room="lobby", ref=second.ref, error=error)
            )
        await peer.send(
            pb.Envelope(
                op=pb.OPCODE_PRESENCE_STATE, room="lobby", ref=first.ref, presence_state=state
            )
        )
        await (cut.wait() if connections == 1 else peer.silence())

    cut = asyncio.Event()
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            request_timeout=0.5,
            close_timeout=0.2,
            reconnect=arqon.Reconnect(base=0.01, cap=0.01),
        )
        room = await bus.join("lobby", presence="full")
        await until(lambda: "user-1" in room.presence.members)
        cut.set()
        await until(lambda: room.joined and room.presence.ready and bus.reconnects == 1)
        assert list(room.presence.members) == ["user-2"]
        await bus.close()


@pytest.mark.parametrize("who", ["server twice", "application"])
async def test_one_refresh_is_enough_for_what_is_told_while_it_runs(who: str) -> None:
    later = 4_000_000_000

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        greeting = welcome()
        greeting.welcome.token_expires_at = later - 3600
        await peer.send(greeting)
        soon = pb.Envelope(
            op=pb.OPCODE_TOKEN_EXPIRING, token_expiring=pb.TokenExpiring(expires_at=later - 3600)
        )
        if who == "server twice":
            await peer.send(soon)
            await peer.send(soon)
        request = await next_request(peer)
        # It crosses the request.
        await peer.send(soon)
        asked.set()
        await peer.send(
            pb.Envelope(
                op=pb.OPCODE_REFRESHED,
                ref=request.ref,
                refreshed=pb.Refreshed(expires_at=later),
            )
        )
        await peer.silence()

    asked = asyncio.Event()
    tokens = iter(["a.b.1"])
    events: list[arqon.Event] = []
    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            # One that is cached, as identity libraries do.
            token=lambda: next(tokens, "a.b.2"),
            proxy=None,
            on_event=events.append,
            close_timeout=0.2,
        )
        if who == "application":
            await bus.refresh()
        await asked.wait()
        await until(lambda: bus._core.refreshes == 1)
        task = bus._core._refreshing
        assert task is not None
        await asyncio.wait_for(task, BOUND)  # it would go on for as long as the connection
        await bus.close()
    assert sum(isinstance(event, arqon.TokenRefreshed) for event in events) == 1
    assert not [event for event in events if isinstance(event, arqon.TokenRefreshFailed)]


async def test_the_end_of_a_membership_does_not_end_the_next() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        await peer.send(joined(await next_request(peer)))
        leave, join = await next_request(peer), await next_request(peer)
        assert (leave.op, join.op) == (pb.OPCODE_LEAVE, pb.OPCODE_JOIN)
        # It ended by itself, before LEAVE was read.
        ended = pb.Left(code=3004, name="JOIN_FORBIDDEN")
        await peer.send(pb.Envelope(op=pb.OPCODE_LEFT, room="lobby", left=ended))
        error = pb.Error(code=3001, name="NOT_JOINED")
        await peer.send(pb.Envelope(op=pb.OPCODE_ERROR, room="lobby", ref=leave.ref, error=error))
        await peer.send(joined(join))
        await peer.silence()

    async with serving(behave) as address:
        bus = await arqon.connect(f"ws://{address}", token="a.b.c", proxy=None, close_timeout=0.2)
        room = await bus.join("lobby")
        _, again = await asyncio.gather(room.leave(), bus.join("lobby"))
        assert again.joined
        assert dict(bus.rooms) == {"lobby": again}
        await bus.close()


async def test_a_room_that_was_given_up_is_not_joined_by_a_late_answer() -> None:
    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        join, leave = await next_request(peer), await next_request(peer)
        error = pb.Error(code=3002, name="ALREADY_JOINED")
        await peer.send(pb.Envelope(op=pb.OPCODE_ERROR, room="lobby", ref=join.ref, error=error))
        await peer.send(joined(join))
        await peer.send(pb.Envelope(op=pb.OPCODE_LEFT, room="lobby", ref=leave.ref, left=pb.Left()))
        ping = await next_request(peer)
        await peer.send(pb.Envelope(op=pb.OPCODE_PONG, ref=ping.ref))
        await peer.silence()

    async with serving(behave) as address:
        bus = await arqon.connect(f"ws://{address}", token="a.b.c", proxy=None, close_timeout=0.2)
        joining = asyncio.ensure_future(bus.join("lobby"))
        await until(lambda: "lobby" in bus.rooms)
        room = bus.rooms["lobby"]
        await until(lambda: bool(room._join_refs))
        joining.cancel()
        await asyncio.wait([joining])
        await bus.ping()
        assert not room.joined
        assert dict(bus.rooms) == {}
        await bus.close()
