"""Trace context: what is sent of it, what is made of what came, and that nothing needs it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import leaks
import pytest
from children import surroundings
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from waiting import LONG, until

import arqon
import arqon.sync
import arqon.testing
from arqon import _trace, _wire
from arqon._portal import Portal
from arqon._proto import envelope_pb2 as pb
from arqon.testing import Gateway, Settings

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
PARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
FAST = arqon.Reconnect(base=0.01, cap=0.05)
# No global one: that would be every test's.
tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


@pytest.fixture
async def bus(gw: Gateway) -> AsyncIterator[arqon.Client]:
    async with arqon.connect(
        gw.url, token=lambda: gw.token("ada", role="service"), reconnect=FAST, proxy=None
    ) as client:
        yield client


def span(
    trace_id: int = TRACE, span_id: int = SPAN, flags: int = 1, state: TraceState | None = None
) -> trace.Span:
    """A span that is known by its context only."""
    told = SpanContext(trace_id, span_id, False, TraceFlags(flags), state)
    return NonRecordingSpan(told)


def text_of(span: trace.Span) -> str:
    """Its `traceparent`."""
    told = span.get_span_context()
    return f"00-{told.trace_id:032x}-{told.span_id:016x}-{told.trace_flags:02x}"


def message(**headers: str) -> arqon.Message:
    return arqon.Message(pb.Envelope(op=pb.OPCODE_MESSAGE, room="lobby", headers=headers))


def parents(gw: Gateway) -> list[str | None]:
    """What came with each message so far."""
    return [each.headers.get("traceparent") for each in gw.messages]


# ---- what is sent


Publish = Callable[[arqon.Client, arqon.Room], Awaitable[object]]


@pytest.mark.parametrize(
    "publish",
    [
        lambda bus, room: room.publish(b"a"),
        lambda bus, room: room.publish(b"a", ack=True),
        lambda bus, room: room.publish(b"a", headers={"lang": "en"}),
        lambda bus, room: room.publish_text("a"),
        lambda bus, room: room.publish_text("a", ack=True),
        lambda bus, room: room.publish_json([1]),
        lambda bus, room: room.publish_json([1], ack=True, headers={"lang": "en"}),
        lambda bus, room: bus.publish("lobby", b"a"),
        lambda bus, room: bus.publish("elsewhere", b"a", ack=True),
    ],
)
async def test_the_current_span_is_sent(gw: Gateway, bus: arqon.Client, publish: Publish) -> None:
    room = await bus.join("lobby")
    await publish(bus, room)
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner") as inner:
        await publish(bus, room)
    await publish(bus, room)
    await gw.wait_until(lambda: len(gw.messages) == 3)
    assert parents(gw) == [None, text_of(inner), None]


@pytest.mark.parametrize(
    "invalid",
    [trace.INVALID_SPAN, span(trace_id=0), span(span_id=0)],
    ids=["none", "no trace", "no span"],
)
async def test_a_span_that_is_none_is_not_sent(
    gw: Gateway, bus: arqon.Client, invalid: trace.Span
) -> None:
    room = await bus.join("lobby")
    with trace.use_span(invalid):
        # Not left to the gateway, which would drop it.
        assert _trace.current() is None
        await room.publish(b"a", ack=True)
    assert parents(gw) == [None]


async def test_flags_are_sent_as_they_are(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("tests")
    with unsampled.start_as_current_span("a") as off:
        await room.publish(b"a", ack=True)
    for flags in (0, 1, 3):
        with trace.use_span(span(flags=flags)):
            await room.publish(b"a", ack=True)
    rest = f"00-{TRACE:032x}-{SPAN:016x}"
    assert parents(gw) == [text_of(off), f"{rest}-00", f"{rest}-01", f"{rest}-03"]
    assert text_of(off)[-2:] in ("00", "02")  # The second bit says that the id is random.


async def test_nothing_else_of_a_trace_is_sent(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    token = context.attach(baggage.set_baggage("user", "7"))
    try:
        with trace.use_span(span(state=TraceState([("vendor", "secret")]))):
            await room.publish(b"a", ack=True)
    finally:
        context.detach(token)
    assert set(gw.messages[0].headers) == {"traceparent", "X-Twist-ID", "X-Timestamp"}
    assert parents(gw) == [PARENT]


@pytest.mark.parametrize("ack", [False, True])
async def test_a_header_of_the_application_wins(gw: Gateway, bus: arqon.Client, ack: bool) -> None:
    room = await bus.join("lobby")
    with trace.use_span(span()):
        for own in (OTHER, "", "malformed"):
            headers = {"traceparent": own}
            await room.publish(b"a", ack=ack, headers=headers)
            assert headers == {"traceparent": own}
        await room.publish(b"a", ack=ack, headers={"lang": "en"})
    await gw.wait_until(lambda: len(gw.messages) == 4)
    # As the real gateway does, the one for tests drops what is malformed.
    assert parents(gw) == [OTHER, None, None, PARENT]


async def test_it_is_none_of_the_headers_that_are_limited() -> None:
    settings = Settings(max_headers=1, max_header_bytes=6)
    async with (
        arqon.testing.gateway(settings=settings) as gw,
        arqon.connect(gw.url, token=gw.token("ada"), proxy=None) as bus,
    ):
        room = await bus.join("lobby")
        with trace.use_span(span()):
            await room.publish(b"a", ack=True, headers={"lang": "en"})
        await room.publish(b"a", ack=True, headers={"lang": "en", "traceparent": OTHER})
        assert parents(gw) == [PARENT, OTHER]
        with trace.use_span(span()), pytest.raises(arqon.HeadersTooLarge, match="7 bytes, 6 are"):
            await room.publish(b"a", headers={"lang": "eng"})
        with pytest.raises(arqon.HeadersTooLarge, match="2 headers, 1 are"):
            await room.publish(b"a", headers={"a": "", "b": "", "traceparent": OTHER})


async def test_what_the_server_would_refuse_of_it_is_not_sent(
    gw: Gateway, bus: arqon.Client
) -> None:
    room = await bus.join("lobby")
    for name in ("Traceparent", "TRACEPARENT"):
        with pytest.raises(arqon.HeaderReserved, match="a trace context is in traceparent"):
            await room.publish(b"a", headers={name: PARENT})
    with pytest.raises(arqon.HeadersTooLarge, match="257 bytes, 256 are"):
        await room.publish(b"a", headers={"traceparent": "a" * 257})
    with pytest.raises(arqon.HeaderInvalid):
        await room.publish(b"a", headers={"traceparent": f"{PARENT}\n"})
    await room.publish(b"a", ack=True, headers={"traceparent": "a" * 256})
    assert parents(gw) == [None]


async def test_a_trace_is_not_worth_a_message() -> None:
    async with (
        arqon.testing.gateway(settings=Settings(max_frame_bytes=1024)) as gw,
        arqon.connect(gw.url, token=gw.token("ada"), proxy=None) as bus,
    ):
        room = await bus.join("lobby")
        sizes = range(850, 950)
        with trace.use_span(span()):
            for size in sizes:
                await room.publish(bytes(size), ack=True)
            with pytest.raises(arqon.PayloadTooLarge):
                await room.publish(bytes(1024))
        told = parents(gw)
        assert len(told) == len(sizes)
        fit = told.index(None)
        assert told == [PARENT] * fit + [None] * (len(sizes) - fit)
        assert fit > 0


@pytest.mark.parametrize("ack", [False, True])
async def test_what_waits_for_a_connection_keeps_its_trace(
    gw: Gateway, bus: arqon.Client, ack: bool
) -> None:
    room = await bus.join("lobby")
    with tracer.start_as_current_span("before"):
        await gw.stop(kill=True)
        await bus.wait_for(arqon.State.RECONNECTING)
    with tracer.start_as_current_span("first") as first:
        waiting = [asyncio.create_task(room.publish(b"1", ack=ack))]
    waiting.append(asyncio.create_task(room.publish(b"2", ack=ack)))
    with tracer.start_as_current_span("third") as third:
        waiting.append(asyncio.create_task(room.publish(b"3", ack=ack)))
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    with tracer.start_as_current_span("after"):
        await gw.start()
        await asyncio.wait_for(asyncio.gather(*waiting), LONG)
    await gw.wait_until(lambda: len(gw.messages) == 3)
    assert [each.payload for each in gw.messages] == [b"1", b"2", b"3"]
    assert parents(gw) == [text_of(first), None, text_of(third)]


async def test_what_a_lost_connection_did_not_take_keeps_its_trace(
    gw: Gateway, bus: arqon.Client
) -> None:
    room = await bus.join("lobby")
    link = bus._core.link
    assert link is not None
    with tracer.start_as_current_span("order") as order:
        # The connection is gone, and the client does not know it yet: it is found by sending.
        link._socket.transport.abort()
        link._closing = True
        publishing = asyncio.create_task(room.publish(b"a", ack=True))
    await asyncio.wait_for(publishing, LONG)
    assert bus.reconnects == 1
    assert parents(gw) == [text_of(order)]


async def test_what_waits_for_the_network_keeps_its_trace(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby", echo=False)
    link = bus._core.link
    assert link is not None
    blocker = asyncio.get_running_loop().create_future()
    link._senders.append(blocker)  # as if another publish waited
    with tracer.start_as_current_span("order") as order:
        publishing = asyncio.create_task(room.publish(b"a", ack=True))
    await until(lambda: len(link._senders) == 2)
    link._senders.remove(blocker)
    link._let_send()
    await asyncio.wait_for(publishing, LONG)
    assert parents(gw) == [text_of(order)]


# ---- what is received


async def test_a_message_is_a_parent(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    with tracer.start_as_current_span("order") as order:
        await room.publish(b"a")
    heard = await asyncio.wait_for(room.get(), LONG)
    assert heard.traceparent == heard.headers["traceparent"] == text_of(order)
    given = heard.trace_context()
    assert given is not None
    with (
        tracer.start_as_current_span("elsewhere"),
        tracer.start_as_current_span("handle", context=given) as handling,
    ):
        parent = trace.get_current_span(given).get_span_context()
        assert parent.is_remote
        assert parent.span_id == order.get_span_context().span_id
        assert handling.get_span_context().trace_id == order.get_span_context().trace_id
        # An answer goes on in the same trace.
        await room.publish(b"b")
    assert (await asyncio.wait_for(room.get(), LONG)).traceparent == text_of(handling)
    # Nothing was attached by reading.
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_context_holds_that_span_alone() -> None:
    token = context.attach(baggage.set_baggage("user", "7"))
    try:
        with tracer.start_as_current_span("elsewhere"):
            # The state is some publisher's own header.
            given = message(traceparent=OTHER, tracestate="a=b").trace_context()
    finally:
        context.detach(token)
    assert given is not None
    assert len(given) == 1
    told = trace.get_current_span(given).get_span_context()
    assert (f"{told.trace_id:032x}", f"{told.span_id:016x}") == tuple(OTHER.split("-")[1:3])
    assert (told.trace_flags, len(told.trace_state)) == (0, 0)


def test_without_one_there_is_no_context() -> None:
    assert message().traceparent is None
    assert message().trace_context() is None
    assert message(Traceparent=PARENT).traceparent is None


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "malformed",
        PARENT.upper(),
        PARENT[:-1],
        f"{PARENT}-x",
        f"ff{PARENT[2:]}",
        f"00-{0:032x}-{SPAN:016x}-01",
        f"00-{TRACE:032x}-{0:016x}-01",
        "a" * 100_000,
        "ä\0",
    ],
)
def test_a_malformed_one_is_no_context(malformed: str) -> None:
    assert message(traceparent=malformed).traceparent == malformed
    assert message(traceparent=malformed).trace_context() is None


async def test_the_gateway_for_tests_drops_a_malformed_one(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    for told in (OTHER, OTHER.upper(), "", f"01{OTHER[2:]}", "00-1-2-3"):
        # A span of the test is none of the publisher's.
        with trace.use_span(span()):
            gw.publish("lobby", b"a", headers={"traceparent": told})
    gw.publish("lobby", b"a")
    heard = [(await asyncio.wait_for(room.get(), LONG)).traceparent for _ in range(6)]
    assert heard == [OTHER, None, None, None, None, None]


# ---- whose trace it is


async def test_the_tasks_of_a_client_are_in_no_trace(gw: Gateway) -> None:
    asked: list[bool] = []
    told: list[arqon.Event] = []

    async def get_token() -> str:
        asked.append(trace.get_current_span().get_span_context().is_valid)
        return gw.token("ada", role="service")

    async def handler(event: arqon.Event) -> None:
        told.append(event)
        await client.publish("log", b"a")
        assert baggage.get_all() == {}

    token = context.attach(baggage.set_baggage("user", "7"))
    with tracer.start_as_current_span("startup"):
        client = await arqon.connect(
            gw.url, token=get_token, reconnect=FAST, on_event=handler, proxy=None
        )
        await until(lambda: len(told) == 1)
        # What is done for the application is in its trace.
        await client.refresh()
        assert asked == [True, True]
        gw.expire_tokens()
        await until(lambda: len(told) == 3)
        gw.drop_all()
        await until(lambda: client.reconnects == 1)
        await gw.wait_until(lambda: len(gw.messages) == len(told))
        await client.close()
    context.detach(token)
    assert asked == [True, True, False, False]
    kinds = [type(event) for event in told]
    assert kinds[:3] == [arqon.StateChanged, arqon.TokenRefreshed, arqon.TokenRefreshed]
    assert set(parents(gw)) == {None}


def test_a_blocking_publish_is_in_the_trace_of_its_thread() -> None:
    portal = Portal()
    gateway = arqon.testing.gateway()
    portal.run(gateway.start())
    try:
        token = gateway.token("ada", role="service")
        with (
            tracer.start_as_current_span("startup"),
            arqon.sync.connect(gateway.url, token=token, proxy=None) as bus,
        ):
            room = bus.join("lobby")
            expected: dict[bytes, str | None] = {}

            def work(number: int) -> None:
                with tracer.start_as_current_span(f"work {number}") as working:
                    for ack in (False, True):
                        payload = b"%d %d" % (number, ack)
                        expected[payload] = text_of(working)
                        room.publish(payload, ack=ack)
                    bus.publish("other", b"%d" % number, ack=True)
                    expected[b"%d" % number] = text_of(working)
                payload = b"%d outside" % number
                expected[payload] = None
                room.publish_text(payload.decode(), ack=True)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            with trace.use_span(span()):
                room.publish_json([1], ack=True)
                room.publish_json([2], ack=True, headers={"traceparent": OTHER})
            expected |= {b"[1]": PARENT, b"[2]": OTHER}
            found = {each.payload: each.headers.get("traceparent") for each in gateway.messages}
            assert found == expected
            heard = {each.payload: each for each in (room.get(timeout=LONG) for _ in range(14))}
            given = heard[b"[1]"].trace_context()
            assert trace.get_current_span(given).get_span_context().trace_id == TRACE
        portal.run(gateway.stop())
    finally:
        portal.stop()


# ---- without it


PROGRAM = """
import asyncio
import sys

