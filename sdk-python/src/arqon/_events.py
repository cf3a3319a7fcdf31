"""Tells the application's handler what happens to the client, one event after the other."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from . import _trace
from ._types import Event

EventHandler = Callable[[Event], Awaitable[None]] | Callable[[Event], None]

#: Events that wait for the handler. When full, the oldest is dropped, and a warning logged.
MAX_EVENTS = 256
#: Seconds that a handler may take to end, once it was cancelled.
_CANCEL = 0.5

_log = logging.getLogger("arqon")


class Events:
    """Runs the handler in a task of its own, so that nothing it does can hold up the connection."""

    def __init__(self, handler: EventHandler | None) -> None:
        self._handler = handler
        self._waiting: deque[Event] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._dropped = 0

    def emit(self, event: Event) -> None:
        """Queues an event."""
        if self._handler is None or self._closing:
            return
        if len(self._waiting) >= MAX_EVENTS:
            self._waiting.popleft()
            if not self._dropped:
                _log.warning("on_event is too slow: the oldest of %d events dropped", MAX_EVENTS)
            self._dropped += 1
        self._waiting.append(event)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run(self._handler))
        self._stir()

    def end(self) -> None:
        """None comes after those that are queued."""
        self._closing = True
        self._stir()

    async def close(self, timeout: float) -> None:
        """Waits for the events that are queued, for so many seconds at most; none comes after."""
        self.end()
        task = self._task
        if task is None or self.calling:
            return
        await asyncio.wait([task], timeout=timeout)
        if not task.done():
            self._waiting.clear()
            task.cancel()
            # A handler that does not let itself be cancelled is left behind.
            await asyncio.wait([task], timeout=_CANCEL)

    @property
    def calling(self) -> bool:
        """Whether this is asked by the handler: what waits for it would wait for itself."""
        return self._task is not None and self._task is asyncio.current_task()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self, handler: EventHandler) -> None:
        _trace.leave()
        while True:
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    result = handler(event)
                    if inspect.isawaitable(result):
                        await result
                except asyncio.CancelledError:
                    if _is_cancelled():
                        raise
                    _log.exception("on_event was cancelled on %s", type(event).__name__)
                except Exception:
                    _log.exception("on_event failed on %s", type(event).__name__)
            if self._closing:
                return
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
            self._wake = None


def _is_cancelled() -> bool:
    """Whether the task of now was cancelled, and not just something that it awaited. Before Python
    3.11 nobody knows; then it ends, and the next event starts another.
    """
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0
