"""Sessions, rooms and presence of all tenants. No socket and no clock of its own."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable

from .. import _wire
from .._proto import envelope_pb2 as pb
from ._claims import Identity, Refused, judge
from ._faults import Faults
from ._presence import Clock, RoomPresence
from ._session import Published, Session
from ._settings import Settings


class Hub:
    """What all sessions of a gateway share."""

    def __init__(self, settings: Settings, clock: Clock, on_change: Callable[[], None]) -> None:
        self.settings = settings
        self.clock = clock
        self.faults = Faults()
        self.sessions: dict[str, Session] = {}
        self.suspended: set[str] = set()
        self.messages: deque[Published] = deque(maxlen=settings.kept_messages)
        self._members: dict[tuple[str, str], dict[str, Session]] = {}
        self._presences: dict[tuple[str, str], RoomPresence] = {}
        self._on_change = on_change
        self._last_id = 0

    def judge(self, token: str) -> Identity:
        """Who a token is for.

        Raises:
            Refused: it is not taken.
        """
        identity = judge(token, self.settings, self.clock.wall())
        if identity.tenant in self.suspended:
            raise Refused("TENANT_SUSPENDED")
        return identity

    def new_session_id(self) -> str:
        """A UUIDv7 above all before it: sessions are listed in the order of their ids."""
        self._last_id = max(uuid.UUID(_wire.uuid7()).int, self._last_id + 1)
        return str(uuid.UUID(int=self._last_id))

    def open(
        self,
        identity: Identity,
        write: Callable[[bytes], None],
        close: Callable[[int, str], None],
    ) -> Session:
        """A session whose upgrade was accepted."""
        session = Session(self, identity, write, close)
        self.sessions[session.id] = session
        session.open()
        self._on_change()
        return session

    def forget(self, session: Session) -> None:
        """A session is no more."""
        self.sessions.pop(session.id, None)
        self._on_change()

    def of(self, tenant: str | None = None, user: str | None = None) -> list[Session]:
        """The sessions of a tenant, or of one of its users."""
        return [
            session
            for session in self.sessions.values()
            if (tenant is None or session.identity.tenant == tenant)
            and (user is None or session.identity.user == user)
        ]

    # -- rooms

    def join(self, session: Session, room: str) -> None:
        """A session is in a room from here on."""
        members = self._members.setdefault((session.identity.tenant, room), {})
        members[session.id] = session
        self._on_change()

    def leave(self, session: Session, room: str) -> None:
        """A session left a room."""
        key = session.identity.tenant, room
        members = self._members.get(key, {})
        members.pop(session.id, None)
        if not members:
            self._members.pop(key, None)
        presence = self._presences.get(key)
        if presence is not None:
            presence.leave(session.id, session.identity.user)
        self._on_change()

    def members(self, tenant: str, room: str) -> list[Session]:
        """The sessions in a room."""
        return list(self._members.get((tenant, room), {}).values())

    def deliver(self, published: Published, message: pb.Envelope) -> None:
        """Gives a message to every member of its room."""
        self.messages.append(published)
        for member in self.members(published.tenant, published.room):
            if member.id != published.session or member.rooms[published.room]:
                member.send(message)
        self._on_change()

    def presence(self, tenant: str, room: str) -> RoomPresence:
        """Who is in a room."""
        key = tenant, room
        presence = self._presences.get(key)
        if presence is None:
            # Rooms that nobody is in any more go when another comes, so that their last leaves
            # are told first.
            unused = [at for at, known in self._presences.items() if not known.in_use]
            for at in unused:
                self._presences.pop(at).stop()
            presence = RoomPresence(room, self.settings, self.clock)
            self._presences[key] = presence
        return presence

    # -- all at once

    def end_all(self, code: str | int | None) -> int:
        """Closes every session; how many there were."""
        sessions = list(self.sessions.values())
        for session in sessions:
            session.end(code)
        return len(sessions)

    def clear(self) -> None:
        """Forgets every session and room, as a new process would."""
        self.end_all(None)
        for presence in self._presences.values():
            presence.stop()
        self._presences.clear()
        self._members.clear()
