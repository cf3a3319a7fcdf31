"""What each frame of the server does to a core. Runs inside the reader, so it never waits."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from . import _wire
from ._connection import Link
from ._proto import envelope_pb2 as pb
from ._types import Gap, GapReason, Message, PublishFailed, ReconnectAsked, ServerProblem
from .errors import ServerGarbage, from_code

if TYPE_CHECKING:
    from ._core import Core

#: The correlation id of all fire-and-forget publishes: an ERROR with it is an event.
FIRE_AND_FORGET = 1


class Dispatch:
    """Takes the frames of a client's connection."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._handlers: Mapping[int, Callable[[pb.Envelope, int], None]] = {
            pb.OPCODE_MESSAGE: self._message,
            pb.OPCODE_ACK: self._answer,
            pb.OPCODE_JOINED: self._joined,
            pb.OPCODE_LEFT: self._left,
            pb.OPCODE_ERROR: self._error,
            pb.OPCODE_GAP: self._gap,
            pb.OPCODE_PRESENCE_STATE: self._presence_state,
            pb.OPCODE_PRESENCE_UPDATE: self._presence_update,
            pb.OPCODE_PRESENCE_LEAVE: self._presence_leave,
            pb.OPCODE_PRESENCE_COUNT: self._presence_count,
            pb.OPCODE_TOKEN_EXPIRING: self._token_expiring,
            pb.OPCODE_REFRESHED: self._refreshed,
            pb.OPCODE_GOAWAY: self._goaway,
            pb.OPCODE_PONG: self._answer,
        }

    def frame(self, link: Link, envelope: pb.Envelope, size: int) -> None:
        """Takes one frame; of a connection that is no longer in use, none."""
        if link is self._core.hearing:
            try:
                self._handlers[int(envelope.op)](envelope, size)
            except ServerGarbage as error:
                link.fail(error)

    def expires(self, at: datetime) -> None:
        """The token in force expires then."""
        session = self._core.session
        if session is not None:
            self._core.session = dataclasses.replace(session, expires_at=at)

    def _message(self, envelope: pb.Envelope, size: int) -> None:
        room = self._core.rooms.by_name.get(envelope.room)
        if room is None or not room._joined:
            return
        if room._inbox.put(Message(envelope), size):
            # Who only iterates messages should hear of it too.
            self._core.events.emit(Gap(room.name, GapReason.LOCAL_OVERFLOW, None))

    def _answer(self, envelope: pb.Envelope, size: int) -> None:
        if envelope.ref:
            self._core.requests.answered(envelope, size)

    def _refreshed(self, envelope: pb.Envelope, size: int) -> None:
        if self._core.requests.answered(envelope, size):
            self._core.refreshes += 1

    def _joined(self, envelope: pb.Envelope, size: int) -> None:
        core = self._core
        core.requests.answered(envelope, size)
        room = core.rooms.by_name.get(envelope.room)
        # Also one that comes after its time: the server has the room.
        if room is not None and envelope.ref in room._join_refs and not room._joined:
            # Here and not in the task that waits: what follows in this very read belongs to it.
            room._on_joined()
            core.notify()

    def _left(self, envelope: pb.Envelope, size: int) -> None:
        core = self._core
        if envelope.ref and core.requests.answered(envelope, size):
            return
        told = envelope.left
        room = core.rooms.by_name.get(envelope.room)
        # Where the room is just being joined, this is of the membership before.
        if room is not None and room._joined and told.code:
            _wire.check_code(told.code)
            core.rooms.end_room(room, from_code(told.code, told.name))

    def _error(self, envelope: pb.Envelope, size: int) -> None:
        core = self._core
        error = _wire.error_of(envelope)
        ref, room = envelope.ref, envelope.room
        if ref > FIRE_AND_FORGET:
            # An answer that came too late was told as that already.
            core.requests.refused(ref, error)
        elif ref == FIRE_AND_FORGET:
            core.events.emit(PublishFailed(room, error))
        else:
            core.events.emit(ServerProblem(room, error))

    def _gap(self, envelope: pb.Envelope, size: int) -> None:
        core = self._core
        room = core.rooms.by_name.get(envelope.room)
        if room is not None and room._joined:
            gap = _wire.gap_of(envelope)
            room._inbox.put_gap(gap)
            core.events.emit(gap)

    def _presence_state(self, envelope: pb.Envelope, size: int) -> None:
        told = envelope.presence_state
        core = self._core
        ref = envelope.ref
        asked = bool(ref) and core.requests.answered(envelope, size, last=told.last_page)
        room = core.rooms.by_name.get(envelope.room)
        # An answer to PRESENCE_GET replaces what a watcher knows, too. The first state after JOIN
        # has its correlation id; one that nobody asked for has none.
        if room is None or room.presence.mode not in ("full", "watch"):
            return
        if ref and not asked and ref not in room._join_refs:
            room.presence._forget_pages(ref)
        else:
            room.presence._told_state(
                [_wire.member_of(member) for member in told.members],
                told.count,
                size,
                ref=ref,
                last_page=told.last_page,
                truncated=told.truncated,
            )

    def _presence_update(self, envelope: pb.Envelope, size: int) -> None:
        room = self._core.rooms.by_name.get(envelope.room)
        if room is not None:
            told = envelope.presence_update
            members = [_wire.member_of(member) for member in told.members]
            room.presence._told_update(members, told.count)

    def _presence_leave(self, envelope: pb.Envelope, size: int) -> None:
        room = self._core.rooms.by_name.get(envelope.room)
        if room is not None:
            told = envelope.presence_leave
            room.presence._told_leave(list(told.users), told.count)

    def _presence_count(self, envelope: pb.Envelope, size: int) -> None:
        if envelope.ref:
            self._core.requests.answered(envelope, size)
        room = self._core.rooms.by_name.get(envelope.room)
        if room is not None:
            room.presence._told_count(envelope.presence_count.count)

    def _token_expiring(self, envelope: pb.Envelope, size: int) -> None:
        self.expires(_wire.expiry_of(envelope.token_expiring.expires_at))
        self._core.refresh_soon()

    def _goaway(self, envelope: pb.Envelope, size: int) -> None:
        told = envelope.goaway
        spread = random.uniform(0.0, told.spread_ms / 1000)
        after = min(told.retry_after_ms / 1000 + spread, _wire.LONGEST_WAIT)
        self._core.go_away(after)
        self._core.events.emit(ReconnectAsked(after))
