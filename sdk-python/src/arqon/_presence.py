"""Who is in a room: what the server told, and the application's view of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import _wire
from ._types import Member, PresenceChange, PresenceMode
from .errors import ArqonError, PresenceNotSeen, PresenceNotTold, ServerGarbage

if TYPE_CHECKING:
    from ._room import Room

#: Members that a room may have here; a Shield tells of no more than that.
_MAX_MEMBERS = 100_000


class Watcher:
    """What one reader was told, and which users it must look at again.

    Bounded by who is there and who was told: changes of a user that come faster than they are read
    become one change, and who came and went in between is not told.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._told: dict[str, Member] = {}
        self._dirty: dict[str, None] = dict.fromkeys(members)
        self.wake: asyncio.Future[None] | None = None

    def touch(self, users: Iterable[str], members: Mapping[str, Member]) -> None:
        """These may have changed."""
        for user in users:
            if user in members or user in self._told:
                self._dirty[user] = None
            else:
                self._dirty.pop(user, None)
        self.stir()

    def touch_all(self, members: Mapping[str, Member]) -> None:
        """Everything may have changed."""
        self._dirty = dict.fromkeys((*self._told, *members))
        self.stir()

    def stir(self) -> None:
        """Lets the reader look."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)

    def next(self, members: Mapping[str, Member]) -> PresenceChange | None:
        """The next change against what was told, if there is one."""
        while self._dirty:
            user = next(iter(self._dirty))
            del self._dirty[user]
            before, now = self._told.get(user), members.get(user)
            if now is not None:
                self._told[user] = now
                if before is None:
                    return PresenceChange("join", user, now)
                if before != now:
                    return PresenceChange("update", user, now)
            elif before is not None:
                del self._told[user]
                return PresenceChange("leave", user, before)
        return None


class Presence:
    """Who is in a room. Belongs to a :class:`Room` and is read through ``room.presence``.

    With mode ``full`` or ``watch``, `members` is kept current, and iterating tells the changes,
    beginning with a join for each member that is there::

        async for change in room.presence:
            print(change.kind, change.user)  # prints: join ada

    With mode ``count``, `counts()` tells how many there are. Over a size that the platform sets
    (500 users) a room is told by its count only: `truncated` is true and `members` is empty.
    After a reconnect `ready` is false until the server has told the room anew; iteration then
    goes on with the differences.
    """

    def __init__(self, room: Room, mode: PresenceMode) -> None:
        self._room = room
        self._mode: PresenceMode = mode
        self._members: dict[str, Member] = {}
        # Members and bytes of the pages that came, by the request they answer.
        self._pages: dict[int, tuple[dict[str, Member], int]] = {}
        self._count: int | None = None
        self._truncated = False
        self._ready = False
        self._ended = False
        self._error: ArqonError | None = None
        self._watchers: set[Watcher] = set()
        self._counters: set[Watcher] = set()

    @property
    def mode(self) -> PresenceMode:
        """How the room was joined: ``none``, ``count``, ``full`` or ``watch``."""
        return self._mode

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by user, as far as they were told. A live, read-only view."""
        return MappingProxyType(self._members)

    @property
    def count(self) -> int | None:
        """How many users are in the room; ``None``: not told yet."""
        return self._count

    @property
    def truncated(self) -> bool:
        """Whether the room is too large to tell its members."""
        return self._truncated

    @property
    def ready(self) -> bool:
        """Whether the server has told the room since it was joined on this connection."""
        return self._ready

    async def get(self) -> list[Member]:
        """Asks the server who is there now; works in every mode.

        Example::

            for member in await room.presence.get():
                print(member.user, member.meta)

        Returns:
            The members. Empty also where the room is too large to tell them (`truncated`).

        Raises:
            PresenceUnavailable: presence cannot be told at the moment.
            RequestTimeout: no answer in time.
        """
        members, _ = await self._room._rooms.presence_get(self._room.name, count_only=False)
        return members

    async def get_count(self) -> int:
        """Asks the server how many users are there now; works in every mode.

        Raises:
            PresenceUnavailable: presence cannot be told at the moment.
            RequestTimeout: no answer in time.
        """
        _, count = await self._room._rooms.presence_get(self._room.name, count_only=True)
        return count

    async def set(self, meta: Mapping[str, str]) -> None:
        """Replaces what others see of this session. Kept over reconnects.

        Example::

            desk = await bus.join("front-desk", meta={"status": "here"})
            await desk.presence.set({"status": "away"})

        Raises:
            PresenceNotSeen: the room was joined with mode ``none`` or ``watch``.
            MetaTooLarge: over the platform's limit (``presence.max_meta_bytes``).
            TypeError: `meta` is no mapping of text to text.
        """
        if self._mode in ("none", "watch"):
            raise PresenceNotSeen(f"{self._room.name} was joined with presence={self._mode!r}")
        await self._room._set_meta(_wire.check_meta(meta))

    async def __aiter__(self) -> AsyncIterator[PresenceChange]:
        if self._mode not in ("full", "watch"):
            raise self._not_told("full")
        watcher = Watcher(self._members)
        self._watchers.add(watcher)
        try:
            while True:
                change = watcher.next(self._members)
                if change is not None:
                    if not (self._ended and self._error is None):
                        yield change
                elif self._ended:
                    if self._error is not None:
                        raise self._error._again()
                    return
                else:
                    await self._stirred(watcher)
        finally:
            self._watchers.discard(watcher)

    async def counts(self) -> AsyncIterator[int]:
        """How many users are in the room, now and whenever that changes. If it changes faster
        than it is read, only the newest is told.

        Example::

            hall = await bus.join("hall", presence="count")
            async for count in hall.presence.counts():
                print(count)  # prints: 1

        Raises:
            PresenceNotTold: the room was joined with mode ``none``.
        """
        if self._mode == "none":
            raise self._not_told("count")
        watcher = Watcher({})
        self._counters.add(watcher)
        told: int | None = None
        try:
            while not self._ended:
                if self._count is not None and self._count != told:
                    told = self._count
                    yield told
                else:
                    await self._stirred(watcher)
            if self._error is not None:
                raise self._error._again()
        finally:
            self._counters.discard(watcher)

    async def _stirred(self, watcher: Watcher) -> None:
        self._room._rooms.check_loop()
        watcher.wake = asyncio.get_running_loop().create_future()
        try:
            await watcher.wake
        finally:
            watcher.wake = None

    def _not_told(self, mode: PresenceMode) -> PresenceNotTold:
        return PresenceNotTold(
            f"{self._room.name} was joined with presence={self._mode!r}; join it with {mode!r}"
        )

    # -- what the server tells

    def _told_state(
        self,
        members: list[Member],
        count: int,
        size: int,
        *,
        ref: int,
        last_page: bool,
        truncated: bool,
    ) -> None:
        pages, before = self._pages.pop(ref, ({}, 0))
        size += before
        pages.update((member.user, member) for member in members)
        if size > _wire.LARGEST_STATE or len(pages) > _MAX_MEMBERS:
            raise ServerGarbage(f"the presence of {self._room.name} does not end")
        if not last_page:
            self._pages[ref] = pages, size
            return
        self._ready = True
        self._truncated = truncated
        self._members = {} if truncated else pages
        self._told_count(count)
        if not truncated:
            # A truncated room is not an empty one: nobody is told to have left.
            for watcher in self._watchers:
                watcher.touch_all(self._members)

    def _forget_pages(self, ref: int) -> None:
        """Whoever asked does not wait any more."""
        self._pages.pop(ref, None)

    def _told_update(self, members: list[Member], count: int) -> None:
        if self._mode in ("full", "watch"):
            self._members.update((member.user, member) for member in members)
            if len(self._members) > _MAX_MEMBERS:
                raise ServerGarbage(f"{self._room.name} has members without end")
            self._touch([member.user for member in members])
        self._told_count(count)

    def _told_leave(self, users: list[str], count: int) -> None:
        for user in users:
            self._members.pop(user, None)
        self._touch(users)
        self._told_count(count)

    def _told_count(self, count: int) -> None:
        self._ready = True
        self._count = count
        for watcher in self._counters:
            watcher.stir()

    def _touch(self, users: list[str]) -> None:
        for watcher in self._watchers:
            watcher.touch(users, self._members)

    def _disconnected(self) -> None:
        self._ready = False
        self._pages.clear()

    def _end(self, error: ArqonError | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
        for watcher in (*self._watchers, *self._counters):
            watcher.stir()
