"""The watch over tasks and sockets sees what is left behind."""

from __future__ import annotations

import asyncio
import socket

import leaks
import pytest


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE", 0.1)


async def test_a_task_that_goes_on_is_seen() -> None:
    task: asyncio.Task[None] | None = None
    with pytest.raises(AssertionError, match="left behind"):
        async with leaks.none_left():
            task = asyncio.ensure_future(asyncio.sleep(60))
    assert task is not None
    task.cancel()


async def test_a_socket_that_is_open_is_seen() -> None:
    found = None
    with pytest.raises(AssertionError, match="left behind"):
        async with leaks.none_left():
            found = socket.socket()
    assert found is not None
    found.close()


async def test_a_transport_that_is_open_is_seen() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writer: asyncio.StreamWriter | None = None
    with pytest.raises(AssertionError, match="left behind"):
        async with leaks.none_left():
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    assert writer is not None
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0.01)


async def test_what_ends_by_itself_is_waited_for() -> None:
    async with leaks.none_left():
        task = asyncio.ensure_future(asyncio.sleep(0.03))
        found = socket.socket()
        found.close()
    assert task.done()
