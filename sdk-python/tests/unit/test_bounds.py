"""What is queued here stays within its bound, whatever the application and the server do."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise

import leaks
import pytest
from hostile_server import Peer, serving, welcome
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

import arqon
import arqon.testing
from arqon import errors
from arqon._inbox import Inbox
from arqon._presence import Watcher
from arqon._proto import envelope_pb2 as pb
from arqon._types import Gap, GapReason, Member, Message, Overflow

SIZE = 10


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[arqon.testing.Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


# ---- messages


def numbered(number: int) -> Message:
    return Message(pb.Envelope(room="lobby", payload=str(number).encode()))


#: A message, a gap of the server's with its count, or the reader takes so many.
_steps = st.lists(
    st.one_of(
        st.just("message"),
        st.tuples(
            st.sampled_from([GapReason.SEQUENCE, GapReason.SLOW_READER]),
            st.one_of(st.none(), st.integers(0, 3)),
        ),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(
    steps=_steps,
    most=st.integers(1, 5),
    most_bytes=st.integers(1, 60),
    overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
)
def test_an_inbox_is_bounded_and_tells_what_it_drops(
    steps: list[str | int | tuple[GapReason, int | None]],
    most: int,
    most_bytes: int,
    overflow: Overflow,
) -> None:
    inbox = Inbox("lobby", most, most_bytes, overflow)
    sent = 0
    by_server: int | None = 0
    read: list[Message | Gap] = []

    def take() -> None:
        reading = inbox.get()
        try:
            reading.send(None)
        except StopIteration as stop:
            read.append(stop.value)

    for step in steps:
        if step == "message":
            inbox.put(numbered(sent), SIZE)
            sent += 1
        elif isinstance(step, tuple):
            inbox.put_gap(Gap("lobby", *step))
            by_server = None if by_server is None or step[1] is None else by_server + step[1]
        elif isinstance(step, int):
            for _ in range(min(step, len(inbox))):
                take()
        # One gap may stand over the bound: at the front for what was dropped, or at the end.
        assert len(inbox) <= most + 1
        held = [item for item, _ in inbox._items if isinstance(item, Message)]
        assert len(held) * SIZE <= most_bytes
    while len(inbox):
        take()
    came = [int(item.text()) for item in read if isinstance(item, Message)]
    assert came == sorted(set(came))
    counts = [item.missed for item in read if isinstance(item, Gap)]
    if by_server is not None:
        assert None not in counts
        assert sum(count or 0 for count in counts) == sent - len(came) + by_server
        assert inbox.missed == sent - len(came) + by_server
    # Where messages are missing, a gap stands between those that came.
    for number, (before, after) in enumerate(pairwise(read)):
        if isinstance(before, Message) and isinstance(after, Message):
            assert int(after.text()) == int(before.text()) + 1, (number, read)


async def test_the_handler_hears_once_that_a_queue_overflows(gw: arqon.testing.Gateway) -> None:
    events: list[arqon.Event] = []
    async with arqon.connect(
        gw.url, token=gw.token("ada"), queue_messages=2, on_event=events.append
    ) as bus:
        room = await bus.join("lobby")

        def gaps() -> list[arqon.Event]:
            return [event for event in events if isinstance(event, Gap)]

        for round_ in (1, 2):
            for number in range(10):
                gw.publish("lobby", str(number).encode())
            await until(lambda want=8 * round_: room.missed == want)  # type: ignore[misc]
            assert gaps() == [Gap("lobby", GapReason.LOCAL_OVERFLOW, None)] * round_
            # Read to its end, it may overflow anew.
            assert [type(item) for item in [await anext_of(room) for _ in range(3)]] == [
                Gap,
                Message,
                Message,
            ]


async def anext_of(room: arqon.Room) -> Message | Gap:
    return await room.events().__anext__()


# ---- what is published


async def test_a_server_that_does_not_read_stops_the_publishers() -> None:
    buffer, payload, count = 100_000, bytes(30_000), 200

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.writer.wait_closed()

    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            send_buffer=buffer,
            request_timeout=1.0,
            close_timeout=0.1,
            reconnect=None,
        )
        link = bus._core.link
        assert link is not None
        transport = link._socket.transport
        results = await asyncio.gather(
            *(bus.publish("lobby", payload) for _ in range(count)), return_exceptions=True
        )
        refused = [each for each in results if each is not None]
        assert refused
        assert all(isinstance(each, errors.SendQueueFull) for each in refused)
        # The kernel takes some of it; what waits here is one write and one message over the bound.
        assert transport.get_write_buffer_size() <= buffer + 64 * 1024 + len(payload) + 100
        assert not link._senders
        with pytest.raises(errors.SendQueueFull):
            await bus.publish("lobby", payload)
        await bus.close()


async def test_publishers_that_wait_for_the_network_go_on_in_their_order() -> None:
    heard: list[bytes] = []
    go = asyncio.Event()
    count = 300

    async def behave(peer: Peer) -> None:
        await peer.upgrade()
        await peer.send(welcome())
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while len(heard) < count:
            head = await peer.reader.readexactly(4)
            mask = await peer.reader.readexactly(4)
            data = await peer.reader.readexactly(int.from_bytes(head[2:], "big"))
            plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[:40]))
            heard.append(plain[plain.index(b"#") :][:5])
        await peer.silence()

    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}",
            token="a.b.c",
            proxy=None,
            send_buffer=50_000,
            request_timeout=20.0,
            close_timeout=0.5,
        )
        link = bus._core.link
        assert link is not None
        publishing = [
            asyncio.ensure_future(bus.publish("lobby", b"#%04d" % number + bytes(30_000)))
            for number in range(count)
        ]
        await until(lambda: len(link._senders) > 10)
        # Those that give up leave no hole in the queue.
        gone = [each for each in publishing if not each.done()][3:6]
        for each in gone:
            each.cancel()
        go.set()
        done = await asyncio.gather(*publishing, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in done) == len(gone)
        more = [
            bus.publish("lobby", b"#%04d" % number + bytes(30_000))
            for number in range(count, count + len(gone))
        ]
        await asyncio.gather(*more)
        await until(lambda: len(heard) == count)
        assert heard == sorted(heard)
        await bus.close()


# ---- presence


def test_a_watcher_that_reads_nothing_holds_who_is_there_and_who_it_told() -> None:
    def member(user: str) -> Member:
        return Member(user, (), 1)

    members = {"ada": member("ada")}
    watcher = Watcher(members)
    change = watcher.next(members)
    assert change is not None
    for number in range(1000):
        user = f"user-{number}"
        members[user] = member(user)
        watcher.touch([user], members)
        del members[user]
        watcher.touch([user], members)
        assert len(watcher._dirty) == 0
    del members["ada"]
    watcher.touch(["ada"], members)
    change = watcher.next(members)
    assert change is not None
    assert (change.kind, change.user) == ("leave", "ada")


# ---- errors


async def test_an_error_that_is_raised_again_and_again_holds_no_frames(
    gw: arqon.testing.Gateway,
) -> None:
    async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
        room = await bus.join("lobby", presence="full")
        gw.close_all(4503)
        with pytest.raises(errors.TokenRevokedClose) as first:
            await bus.wait_closed()

        async def changes() -> None:
            async for _ in room.presence:
                pass

        async def each_way() -> None:
            for call in (
                lambda: room.publish(bytes(20_000)),
                room.get,
                bus.wait_closed,
                changes,
                room.presence.counts().__anext__,
            ):
                with pytest.raises(errors.TokenRevokedClose) as raised:
                    await call()
                assert raised.value is not first.value
                assert str(raised.value) == str(first.value)

        await each_way()
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(200):
                await each_way()
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # One kept payload a round would be 4 MB.
        assert grown < 1_000_000
