"""The loop behind :mod:`arqon.sync`, in a thread of its own, and how other threads wait for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from ._events import EventHandler
from ._types import Event
from .errors import ClientClosed, NotJoined

if TYPE_CHECKING:
    from ._room import Room

_T = TypeVar("_T")

#: Seconds between two looks for Ctrl-C, where waiting for a lock does not let it through.
_LOOK = 0.1
#: Seconds that the thread may take to end, once everything in it was told to.
_END = 5.0
#: Seconds for the thread of ``on_event`` to end. The client has waited for it by then.
_HANDLER_END = 1.0


class Portal:
    """An event loop in a daemon thread. Any other thread may run coroutines in it and wait."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Future[None]
        self._stopped = False
        # Whatever is scheduled before `_stopped` is set, runs.
        self._lock = threading.Lock()
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="arqon-sync", daemon=True
        )
        self._thread.start()
        started.wait()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = self._loop.create_future()
        started.set()
        # When this returns, `asyncio.run` cancels what is left, and with it whoever waits.
        await self._stop

    def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Runs it there and waits for it here; Ctrl-C ends both.

        Raises:
            ClientClosed: the loop has ended.
            RuntimeError: it was called in the loop's own thread.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("this call would block the loop of its own client")
        with self._lock:
            # A process that was forked off has the client, but not its thread.
            if self._stopped or not self._thread.is_alive():
                work.close()
                raise ClientClosed()
            running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if sys.platform == "win32":
                while not concurrent.futures.wait([running], _LOOK).done:
                    pass
            return running.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed() from None
        except BaseException:
            # Ctrl-C while it waited. Harmless where the work itself failed.
            running.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and the thread, cancelling what still runs. Twice is harmless."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._stop.set_result, None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_END)


class Handler:
    """Calls an application's ``on_event`` in a thread of its own, so that it may block and use the
    client. One event at a time, so never more than one waits here.
    """

    def __init__(self, handler: EventHandler) -> None:
        self._handler = handler
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="arqon-events", daemon=True)
        self._thread.start()

    async def __call__(self, event: Event) -> None:
        """Has it called, and waits until it returned."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Awaitable[None] | None] = loop.create_future()

        def call() -> None:
            result: Awaitable[None] | None = None
            error: BaseException | None = None
            try:
                result = self._handler(event)
            except BaseException as raised:  # the loop logs it
                error = raised
            try:
                loop.call_soon_threadsafe(_settle, done, result, error)
            except RuntimeError:
                # The client was closed meanwhile, without waiting for this handler.
                _drop(result)

        self._calls.put(call)
        result = await done
        if result is not None:
            # An async handler runs in the client's loop.
            await result

    @property
    def calling(self) -> bool:
        """Whether this is the handler's thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Ends the thread, after the call that is under way. One that hangs is left behind."""
        self._calls.put(None)
        if not self.calling:
            self._thread.join(_HANDLER_END)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _settle(
    done: asyncio.Future[Awaitable[None] | None],
    result: Awaitable[None] | None,
    error: BaseException | None,
) -> None:
    if done.done():
        _drop(result)
    elif error is not None:
        done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    else:
        done.set_result(result)


def _drop(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()


class Stream(Iterator[_T], Generic[_T]):
    """What comes in a room, to iterate, or to take one by one with a time-out.

    Ends when the room is left or the client closed, and raises the error where one ended it. After
    a time-out or Ctrl-C it goes on where it was: nothing is lost. Threads may share it: each item
    goes to one of them.
    """

    def __init__(self, portal: Portal, room: Room, source: AsyncIterator[_T]) -> None:
        self._portal = portal
        self._room = room
        self._source = source
        # The item that is waited for, or came and was not taken yet. It stays when a reader gives
        # up, since a cancelled wait could take the item with it.
        self._next: asyncio.Task[tuple[_T] | None] | None = None
        self._lock = threading.Lock()

    def get(self, timeout: float | None = None) -> _T:
        """The next item.

        Args:
            timeout: seconds; ``None``: as long as it takes; 0: only what is there.

        Raises:
            TimeoutError: none came in time.
            NotJoined: the room was left.
            ClientClosed: the client closed.
            ArqonError: the error that ended the room or the client.
        """
        item = self._take(timeout)
        if item is None:
            raise self._room._why_ended()
        return item[0]

    def __next__(self) -> _T:
        item = self._take(None)
        if item is None:
            raise StopIteration
        return item[0]

    def _take(self, timeout: float | None) -> tuple[_T] | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                came = self._portal.run(self._came(left))
            except ClientClosed:
                came = None
            if self._room._ended and self._room._inbox.error is None:
                return None
            if came is None:
                # The loop is gone, and with it what was not read.
                error = self._room._why_ended()
                if isinstance(error, ClientClosed | NotJoined):
                    return None
                raise error
            with self._lock:
                if self._next is not came:
                    continue  # Another thread took it.
                item = came.result()
                if item is not None:
                    self._next = None
                return item

    async def _came(self, timeout: float | None) -> asyncio.Task[tuple[_T] | None]:
        with self._lock:
            if self._next is None:
                self._next = asyncio.ensure_future(self._step())
                # Whoever waited for it may be gone when it fails.
                self._next.add_done_callback(_retrieved)
            coming = self._next
        await asyncio.wait({coming}, timeout=timeout)
        if not coming.done():
            raise TimeoutError("nothing came in time")
        return coming

    async def _step(self) -> tuple[_T] | None:
        # A task cannot raise StopAsyncIteration to a thread.
        async for item in self._source:
            return (item,)
        return None


def _retrieved(task: asyncio.Task[tuple[_T] | None]) -> None:
    if not task.cancelled():
        task.exception()