if BLOCKED:
    # No import of it, nor of anything in it, succeeds.
    sys.modules["opentelemetry"] = None

import arqon
import arqon.sync
import arqon.testing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def main():
    events = []
    async with arqon.testing.gateway() as gw:
        get_token = lambda: gw.token("ada")
        async with arqon.connect(gw.url, token=get_token, on_event=events.append) as bus:
            room = await bus.join("lobby")
            await room.publish(b"1")
            await room.publish(b"2", ack=True)
            await room.publish(b"3", ack=True, headers={"traceparent": PARENT})
            await bus.refresh()
            gw.drop_all()
            await bus.wait_for(arqon.State.RECONNECTING)
            await room.publish(b"4", ack=True)
            heard = [await room.get() for _ in range(4)]
            assert [message.traceparent for message in heard] == [None, None, PARENT, None]
            assert [message.trace_context() for message in heard if not message.traceparent] == [
                None, None, None
            ]
            loaded = {name for name in sys.modules if name.startswith("opentelemetry")}
            assert loaded <= {"opentelemetry"} if BLOCKED else not loaded, loaded
            for _ in range(2):
                context = heard[2].trace_context()
                assert context is None if BLOCKED else len(context) == 1
            await asyncio.to_thread(blocking, gw)
    assert events


def blocking(gw):
    with arqon.sync.connect(gw.url, token=gw.token("ben")) as bus:
        room = bus.join("lobby")
        room.publish(b"5", ack=True)
        assert room.get(timeout=30).traceparent is None


asyncio.run(main())
print("done")
"""


@pytest.mark.parametrize("blocked", [True, False], ids=["not installed", "not used"])
def test_nothing_needs_it(blocked: bool) -> None:
    """Where it is installed and not used, nothing imports it, but for who asks for a context."""
    source = PROGRAM.replace("BLOCKED", str(blocked))
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


def test_a_publish_without_a_trace_is_the_same_frame() -> None:
    limits = arqon.Limits(0, 0, 0, 0, 0)

    def frame(headers: dict[str, str] | None, traceparent: str | None) -> bytes:
        return _wire.publish(
            "lobby",
            b"a",
            1,
            ack=False,
            headers=headers,
            twist_id=None,
            traceparent=traceparent,
            limits=limits,
        )

    assert frame(None, None) == frame({}, None)
    assert frame(None, PARENT) == frame({"traceparent": PARENT}, None)
    assert frame({"traceparent": OTHER}, PARENT) == frame({"traceparent": OTHER}, None)
