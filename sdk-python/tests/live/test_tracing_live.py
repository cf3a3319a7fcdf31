"""A trace goes on through a real ArqonBus."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest
from leaks import none_left
from live_stack import Stack
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from waiting import LONG

import arqon
import arqon.sync


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("ack", [False, True], ids=["unacknowledged", "acknowledged"])
async def test_the_trace_of_a_publisher_is_that_of_a_receiver(
    stack: Stack, sampler: Sampler, ack: bool
) -> None:
    tracer = TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("tests")
    name = f"test.{uuid.uuid4().hex}"
    async with (
        none_left(),
        arqon.connect(stack.url, token=stack.token("ann")) as ann,
        arqon.connect(stack.url, token=stack.token("bob")) as bob,
    ):
        hears = await ann.join(name)
        speaks = await bob.join(name, echo=False)
        with tracer.start_as_current_span("order") as order:
            await speaks.publish(b"1", ack=ack)
            await speaks.publish(b"2", ack=ack, headers={"traceparent": "malformed"})
        await speaks.publish(b"3", ack=ack)
        heard = [await asyncio.wait_for(hears.get(), LONG) for _ in range(3)]
        assert [message.payload for message in heard] == [b"1", b"2", b"3"]
        given = heard[0].trace_context()
        assert given is not None
        parent = trace.get_current_span(given).get_span_context()
        # The span may be Shield's own by now, and with it the flag.
        assert parent.trace_id == order.get_span_context().trace_id
        for message in heard[1:]:
            found = trace.get_current_span(message.trace_context()).get_span_context()
            assert found.trace_id != order.get_span_context().trace_id


async def test_it_goes_beside_the_largest_message(stack: Stack) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
        room = await ann.join(f"test.{uuid.uuid4().hex}")
        limits = ann.session.limits
        count = limits.max_headers
        headers = {f"name-{number:02}": "" for number in range(count)}
        left = limits.max_header_bytes - sum(map(len, headers))
        headers["name-00"] = "v" * left
        # All headers that there may be, and one more.
        with tracer.start_as_current_span("order") as order:
            await room.publish(b"1", ack=True, headers=headers)
            given = (await asyncio.wait_for(room.get(), LONG)).trace_context()
            parent = trace.get_current_span(given).get_span_context()
            assert parent.trace_id == order.get_span_context().trace_id
            # Up to a frame that has no room for it, and on to one that is too large anyway.
            payload = bytes(limits.max_payload_bytes)
            size = limits.max_frame_bytes - len(payload) - 400
            sent = 0
            with contextlib.suppress(arqon.PayloadTooLarge):
                while True:
                    await room.publish(payload, ack=True, headers={"filler": "v" * size})
                    sent += 1
                    size += 8
        heard = [await asyncio.wait_for(room.get(), LONG) for _ in range(sent)]
        theirs = order.get_span_context().trace_id
        told = [
            trace.get_current_span(message.trace_context()).get_span_context().trace_id == theirs
            for message in heard
        ]
        assert told[0]
        assert not told[-1]
        assert ann.reconnects == 0


def test_without_asyncio(stack: Stack) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    with arqon.sync.connect(stack.url, token=stack.token("ann")) as ann:
        room = ann.join(f"test.{uuid.uuid4().hex}")
        with tracer.start_as_current_span("order") as order:
            room.publish(b"1", ack=True)
        given = room.get(timeout=LONG).trace_context()
        parent = trace.get_current_span(given).get_span_context()
        assert parent.trace_id == order.get_span_context().trace_id
