"""Tasks and sockets that something left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: Seconds that whatever ends by itself may take to do so, and looks that are taken at least: one
#: takes seconds where the heap is large and the machine busy.
SETTLE = 3.0
LOOKS = 10


@asynccontextmanager
async def none_left() -> AsyncIterator[None]:
    """Fails where a task or an open socket is left that was not there before."""
    tasks, sockets = asyncio.all_tasks(), _sockets()
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE
    left = _left(tasks, sockets)
    looks = 1
    while left and (looks < LOOKS or loop.time() < deadline):
        await asyncio.sleep(0.02)
        left = _left(tasks, sockets)
        looks += 1
    assert not left, "left behind:\n" + "\n".join(left)


def _left(tasks: set[asyncio.Task[object]], sockets: dict[int, socket.socket]) -> list[str]:
    left = [repr(task) for task in asyncio.all_tasks() - tasks - {asyncio.current_task()}]
    return left + [repr(found) for key, found in _sockets().items() if key not in sockets]


def _sockets() -> dict[int, socket.socket]:
    """Open sockets by file number. Whoever forgot one keeps it in a cycle, so the collector is
    asked for those that live and not for those that could be freed.
    """
    with warnings.catch_warnings():
        # Looking at every object wakes the deprecated attributes of some modules.
        warnings.simplefilter("ignore")
        found = [each for each in gc.get_objects() if type(each) is socket.socket]
    return {each.fileno(): each for each in found if each.fileno() >= 0}
