"""The loop behind :mod:`arqon.sync`, in a thread of its own, and how other threads wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from ._events import EventHandler
from ._types import Event
from .errors import ArqonError, ClientClosed, NotJoined

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
    """An event loop in a daemon thread. Any other thread may run coroutines in it and wait.

    A process that was forked off has neither the thread nor a right to its sockets, and a lock may
    be held there for ever: whatever is asked there ends before any of them.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Future[None] = self._loop.create_future()
        self._stopped = False
        # Whatever is scheduled before `_stopped` is set, runs. Reentrant: the handler of a signal
        # may call where the thread that it interrupts holds it.
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._work, name="arqon-sync", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def _work(self) -> None:
        # `asyncio.run` would wait for the threads of the loop, in one more: while the program ends
        # there may be no new one, and one of them may wait for this one, closing the client.
        try:
            self._loop.run_until_complete(self._stop)
        finally:
            # Also where something in the loop raised SystemExit.
            self._stopped = True
            try:
                self._loop.run_until_complete(_cancel_all())
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            finally:
                self._loop.close()

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that has the thread."""
        return os.getpid() != self._process

    @property
    def over(self) -> bool:
        """Whether nothing runs there any more."""
        return self._stopped or self.forked

    def check_thread(self) -> None:
        """Raises if this is the loop's own thread, which cannot wait for itself."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "called in the client's own loop, by an async on_event or token function, which"
                " it would block for ever; use a function that is not async, or another thread"
            )

    def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Runs it there and waits for it here; Ctrl-C ends both.

        Raises:
            ClientClosed: the loop has ended, or is another process's.
            RuntimeError: it was called in the loop's own thread.
        """
        call = self._start(work)
        try:
            call.wait()
        except BaseException:
            # Ctrl-C.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call.cancel)
            raise
        try:
            return call.result()
        except asyncio.CancelledError:
            raise ClientClosed() from None
        finally:
            # It has the error, whose traceback has this frame.
            del call

    def _start(self, work: Coroutine[object, object, _T]) -> _Call[_T]:
        try:
            if self.forked:
                raise ClientClosed("this process was forked off. Connect anew in it")
            self.check_thread()
            call = _Call(work)
            with self._lock:
                if not self._stopped:
                    # It may end meanwhile, by a signal's handler for instance.
                    with contextlib.suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(call.begin)
                if self._stopped:
                    raise ClientClosed()
            return call
        except BaseException:
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()
            raise

    def stop(self) -> None:
        """Ends the loop and the thread, cancelling what still runs. Twice is harmless."""
        if self.forked:
            return
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._stop.set_result, None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_END)

    def drop(self, task: asyncio.Task[_T]) -> None:
        """Cancels a task of the loop. Waits for nothing and takes no lock: the garbage collector
        asks for it, wherever it comes by.
        """
        if not self.forked:
            # A loop that has ended cancelled it.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(task.cancel)


async def _cancel_all() -> None:
    """Ends whatever runs in the loop, and with it whoever waits for that."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class _Call(Generic[_T]):
    """Work in the loop that a thread waits for.

    A future of :mod:`concurrent.futures` would do, but for its lock: if the handler of a signal
    interrupted the waiting thread where it holds that, and called the client, the loop would wait
    for the lock, and the handler for the loop.
    """

    def __init__(self, work: Coroutine[object, object, _T]) -> None:
        self._work = work
        self._task: asyncio.Task[_T]
        self._done = threading.Lock()
        self._done.acquire()

    def begin(self) -> None:
        """Runs in the loop, and so does `cancel`, later."""
        self._task = asyncio.ensure_future(self._work)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Ends the work."""
        # In the loop's next turn: it has begun then, and a client that is closing closes.
        self._task.get_loop().call_soon(self._task.cancel)

    def _ended(self, task: asyncio.Task[_T]) -> None:
        # Whoever waited for it may be gone when it fails.
        _retrieved(task)
        self._done.release()

    def wait(self) -> None:
        """Waits in another thread for the end."""
        if sys.platform == "win32":
            while not self._done.acquire(timeout=_LOOK):
                pass
        else:
            self._done.acquire()

    def result(self) -> _T:
        """What came of it, once it has ended."""
        try:
            return self._task.result()
        finally:
            del self


class Handler:
    """Calls an application's ``on_event`` in a thread of its own, so that it may block and use the
    client. One event at a time, so never more than one waits here.
    """

    def __init__(self, handler: EventHandler) -> None:
        self._handler = handler
        # What an async handler gave and the loop has not taken yet.
        self._made: Awaitable[None] | None = None
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
            self._made = result
            # Where the client was closed meanwhile, without waiting for it, `stop` drops this.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._settle, done, result, error)

        self._calls.put(call)
        try:
            result = await done
        except asyncio.CancelledError:
            # It may have been cancelled with the result there already.
            if done.done() and not done.cancelled() and done.exception() is None:
                _drop(done.result())
            raise
        if result is not None:
            # An async handler runs in the client's loop, which these would end.
            try:
                await result
            except (KeyboardInterrupt, SystemExit) as error:
                raise RuntimeError(repr(error)) from error

    @property
    def calling(self) -> bool:
        """Whether this is the handler's thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Ends the thread, after the call that is under way. One that hangs is left behind."""
        self._calls.put(None)
        if not self.calling:
            self._thread.join(_HANDLER_END)
        made, self._made = self._made, None
        _drop(made)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _settle(
        self,
        done: asyncio.Future[Awaitable[None] | None],
        result: Awaitable[None] | None,
        error: BaseException | None,
    ) -> None:
        self._made = None
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
    goes to one of them. One that nobody holds any more is done with.
    """

    def __init__(self, portal: Portal, room: Room, source: AsyncIterator[_T]) -> None:
        self._portal = portal
        self._room = room
        self._source = source
        # The item that is waited for, or came and was not taken yet. It stays when a reader gives
        # up, since a cancelled wait could take the item with it. Set in the loop only. Whoever pops
        # it from its list has it; there is no lock, which the handler of a signal that reads here
        # too would wait for in vain.
        self._next: asyncio.Task[list[_T] | None] | None = None

    def __del__(self) -> None:
        # What it waited for would go on waiting until the room ends.
        if self._next is not None and not self._next.done():
            self._portal.drop(self._next)

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
                if not self._room._ended:
                    raise  # The room is another process's.
                came = None
            if self._room._ended and self._room._inbox.error is None:
                return None
            if came is None:
                # The loop is gone, and with it what was not read.
                error = self._room._why_ended()
                if isinstance(error, ClientClosed | NotJoined):
                    return None
                raise error
            failed = came.exception()
            if failed is not None:
                raise failed._again() if isinstance(failed, ArqonError) else failed
            item = came.result()
            if item is None:
                return None
            try:
                return (item.pop(),)
            except IndexError:
                continue  # Another thread took it.

    async def _came(self, timeout: float | None) -> asyncio.Task[list[_T] | None]:
        coming = self._next
        if coming is None or _is_taken(coming):
            coming = self._next = asyncio.ensure_future(_step(self._source))
            # Whoever waited for it may be gone when it fails.
            coming.add_done_callback(_retrieved)
        await asyncio.wait({coming}, timeout=timeout)
        if not coming.done():
            raise TimeoutError("nothing came in time")
        return coming


async def _step(source: AsyncIterator[_T]) -> list[_T] | None:
    # A task cannot raise StopAsyncIteration to a thread. No method: it would hold the stream.
    async for item in source:
        return [item]
    return None


def _is_taken(came: asyncio.Task[list[_T] | None]) -> bool:
    return came.done() and not came.cancelled() and came.exception() is None and came.result() == []


def _retrieved(task: asyncio.Task[_T]) -> None:
    if not task.cancelled():
        task.exception()
