"""Handlers of events that close the client, hang, or raise what nobody expects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

import leaks
import pytest
from children import child
from hostile_server import BOUND
from waiting import until

import arqon
import arqon.testing


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[arqon.testing.Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


async def test_a_handler_that_is_cancelled_hears_the_next_event(
    gw: arqon.testing.Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[arqon.State] = []

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.StateChanged):
            states.append(event.state)
        task = asyncio.ensure_future(asyncio.sleep(1))
        task.cancel()
        await task

    async with arqon.connect(gw.url, token=gw.token("ada"), on_event=handler) as bus:
        # Before Python 3.11 nobody can tell what was cancelled, and the next event is what helps.
        await until(lambda: states == [arqon.State.CONNECTED])
        gw.drop_all()
        await until(lambda: bus.reconnects == 1)
        await until(lambda: arqon.State.RECONNECTING in states)
    if sys.version_info >= (3, 11):
        assert states[-1] is arqon.State.CLOSED
        assert "on_event was cancelled on StateChanged" in caplog.text


async def test_a_handler_that_does_not_end_is_left_behind(gw: arqon.testing.Gateway) -> None:
    release = asyncio.Event()
    entered = asyncio.Event()

    async def handler(event: arqon.Event) -> None:
        while not release.is_set():
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    bus = await arqon.connect(gw.url, token=gw.token("ada"), on_event=handler, close_timeout=0.2)
    await entered.wait()
    try:
        await asyncio.wait_for(bus.close(), BOUND)
        assert bus.state is arqon.State.CLOSED
    finally:
        release.set()


async def test_a_handler_may_close_a_client_that_is_closing(gw: arqon.testing.Gateway) -> None:
    closed: list[arqon.State] = []

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.StateChanged) and event.state is arqon.State.CLOSED:
            await bus.close()
            closed.append(event.state)

    bus = await arqon.connect(
        gw.url, token=gw.token("ada"), on_event=handler, close_timeout=10 * BOUND
    )
    # Had they waited for each other, this would last.
    await asyncio.wait_for(bus.close(), BOUND)
    assert closed == [arqon.State.CLOSED]


async def test_no_event_comes_after_close_where_the_handler_closed_first(
    gw: arqon.testing.Gateway,
) -> None:
    events: list[object] = []

    async def handler(event: arqon.Event) -> None:
        assert isinstance(event, arqon.StateChanged)
        events.append(event.state)
        if event.state is arqon.State.CONNECTED:
            await bus.close()
            await asyncio.sleep(0.05)

    connecting = arqon.connect(gw.url, token=gw.token("ada"), on_event=handler)
    bus = await connecting
    await until(lambda: bus.state is arqon.State.CLOSED)
    await bus.close()
    events.append("closed")
    await asyncio.sleep(0.1)
    assert events == [arqon.State.CONNECTED, arqon.State.CLOSED, "closed"]


_LOGS = """
import asyncio, json, logging, logging.config, sys
import arqon, arqon.testing

async def main():
    async with arqon.testing.gateway() as gw:
        token = gw.token("ada")
        print(token)
        async with arqon.connect(gw.url, token=token) as bus:
            room = await bus.join("lobby")
            await room.publish(b"x", ack=True)

logging.config.dictConfig(json.loads(sys.argv[1]))
for name in ("arqon", "arqon.websocket", "arqon.testing"):
    logging.getLogger(name).disabled = False
logging.getLogger("arqon").debug("this much is logged")
asyncio.run(main())
"""


# In a program of its own: dictConfig closes the handlers of whoever tests.
@pytest.mark.parametrize("loggers", [["root"], ["arqon"], ["arqon", "root"]])
@pytest.mark.parametrize("disable", [False, True])
async def test_no_configuration_of_logging_shows_the_token(
    loggers: list[str], disable: bool
) -> None:
    loud = {"level": "DEBUG", "handlers": ["out"]}
    config = {
        "version": 1,
        "disable_existing_loggers": disable,
        "handlers": {"out": {"class": "logging.StreamHandler"}},
        "loggers": {name: loud for name in loggers if name != "root"},
        **({"root": loud} if "root" in loggers else {}),
    }
    async with child("-c", _LOGS, json.dumps(config)) as program:
        token = await program.line("eyJ")
        logged = await program.problem()
        assert await program.ended() == 0
    assert "this much is logged" in logged
    assert token not in logged
    assert token.split(".")[1] not in logged
