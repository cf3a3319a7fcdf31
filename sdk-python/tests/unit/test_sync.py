"""``arqon.sync``: threads, time-outs, Ctrl-C and endings, against the gateway for tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from children import surroundings
from waiting import LONG

import arqon
import arqon.sync
import arqon.testing
from arqon import _portal
from arqon._portal import Portal

T = TypeVar("T")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a thread, or forks")


class Remote:
    """The gateway for tests, in a thread of its own since these tests block."""

    def __init__(self, portal: Portal, gateway: arqon.testing.Gateway) -> None:
        self._portal = portal
        self._gateway = gateway
        self.before = set(threading.enumerate())
        self.url = gateway.url
        self.token = gateway.token

    def do(self, work: Callable[[arqon.testing.Gateway], T]) -> T:
        """Runs it in the gateway's loop."""

        async def doing() -> T:
            return work(self._gateway)

        return self._portal.run(doing())

    def say(self, *payloads: bytes) -> None:
        """Messages of somebody else in the lobby."""

        def saying(gateway: arqon.testing.Gateway) -> None:
            for payload in payloads:
                gateway.publish("lobby", payload, user="ben")

        self.do(saying)

    def until(self, condition: Callable[[arqon.testing.Gateway], bool]) -> None:
        """Waits until the gateway is in this state."""
        self._portal.run(self._gateway.wait_until(lambda: condition(self._gateway), LONG))


@pytest.fixture
def gw() -> Iterator[Remote]:
    before = set(threading.enumerate())
    portal = Portal()
    gateway = arqon.testing.gateway()
    try:
        portal.run(gateway.start())
        yield Remote(portal, gateway)
        portal.run(gateway.stop())
    finally:
        portal.stop()
    assert set(threading.enumerate()) - before == set()


def in_thread(work: Callable[[], object]) -> Callable[[], object]:
    """Starts it beside the test. Calling what this returns waits for it: its result or error."""
    told: list[object] = []

    def run() -> None:
        try:
            told.append(work())
        except Exception as error:  # the test looks at it
            told.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> object:
        thread.join(LONG)
        assert not thread.is_alive(), "it still waits"
        return told[0]

    return join


def waits(stream: arqon.sync.Stream[T]) -> Callable[[], bool]:
    """Whether a reader waits for this stream's next item."""
    return lambda: stream._next is not None and not stream._next.done()


def own_threads(gw: Remote) -> set[threading.Thread]:
    """Those that were started since."""
    return set(threading.enumerate()) - gw.before


def spin(ready: Callable[[], bool]) -> None:
    """Looks again and again until it is so."""
    pause = threading.Event()
    for _ in range(int(LONG / 0.01)):
        if ready():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (arqon.sync.Client, arqon.Client),
        (arqon.sync.Room, arqon.Room),
        (arqon.sync.Presence, arqon.Presence),
        (arqon.sync.connect, arqon.connect),
    ],
    ids=["Client", "Room", "Presence", "connect"],
)
def test_it_has_whatever_arqon_has(
    ours: Callable[..., object], theirs: Callable[..., object]
) -> None:
    pairs = [(ours, theirs)]
    if inspect.isclass(theirs):
        names = {name for name in dir(theirs) if not name.startswith("_")}
        assert names <= set(dir(ours))
        pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    for our, their in pairs:
        if isinstance(their, property):
            assert isinstance(our, property)
            continue
        mine, model = inspect.signature(our).parameters, inspect.signature(their).parameters
        assert {name: mine[name] for name in model} == dict(model)
        # Whatever waits without end in asyncio, where it can be cancelled, takes a time-out here.
        assert set(mine) - set(model) <= {"timeout"}


