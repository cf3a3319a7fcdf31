"""The bounded queue between the connection, which never waits, and the application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ._types import Gap, GapReason, Message, Overflow
from .errors import ArqonError


class Inbox:
    """What came for a room and was not read yet.

    Bounded in messages and bytes. When full, ``drop_oldest`` drops from the front, ``drop_newest``
    leaves out what comes; a :class:`Gap` stands where messages are missing and counts them.
    """

    def __init__(
        self,
        room: str,
        max_messages: int,
        max_bytes: int,
        overflow: Overflow,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("queue_messages and queue_bytes must be at least 1")
        if overflow not in ("drop_oldest", "drop_newest"):
            raise ValueError("overflow is 'drop_oldest' or 'drop_newest'")
        self._room = room
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._overflow = overflow
        self._before_waiting = before_waiting
        self._items: deque[tuple[Message | Gap, int]] = deque()
        self._bytes = 0
        # What is missing before the first item.
        self._cut = False
        self._cut_missed: int | None = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        # Whether it was full since it was empty last.
        self._overflowed = False
        #: What ended it, if it was a failure.
        self.error: ArqonError | None = None
        #: Messages that are known to be missing, here or by the server's word.
        self.missed = 0

    def __len__(self) -> int:
        return len(self._items) + self._cut

    def put(self, message: Message, size: int) -> bool:
        """Takes a message of so many bytes. True where that made it overflow, for the first time
        since it was empty.
        """
        if self._closed:
            return False
        if len(self._items) < self._max_messages and self._bytes + size <= self._max_bytes:
            if not self._items and not self._cut:
                self._overflowed = False
            self._append(message, size)
            return False
        if self._overflow == "drop_newest" or size > self._max_bytes:
            self.missed += 1
            self._note_gap(Gap(self._room, GapReason.LOCAL_OVERFLOW, 1))
        else:
            while self._items and (
                len(self._items) >= self._max_messages or self._bytes + size > self._max_bytes
            ):
                self._drop_oldest()
            self._append(message, size)
        before, self._overflowed = self._overflowed, True
        return not before

    def put_gap(self, gap: Gap) -> None:
        """Takes the news that messages are missing."""
        if self._closed:
            return
        self.missed += gap.missed or 0
        self._note_gap(gap)

    def _note_gap(self, gap: Gap) -> None:
        last = self._items[-1][0] if self._items else None
        full = len(self._items) >= self._max_messages
        keeps_oldest = self._overflow == "drop_newest"
        # Two of a kind in a row tell no more than one. Where the oldest stay, there is room over
        # the bound for just one gap, which stands for all that are missing there.
        if isinstance(last, Gap) and (last.reason is gap.reason or (full and keeps_oldest)):
            self._items[-1] = (_joined(last, gap), 0)
            return
        if full and not keeps_oldest:
            self._drop_oldest()
        self._append(gap, 0)

    async def get(self) -> Message | Gap:
        """The next item.

        Raises:
            StopAsyncIteration: the room was left, or the client closed.
            ArqonError: the room or the client ended by a failure.
        """
        while True:
            if self._cut:
                return self._take_cut()
            if self._items:
                item, size = self._items.popleft()
                self._bytes -= size
                return item
            if self._closed:
                if self.error is not None:
                    raise self.error._again()
                raise StopAsyncIteration
            await self._changed()

    def close(self, error: ArqonError | None, *, clear: bool) -> None:
        """Nothing comes any more. With ``clear``, what is there goes too."""
        if clear:
            self._items.clear()
            self._bytes = 0
            self._cut = False
        if not self._closed:
            self._closed = True
            self.error = error
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _append(self, item: Message | Gap, size: int) -> None:
        self._items.append((item, size))
        self._bytes += size
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _changed(self) -> None:
        self._before_waiting()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # Woken for an item and cancelled at once: the item is another reader's.
            if waiter.done() and not waiter.cancelled() and len(self):
                self._wake()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _drop_oldest(self) -> None:
        item, size = self._items.popleft()
        self._bytes -= size
        self._cut = True
        if isinstance(item, Gap):
            if item.missed is None or self._cut_missed is None:
                self._cut_missed = None
            else:
                self._cut_missed += item.missed
            return
        self.missed += 1
        if self._cut_missed is not None:
            self._cut_missed += 1

    def _take_cut(self) -> Gap:
        gap = Gap(self._room, GapReason.LOCAL_OVERFLOW, self._cut_missed)
        self._cut = False
        self._cut_missed = 0
        return gap


def _joined(first: Gap, second: Gap) -> Gap:
    known = first.missed is not None and second.missed is not None
    missed = (first.missed or 0) + (second.missed or 0) if known else None
    return Gap(first.room, first.reason, missed)
