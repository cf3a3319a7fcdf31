"""Presence of one room: who is seen, who watches, and what each of them was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .._proto import envelope_pb2 as pb
from ._settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Handle(Protocol):
    """What can be called off."""

    def cancel(self) -> None:
        """Calls it off."""


class Clock(Protocol):
    """Time, and what shall happen in it."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wall(self) -> float:
        """Seconds since the Unix epoch."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        """Calls it after so many seconds."""


class Watcher(Protocol):
    """A session, as far as presence needs it."""

    id: str

    def send(self, envelope: pb.Envelope) -> None:
        """Queues a frame for its client."""


@dataclass
class _Seen:
    """One session that is seen."""

    meta: dict[str, str]
    joined_at_ms: int
    last_active_at_ms: int


@dataclass
class _Hears:
    """One session that is told of changes."""

    watcher: Watcher
    full: bool
    #: Changes up to this number were in the state that it was given.
    known: int
    #: The count that it was told last, where it hears counts.
    count: int = -1


@dataclass
class RoomPresence:
    """Rules of presence. Changes are gathered for ``presence_tick`` and told together; a leave
    waits for ``leave_delay``, and is not told where the user is back by then.
    """

    room: str
    settings: Settings
    clock: Clock
    _users: dict[str, dict[str, _Seen]] = field(default_factory=dict)
    _hearers: dict[str, _Hears] = field(default_factory=dict)
    #: Users with a change that is not told yet, and the number of its last change.
    _dirty: dict[str, int] = field(default_factory=dict)
    #: Users whose leave is not told yet, and the number of that change.
    _leaving: dict[str, int] = field(default_factory=dict)
    _changes: int = 0
    _truncated: bool = False
    _flush: Handle | None = None

    @property
    def in_use(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._users or self._hearers or self._leaving)

    def count(self) -> int:
        """Users in the room."""
        return len(self._users)

    # -- what sessions do

    def enter(
        self, watcher: Watcher, user: str, mode: int, meta: Mapping[str, str], ref: int
    ) -> None:
        """A session joined with presence: its first state carries the reference of its JOIN."""
        if mode in (pb.PRESENCE_MODE_COUNT, pb.PRESENCE_MODE_FULL):
            now = self._now_ms()
            self._users.setdefault(user, {})[watcher.id] = _Seen(dict(meta), now, now)
            self._changed(user)
        full = mode != pb.PRESENCE_MODE_COUNT
        hears = _Hears(watcher, full, self._changes)
        self._hearers[watcher.id] = hears
        if full:
            self._tell_state((watcher,), ref)
        else:
            hears.count = self._shown()
            self._tell_count(watcher, hears.count, ref)

    def set_meta(self, session: str, user: str, meta: Mapping[str, str]) -> bool:
        """Another meta. False: others do not see this session here."""
        seen = self._users.get(user, {}).get(session)
        if seen is None:
            return False
        seen.meta = dict(meta)
        seen.last_active_at_ms = self._now_ms()
        self._changed(user)
        return True

    def active(self, session: str, user: str) -> None:
        """A session did something. Told with the next change of its user."""
        seen = self._users.get(user, {}).get(session)
        if seen is not None:
            seen.last_active_at_ms = self._now_ms()

    def get(self, watcher: Watcher, ref: int, *, count_only: bool) -> None:
        """A session asks."""
        if count_only:
            self._tell_count(watcher, self.count(), ref)
        else:
            self._tell_state((watcher,), ref)

    def leave(self, session: str, user: str) -> None:
        """A session left the room, or is gone."""
        self._hearers.pop(session, None)
        sessions = self._users.get(user)
        if sessions is None or sessions.pop(session, None) is None:
            return
        if not sessions:
            del self._users[user]
        self._changed(user)

    def stop(self) -> None:
        """Nothing is told any more."""
        if self._flush is not None:
            self._flush.cancel()
        self._hearers.clear()
        self._users.clear()
        self._leaving.clear()

    # -- what is told

    def _changed(self, user: str) -> None:
        self._changes += 1
        self._dirty[user] = self._changes
        if self._flush is None:
            self._flush = self.clock.call_later(self.settings.presence_tick, self._on_tick)

    def _on_tick(self) -> None:
        self._flush = None
        dirty, self._dirty = self._dirty, {}
        before = self._shown(), self._truncated
        came: dict[str, int] = {}
        for user, number in dirty.items():
            if user in self._users:
                self._leaving.pop(user, None)
                came[user] = number
            elif user not in self._leaving:
                self._leaving[user] = number
                self.clock.call_later(self.settings.leave_delay, partial(self._left, user, number))
        self._truncated = self.count() > self.settings.full_limit
        if self._truncated or before[1]:
            # Above the limit a count; back below it, everybody anew.
            self._leaving.clear()
            self._tell_state([hears.watcher for hears in self._full()], 0)
        elif came:
            for hears in self._full():
                users = [user for user, number in came.items() if number > hears.known]
                if users:
                    body = pb.PresenceUpdate(members=map(self._member, users), count=self._shown())
                    hears.watcher.send(
                        pb.Envelope(
                            op=pb.OPCODE_PRESENCE_UPDATE, room=self.room, presence_update=body
                        )
                    )
        self._tell_counts()

    def _left(self, user: str, number: int) -> None:
        if self._leaving.get(user) != number:
            return
        del self._leaving[user]
        for hears in self._full():
            if number > hears.known:
                body = pb.PresenceLeave(users=[user], count=self._shown())
                hears.watcher.send(
                    pb.Envelope(op=pb.OPCODE_PRESENCE_LEAVE, room=self.room, presence_leave=body)
                )
        self._tell_counts()

    def _tell_counts(self) -> None:
        shown = self._shown()
        for hears in self._hearers.values():
            if not hears.full and hears.count != shown:
                hears.count = shown
                self._tell_count(hears.watcher, shown, 0)

    def _tell_count(self, watcher: Watcher, count: int, ref: int) -> None:
        body = pb.PresenceCount(count=count)
        watcher.send(
            pb.Envelope(op=pb.OPCODE_PRESENCE_COUNT, room=self.room, ref=ref, presence_count=body)
        )

    def _tell_state(self, watchers: Iterable[Watcher], ref: int) -> None:
        truncated = self.count() > self.settings.full_limit
        users = [] if truncated else sorted(self._users)
        size = self.settings.page_members
        pages = [users[at : at + size] for at in range(0, len(users), size)] or [[]]
        envelopes = [
            pb.Envelope(
                op=pb.OPCODE_PRESENCE_STATE,
                room=self.room,
                ref=ref,
                presence_state=pb.PresenceState(
                    members=map(self._member, page),
                    count=self.count(),
                    last_page=number == len(pages),
                    truncated=truncated,
                ),
            )
            for number, page in enumerate(pages, 1)
        ]
        for watcher in watchers:
            for envelope in envelopes:
                watcher.send(envelope)

    def _member(self, user: str) -> pb.PresenceMember:
        sessions = sorted(self._users[user].items())
        listed = sessions[-self.settings.sessions_listed :]
        if len(listed) < len(sessions):
            listed.reverse()  # the newest first where not all are told
        return pb.PresenceMember(
            user=user,
            sessions=[
                pb.PresenceMeta(
                    session=session,
                    meta=seen.meta,
                    joined_at_ms=seen.joined_at_ms,
                    last_active_at_ms=seen.last_active_at_ms,
                )
                for session, seen in listed
            ],
            session_count=len(sessions),
        )

    def _full(self) -> list[_Hears]:
        return [hears for hears in self._hearers.values() if hears.full]

    def _shown(self) -> int:
        # Those whose leave is not told yet are there.
        leaving = sum(user not in self._users for user in self._leaving)
        untold = sum(user not in self._users and user not in self._leaving for user in self._dirty)
        return self.count() + leaving + untold

    def _now_ms(self) -> int:
        return int(self.clock.wall() * 1000)