def test_a_timeout_keeps_the_place(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby", presence="full")
        changes = room.presence.changes()
        assert changes.get(timeout=LONG).user == "ada"
        for stream in (changes, room.events()):
            with pytest.raises(TimeoutError, match="nothing came in time"):
                stream.get(timeout=0.01)
            # Also without waiting at all.
            with pytest.raises(TimeoutError):
                stream.get(timeout=0)
        with pytest.raises(TimeoutError):
            room.get(timeout=0.01)
        gw.say(b"1")
        gw.say(b"2")
        bus.ping()
        # What comes while nobody reads is taken by whoever reads next, in order.
        assert room.get(timeout=0).payload == b"1"
        assert next(iter(room)).payload == b"2"
        with arqon.sync.connect(gw.url, token=gw.token("ben")) as ben:
            ben.join("lobby", meta={"name": "Ben"})
            change = changes.get(timeout=LONG)
            assert (change.kind, change.user, change.member.meta) == (
                "join",
                "ben",
                {"name": "Ben"},
            )
        assert next(changes).kind == "leave"


def test_counts(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby", presence="count")
        counts = room.presence.counts()
        assert counts.get(timeout=LONG) == 1
        with arqon.sync.connect(gw.url, token=gw.token("ben")) as ben:
            ben.join("lobby", presence="count")
            assert next(counts) == 2
        assert next(counts) == 1
        assert room.presence.count == 1
        assert room.presence.members == {}


def test_gaps_stand_in_their_place(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby", queue_messages=2)
        gw.say(*(b"%d" % number for number in range(5)))
        bus.ping()
        events = room.events()
        assert events.get(timeout=LONG) == arqon.Gap("lobby", arqon.GapReason.LOCAL_OVERFLOW, 3)
        assert room.missed == 3
        assert [room.get(timeout=LONG).payload for _ in range(2)] == [b"3", b"4"]
        # Whoever wants messages only gets no gaps.
        gw.do(lambda gateway: gateway.gap("lobby", reason="sequence", missed=1))
        gw.say(b"last")
        assert room.get(timeout=LONG).payload == b"last"
        assert room.missed == 4


def test_rooms(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        with bus.join("a") as a, bus.join("b") as b:
            assert bus.rooms == {"a": a, "b": b}
            with pytest.raises(arqon.AlreadyJoined):
                bus.join("a")
            a.leave()
            a.leave()
            assert bus.rooms == {"b": b}
            again = bus.join("a")
            assert bus.rooms == {"a": again, "b": b}
            assert list(a) == []
            with pytest.raises(arqon.NotJoined):
                a.get()
            bus.close()
            # Leaving both is harmless now.
        assert bus.rooms == {}
        assert list(again.events()) == []
        assert list(again.presence) == []


def test_threads_that_join_at_once_lose_no_room(
    gw: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    class Slow(arqon.sync.Room):
        def __init__(self, *of: object) -> None:
            # Waits for the other where both may be here.
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            super().__init__(*of)  # type: ignore[arg-type]

    monkeypatch.setattr("arqon.sync.Room", Slow)
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        joins = [in_thread(lambda name=name: bus.join(name)) for name in ("a", "b")]  # type: ignore[misc]
        a, b = (join() for join in joins)
        assert bus.rooms == {"a": a, "b": b}


def test_a_stream_that_is_dropped_leaves_nothing(gw: Remote) -> None:
    bus = arqon.sync.connect(gw.url, token=gw.token("ada"))
    room = bus.join("lobby", presence="full")
    presence = room._room.presence
    kept = room.presence.changes()
    assert kept.get(timeout=LONG).user == "ada"
    for _ in range(10):
        # Where something came, where it is waited for, and where nobody asked.
        assert room.presence.changes().get(timeout=LONG).user == "ada"
        changes, counts = room.presence.changes(), room.presence.counts()
        assert (changes.get(timeout=LONG).user, counts.get(timeout=LONG)) == ("ada", 1)
        for stream in (kept, changes, counts):
            with pytest.raises(TimeoutError):
                stream.get(timeout=0)
        room.presence.changes()
    del changes, counts, stream
    spin(lambda: gc.collect() >= 0 and not presence._counters and len(presence._watchers) == 1)
    with arqon.sync.connect(gw.url, token=gw.token("ben")) as ben:
        ben.join("lobby", presence="count")
        assert kept.get(timeout=LONG).user == "ben"
    unread = room.presence.changes()
    assert unread.get(timeout=LONG).user == "ada"
    with contextlib.suppress(TimeoutError):
        while True:
            unread.get(timeout=0)
    bus.close()
    # Without the loop it is quiet.
    del unread
    gc.collect()


@pytest.mark.parametrize("how", ["leave", "close"])
def test_leaving_and_closing_end_readers_in_other_threads(gw: Remote, how: str) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby", presence="full")
        kinds: list[str] = []

        def watch() -> None:
            for change in room.presence:
                kinds.append(change.kind)

        reader, watcher = in_thread(lambda: list(room)), in_thread(watch)
        spin(waits(room.events()))
        spin(lambda: kinds == ["join"])
        (room.leave if how == "leave" else bus.close)()
        assert reader() == []
        assert watcher() is None
        # Its own leave is not told.
        assert kinds == ["join"]


def test_readers_share_a_room(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby")

        def read() -> list[bytes]:
            got = []
            while (payload := room.get(timeout=LONG).payload) != b"end":
                got.append(payload)
            return got

        readers = [in_thread(read) for _ in range(4)]
        gw.say(*(b"%d" % number for number in range(200)), *[b"end"] * len(readers))
        got: list[bytes] = []
        for join in readers:
            part = join()
            assert isinstance(part, list)
            got += part
        assert sorted(got) == sorted(b"%d" % number for number in range(200))


def test_the_error_that_ends_a_client_is_raised(gw: Remote) -> None:
    bus = arqon.sync.connect(gw.url, token=gw.token("ada"))
    room = bus.join("lobby")
    reader, waiter = in_thread(lambda: list(room)), in_thread(bus.wait_closed)
    spin(waits(room.events()))
    gw.do(lambda gateway: gateway.suspend())
    for told in (reader(), waiter()):
        assert isinstance(told, arqon.ClosedByServer)
    # And by whatever is called now, before it is closed and after.
    for _ in range(2):
        for call in (room.get, room.events().get, lambda: list(room), bus.wait_closed):
            with pytest.raises(arqon.ClosedByServer):
                call()
        assert bus.state is arqon.State.CLOSED
        bus.close()


def test_wait_for(gw: Remote) -> None:
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        bus.wait_for(arqon.State.CONNECTED)
        with pytest.raises(TimeoutError):
            bus.wait_closed(0.01)
        with pytest.raises(TimeoutError):
            bus.wait_for(arqon.State.CLOSED, timeout=0.01)
        waiter = in_thread(bus.wait_closed)
    assert waiter() is None
    with pytest.raises(arqon.ClientClosed):
        bus.wait_for(arqon.State.CONNECTED)


def test_no_thread_is_left(gw: Remote) -> None:
    """The fixture looks, after each test; here are the ways to fail."""
    with pytest.raises(arqon.UrlInvalid):
        arqon.sync.connect("http://127.0.0.1", token="x", on_event=print)
    with pytest.raises(ValueError, match="open_timeout"):
        arqon.sync.connect(gw.url, token="x", open_timeout=0)
    with pytest.raises(arqon.Unreachable):
        arqon.sync.connect("ws://127.0.0.1:1", token="x", on_event=lambda event: None)
    with pytest.raises(arqon.TokenMalformed):
        arqon.sync.connect(gw.url, token="x", on_event=lambda event: None)
    gw.do(lambda gateway: gateway.refuse_next(code="NOT_READY"))
    with pytest.raises(arqon.NotReady):
        arqon.sync.connect(gw.url, token=gw.token("ada"))


def test_two_threads_close_it(gw: Remote) -> None:
    bus = arqon.sync.connect(gw.url, token=gw.token("ada"))
    room = bus.join("lobby")
    for _ in range(100):
        room.publish(b"x")
    closers = [in_thread(bus.close) for _ in range(4)]
    assert [join() for join in closers] == [None] * 4
    # It drained.
    gw.until(lambda gateway: len(gateway.messages) == 100 and gateway.sessions == [])


def test_a_handler_that_hangs_holds_up_nothing_for_long(gw: Remote) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def handler(event: arqon.Event) -> None:
        hangs.set()
        go_on.wait()

    bus = arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler, close_timeout=0.2)
    assert hangs.wait(LONG)
    room = bus.join("lobby")
    room.publish(b"x", ack=True)
    assert room.get(timeout=LONG).payload == b"x"
    bus.close()
    assert bus.state is arqon.State.CLOSED
    go_on.set()
    spin(lambda: not any(each.name == "arqon-events" for each in threading.enumerate()))


def test_a_handler_that_fails_is_logged(gw: Remote, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[arqon.Event] = []

    def handler(event: arqon.Event) -> None:
        seen.append(event)
        raise SystemExit("no") if len(seen) == 1 else LookupError("neither")

    with arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler):
        spin(lambda: len(seen) == 1)
    assert [type(event) for event in seen] == [arqon.StateChanged] * 2
    assert caplog.text.count("on_event failed on StateChanged") == 2
    assert "SystemExit('no')" in caplog.text
    assert "neither" in caplog.text


def test_an_async_handler_that_fails_is_logged(
    gw: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[arqon.Event] = []

    async def handler(event: arqon.Event) -> None:
        seen.append(event)
        raise SystemExit("no")

    with arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler) as bus:
        spin(lambda: len(seen) == 1)
        assert bus.ping() > 0
    assert caplog.text.count("on_event failed on StateChanged") == 2


def gap_closes(bus: arqon.sync.Client, gw: Remote) -> None:
    """The handler gets a gap, and closes the client."""
    bus.join("lobby")
    gw.do(lambda gateway: gateway.gap("lobby"))
    bus.wait_closed(LONG)
    bus._portal._thread.join(LONG)
    assert not bus._portal._thread.is_alive()
    gw.until(lambda gateway: gateway.sessions == [])


def test_a_handler_may_close_it(gw: Remote) -> None:
    def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.Gap):
            bus.close()

    bus = arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler)
    gap_closes(bus, gw)
    spin(lambda: not any(each.name.startswith("arqon-") for each in own_threads(gw)))


def test_an_async_handler_may_close_it_in_a_thread(
    gw: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The threads must not wait for each other.
    monkeypatch.setattr(_portal, "_END", 3600.0)

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.Gap):
            await asyncio.to_thread(bus.close)

    bus = arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler, close_timeout=0.2)
    gap_closes(bus, gw)
    spin(lambda: own_threads(gw) == set())


def test_an_async_handler_cannot_close_it_itself(gw: Remote) -> None:
    told: list[RuntimeError] = []

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.Gap):
            try:
                bus.close()
            except RuntimeError as error:
                told.append(error)

    with arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler) as bus:
        room = bus.join("lobby")
        gw.do(lambda gateway: gateway.gap("lobby"))
        spin(lambda: bool(told))
        assert "in the client's own loop" in str(told[0])
        # Nothing has changed.
        with pytest.raises(TimeoutError, match="the client is connected"):
            bus.wait_closed(0)
        room.publish(b"x", ack=True)
    assert bus.state is arqon.State.CLOSED
    gw.until(lambda gateway: gateway.sessions == [])


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_the_handler_of_a_signal_may_close_it(
    gw: Remote, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = arqon.sync.connect(gw.url, token=gw.token("ada"))
    loop = bus._portal._loop
    schedule = loop.call_soon_threadsafe

    def interrupted(call: Callable[[], object]) -> None:
        monkeypatch.undo()
        if when == "after":
            schedule(call)
        bus.close()
        # Past its look whether it is closed, the loop takes what it will not run.
        if when == "before":
            schedule(call)

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with contextlib.suppress(arqon.ClientClosed):
        bus.ping()
    with pytest.raises(arqon.ClientClosed):
        bus.ping()


def test_no_loop(gw: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> asyncio.AbstractEventLoop:
        raise OSError("too many open files")

    for module in (asyncio, asyncio.events):
        monkeypatch.setattr(module, "new_event_loop", fails)
    with pytest.raises(OSError, match="too many open files"):
        arqon.sync.connect(gw.url, token="x", on_event=lambda event: None)


@pytest.fixture(autouse=True)
def _sigint() -> Iterator[None]:
    # A shell may have started these tests with it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(when: Callable[[], bool]) -> Callable[[], object]:
    """Ctrl-C for the main thread, once it waits."""
    main = threading.main_thread().ident
    assert main is not None
    target = main

    def press() -> None:
        spin(when)
        signal.pthread_kill(target, signal.SIGINT)

    return in_thread(press)


@POSIX
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_ctrl_c_ends_a_wait_and_loses_nothing(
    gw: Remote, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The way to wait that Windows needs works everywhere.
    monkeypatch.setattr("arqon._portal.sys", types.SimpleNamespace(platform=platform))
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby")
        for wait in (room.get, lambda: list(room)):
            pressed = interrupt(waits(room.events()))
            with pytest.raises(KeyboardInterrupt):
                wait()
            pressed()
            gw.say(b"kept")
            assert room.get(timeout=LONG).payload == b"kept"
        gw.do(lambda gateway: gateway.delay_acks(LONG))
        pressed = interrupt(lambda: bool(gw.do(lambda gateway: len(gateway.messages) == 3)))
        with pytest.raises(KeyboardInterrupt):
            room.publish(b"never acknowledged", ack=True)
        pressed()
        assert bus.ping() > 0


@POSIX
def test_ctrl_c_while_connecting_leaves_nothing(gw: Remote) -> None:
    asked = threading.Event()

    async def hangs() -> str:
        asked.set()
        await asyncio.sleep(LONG)
        raise AssertionError("nobody waits any more")

    pressed = interrupt(asked.is_set)
    with pytest.raises(KeyboardInterrupt):
        arqon.sync.connect(gw.url, token=hangs, on_event=lambda event: None)
    pressed()


@POSIX
def test_ctrl_c_ends_the_wait_for_closing_and_it_closes_all_the_same(gw: Remote) -> None:
    blocks, go_on = threading.Event(), threading.Event()

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.Gap):
            blocks.set()
            go_on.wait()

    bus = arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=handler)
    bus.join("lobby")
    gw.do(lambda gateway: gateway.gap("lobby"))
    assert blocks.wait(LONG)

    def unblock() -> None:
        # The loop finds all of it at once: to close, Ctrl-C, to stop.
        spin(lambda: bus._portal._stopped)
        go_on.set()

    pressed, unblocked = interrupt(lambda: bus._closing), in_thread(unblock)
    with pytest.raises(KeyboardInterrupt):
        bus.close()
    pressed()
    unblocked()
    assert bus._client.state is arqon.State.CLOSED
    gw.until(lambda gateway: gateway.sessions == [])


@contextlib.contextmanager
def held(*locks: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Another thread holds these."""
    holds, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            holds.set()
            go_on.wait()

    join = in_thread(hold)
    assert holds.wait(LONG)
    try:
        yield
    finally:
        go_on.set()
        join()


@POSIX
def test_a_process_that_was_forked_off_is_told(gw: Remote) -> None:
    on_event = threading.Event().set
    bus = arqon.sync.connect(gw.url, token=gw.token("ada"), on_event=lambda event: on_event())
    with bus:
        room = bus.join("lobby", presence="full")
        changes = room.presence.changes()
        assert changes.get(timeout=LONG).user == "ada"
        with pytest.raises(TimeoutError):
            changes.get(timeout=0)
        calls: list[Callable[[], object]] = [
            bus.ping,
            bus.refresh,
            lambda: bus.join("other"),
            lambda: bus.wait_for(arqon.State.CONNECTED),
            lambda: room.publish(b"x"),
            room.get,
            lambda: next(iter(room)),
            room.presence.get,
            changes.get,
            lambda: next(changes),
        ]
        with held(bus._portal._lock), warnings.catch_warnings():
            # Python warns of forking with threads, rightly.
            warnings.simplefilter("ignore")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(int(LONG))
                    for call in calls:
                        with pytest.raises(arqon.ClientClosed):
                            call()
                    room.leave()
                    bus.close()
                    bus.wait_closed()
                    assert (bus.state, bus.rooms, room.joined) == (arqon.State.CLOSED, {}, False)
                    status = 42
                finally:
                    os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert bus.ping() > 0
        assert (bus.state, bus.rooms, room.joined) == (arqon.State.CONNECTED, {"lobby": room}, True)


def run_program(gw: Remote, script: str, *options: str) -> tuple[int, str, str]:
    """Its status, what it prints, and its errors."""
    done = subprocess.run(
        [sys.executable, *options, "-c", script, gw.url, gw.token("ada")],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env=surroundings(),
    )
    return done.returncode, done.stdout, done.stderr


@POSIX
def test_a_process_that_was_forked_off_ends(gw: Remote) -> None:
    script = (
        "import os, signal, sys, threading, arqon.sync\n"
        "bus = arqon.sync.connect(sys.argv[1], token=sys.argv[2], on_event=lambda event: None)\n"
        "holds, go_on = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with bus._portal._lock:\n"
        "        holds.set()\n"
        "        go_on.wait()\n"
        "threading.Thread(target=hold, daemon=True).start()\n"
        "holds.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    with arqon.sync.connect(sys.argv[1], token=sys.argv[2]) as own:\n"
        "        own.join('lobby').publish(b'x', ack=True)\n"
        "    sys.exit(42)\n"
        "go_on.set()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "bus.ping()\n"
        "print(bus.reconnects)\n"
    )
    assert run_program(gw, script, "-W", "ignore") == (0, "42\n0\n", "")
    assert gw.do(lambda gateway: len(gateway.messages)) == 1


def test_a_program_that_does_not_close_sends_all_and_ends(gw: Remote) -> None:
    # While it ends it can start no thread, neither for the handler that closes nor for the loop.
    script = (
        "import asyncio, sys, arqon, arqon.sync\n"
        "def tell(event):\n"
        "    if isinstance(event, arqon.StateChanged): print(event.state.value, flush=True)\n"
        "    if event.state is arqon.State.CLOSED: bus.close()\n"
        "async def token(): return await asyncio.to_thread(str, sys.argv[2])\n"
        "bus = arqon.sync.connect(sys.argv[1], token=token, on_event=tell)\n"
        "room = bus.join('lobby')\n"
        "for number in range(1000): room.publish(b'x')\n"
    )
    assert run_program(gw, script, "-W", "error") == (0, "connected\nclosed\n", "")
    assert gw.do(lambda gateway: len(gateway.messages)) == 1000


async def test_async_with_is_named_and_leaves_nothing_open() -> None:
    async with arqon.testing.gateway() as gw:
        # It blocks while it connects, so in a thread of its own.
        bus = await asyncio.to_thread(arqon.sync.connect, gw.url, token=gw.token("ada"))
        entering = asyncio.to_thread(lambda: asyncio.run(_enter(bus)))
        with pytest.raises(TypeError, match=r"used with `with`.*arqon\.connect"):
            await entering
        assert bus.state is arqon.State.CLOSED
        await gw.wait_until(lambda: not gw.sessions, timeout=30.0)


async def _enter(bus: arqon.sync.Client) -> None:
    async with bus:  # type: ignore[attr-defined]
        pass


@POSIX
def test_the_handler_of_a_signal_may_read_where_it_interrupts_a_reader(gw: Remote) -> None:
    heard: list[str] = []
    with arqon.sync.connect(gw.url, token=gw.token("ada")) as bus:
        room = bus.join("lobby")

        def handler(number: int, frame: object) -> None:
            with contextlib.suppress(TimeoutError):
                heard.append(room.get(timeout=0).text())

        before = signal.signal(signal.SIGALRM, handler)
        try:
            # It interrupts somewhere else each time.
            for number in range(300):
                room.publish_text(str(number))
                signal.setitimer(signal.ITIMER_REAL, 0.00005 * (number % 30 + 1))
                with contextlib.suppress(TimeoutError):
                    heard.append(room.get(timeout=0.02).text())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        while len(heard) < 300:
            heard.append(room.get(timeout=LONG).text())
    # The handler may tell what came later first; nothing is lost and nothing comes twice.
    assert sorted(heard, key=int) == [str(number) for number in range(300)]
