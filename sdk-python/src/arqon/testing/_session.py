"""The rules of one session: what a client may do, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .. import _wire
from .._proto import envelope_pb2 as pb
from . import _frames
from ._claims import Identity, Refused
from ._frames import CODES, ECHOED_ROOM, Fault
from ._names import is_room
from ._presence import Handle

if TYPE_CHECKING:
    from ._hub import Hub

_OFFENCE_WINDOW = 60.0
#: TOKEN_EXPIRING comes so many seconds before the end, or after two thirds of a shorter life.
_WARN_BEFORE = 30.0
_ACTIVE_EVERY = 15.0

#: What a client that follows the protocol never does.
_OFFENCES = frozenset(
    {
        "PAYLOAD_TOO_LARGE",
        "HEADERS_TOO_LARGE",
        "HEADER_RESERVED",
        "HEADER_INVALID",
        "META_TOO_LARGE",
    }
)


class Published:
    """A message that a client published, as every member of the room received it.

    Attributes:
        tenant: whose room it is.
        room: the room.
        payload: its bytes.
        user: who published it.
        session: the publisher's session.
        headers: all headers, the gateway's among them.
        twist_id: its ``X-Twist-ID``.
        ack: whether an acknowledgement was asked for.
    """

    __slots__ = ("ack", "headers", "payload", "room", "session", "tenant", "twist_id", "user")

    def __init__(
        self, identity: Identity, session: str, message: pb.Envelope, twist_id: str, ack: bool
    ) -> None:
        self.tenant = identity.tenant
        self.room = message.room
        self.payload = message.payload
        self.user = identity.user
        self.session = session
        self.headers = dict(message.headers)
        self.twist_id = twist_id
        self.ack = ack

    def __repr__(self) -> str:
        return f"Published({self.tenant}/{self.room} from {self.user}: {self.payload!r})"


class Session:
    """One session. ``write`` takes what its client gets, ``close`` a code and a reason."""

    def __init__(
        self,
        hub: Hub,
        identity: Identity,
        write: Callable[[bytes], None],
        close: Callable[[int, str], None],
    ) -> None:
        self.id = hub.new_session_id()
        self.identity = identity
        self.rooms: dict[str, bool] = {}  # and whether it hears itself
        self.closed = False
        self._hub = hub
        self._settings = hub.settings
        self._write = write
        self._close = close
        self._offences = 0
        self._window = float("-inf")
        self._marked = hub.clock.monotonic()
        self._timers: list[Handle] = []
        self._token_timers: list[Handle] = []
        self._owed: list[tuple[Handle, pb.Envelope]] = []
        self._handlers: dict[int, Callable[[pb.Envelope], str | None]] = {
            pb.OPCODE_JOIN: self._join,
            pb.OPCODE_LEAVE: self._leave,
            pb.OPCODE_PUBLISH: self._publish,
            pb.OPCODE_PRESENCE_GET: self._presence_get,
            pb.OPCODE_PRESENCE_SET: self._presence_set,
        }

    def open(self) -> None:
        """Tells WELCOME."""
        settings, identity = self._settings, self.identity
        limits = pb.Limits(
            max_payload_bytes=settings.max_payload_bytes,
            max_frame_bytes=settings.max_frame_bytes,
            max_rooms=settings.max_rooms,
            max_headers=settings.max_headers,
            max_header_bytes=settings.max_header_bytes,
        )
        welcome = pb.Welcome(
            session_id=self.id,
            user=identity.user,
            tenant=identity.tenant,
            protocol_version=1,
            limits=limits,
            heartbeat_secs=max(1, int(settings.heartbeat)),
            server_time_ms=int(self._hub.clock.wall() * 1000),
            token_expires_at=identity.expires_at,
            features=["presence"],
            shield_id="test",
        )
        self.send(pb.Envelope(op=pb.OPCODE_WELCOME, welcome=welcome))
        self._watch_token()

    # -- to the client

    def send(self, envelope: pb.Envelope) -> None:
        """Queues a frame for the client."""
        if not self.closed:
            self._write(envelope.SerializeToString(deterministic=True))

    def refuse(self, code: str, room: str = "", ref: int = 0) -> None:
        """Queues an ERROR."""
        self.send(_frames.error(code, room, ref))

    def end(self, close: str | int | None = None) -> None:
        """Leaves all rooms; with a code, the client is closed with it after all that was sent."""
        if self.closed:
            return
        if close is not None:
            number, reason = _close_code(close)
            self._close(number, reason)
        self.closed = True
        owed = (timer for timer, _ in self._owed)
        for timer in (*self._timers, *self._token_timers, *owed):
            timer.cancel()
        self._timers, self._token_timers, self._owed = [], [], []
        for room in tuple(self.rooms):
            self._hub.leave(self, room)
        self.rooms.clear()
        self._hub.forget(self)

    def end_later(self, delay: float, close: str) -> None:
        """Ends it after so many seconds."""
        self._timers.append(self._hub.clock.call_later(delay, lambda: self.end(close)))

    # -- from the client

    def on_text(self) -> None:
        """A text frame came."""
        self._offence("TEXT_FRAME")

    def on_binary(self, data: bytes) -> None:
        """A binary frame came."""
        if self.closed:
            return
        try:
            envelope = _frames.decode_client(data)
        except Fault as fault:
            self._offence(fault.code, fault.room, fault.ref)
            return
        op, room, ref = envelope.op, envelope.room, envelope.ref
        if op == pb.OPCODE_PING:
            self.send(pb.Envelope(op=pb.OPCODE_PONG, ref=ref, payload=envelope.payload))
        elif op == pb.OPCODE_REFRESH:
            self._refresh(envelope)
        elif not is_room(room):
            self._offence("ROOM_NAME_INVALID", room, ref)
        else:
            code = self._handlers[int(op)](envelope)
            if code in _OFFENCES:
                self._offence(code, room, ref)
            elif code is not None:
                self.refuse(code, room, ref)

    def _join(self, envelope: pb.Envelope) -> str | None:
        room, options = envelope.room, envelope.join
        if code := _frames.check_meta(options.meta, self._settings):
            return code
        if room in self.rooms:
            return "ALREADY_JOINED"
        if not self.identity.may_join(room):
            return "JOIN_FORBIDDEN"
        if len(self.rooms) >= self._settings.max_rooms:
            return "ROOM_LIMIT"
        if self._hub.faults.hit(self, "join", envelope):
            return None
        echo = options.echo if options.HasField("echo") else True
        mode = options.presence or pb.PRESENCE_MODE_NONE
        if mode not in pb.PresenceMode.values():
            mode = pb.PRESENCE_MODE_NONE
        joined = pb.Joined(echo=echo, presence=mode)
        self.rooms[room] = echo
        self._hub.join(self, room)
        self.send(pb.Envelope(op=pb.OPCODE_JOINED, room=room, ref=envelope.ref, joined=joined))
        if mode != pb.PRESENCE_MODE_NONE:
            presence = self._hub.presence(self.identity.tenant, room)
            presence.enter(self, self.identity.user, mode, options.meta, envelope.ref)
        return None

    def _leave(self, envelope: pb.Envelope) -> str | None:
        if envelope.room not in self.rooms:
            return "NOT_JOINED"
        del self.rooms[envelope.room]
        self._hub.leave(self, envelope.room)
        self.send(_frames.left(envelope.room, envelope.ref))
        return None

    def _publish(self, envelope: pb.Envelope) -> str | None:
        room, identity = envelope.room, self.identity
        if len(envelope.payload) > self._settings.max_payload_bytes:
            return "PAYLOAD_TOO_LARGE"
        headers = dict(envelope.headers)
        if code := _frames.check_headers(headers, self._settings):
            return code
        if not identity.may_publish(room):
            return "PUBLISH_FORBIDDEN"
        if identity.role != "service" and room not in self.rooms:
            return "NOT_JOINED"
        if self._hub.faults.hit(self, "publish", envelope):
            return None
        at = datetime.fromtimestamp(self._hub.clock.wall(), timezone.utc)
        twist = _frames.stamp(headers, at, _wire.uuid7())
        sender = pb.Sender(user=identity.user, session=self.id)
        message = pb.Envelope(
            op=pb.OPCODE_MESSAGE,
            room=room,
            headers=headers,
            payload=envelope.payload,
            message=pb.Message(sender=sender),
        )
        self._mark_active(room)
        published = Published(identity, self.id, message, twist, envelope.publish.ack)
        if blocked := self._hub.faults.judge(published, envelope.ref):
            self.send(blocked)
            return None
        self._hub.deliver(published, message)
        if envelope.publish.ack:
            self._acknowledge(room, envelope.ref, twist)
        return None

    def _acknowledge(self, room: str, ref: int, twist: str) -> None:
        faults = self._hub.faults
        answer = _frames.ack(room, ref, twist)
        if faults.lost_acks > 0:
            faults.lost_acks -= 1
            answer = _frames.error("ACK_UNKNOWN", room, ref)
        if faults.ack_delay <= 0:
            self.send(answer)
            return
        if len(self._owed) >= self._settings.max_unconfirmed:
            self._owed[0][0].cancel()
            self.send(self._owed.pop(0)[1])
        timer = self._hub.clock.call_later(faults.ack_delay, lambda: self._settle(answer))
        self._owed.append((timer, answer))

    def _settle(self, answer: pb.Envelope) -> None:
        self._owed = [owed for owed in self._owed if owed[1] is not answer]
        self.send(answer)

    def _mark_active(self, room: str) -> None:
        now = self._hub.clock.monotonic()
        if now >= self._marked + _ACTIVE_EVERY:
            self._marked = now
            presence = self._hub.presence(self.identity.tenant, room)
            presence.active(self.id, self.identity.user)

    def _presence_get(self, envelope: pb.Envelope) -> str | None:
        if envelope.room not in self.rooms:
            return "NOT_JOINED"
        if not self._hub.faults.hit(self, "presence_get", envelope):
            presence = self._hub.presence(self.identity.tenant, envelope.room)
            presence.get(self, envelope.ref, count_only=envelope.presence_get.count_only)
        return None

    def _presence_set(self, envelope: pb.Envelope) -> str | None:
        meta = envelope.presence_set.meta
        if code := _frames.check_meta(meta, self._settings):
            return code
        if envelope.room not in self.rooms:
            return "NOT_JOINED"
        if self._hub.faults.hit(self, "presence_set", envelope):
            return None
        presence = self._hub.presence(self.identity.tenant, envelope.room)
        seen = presence.set_meta(self.id, self.identity.user, meta)
        return None if seen else "PRESENCE_NOT_SEEN"

    # -- tokens

    def _refresh(self, envelope: pb.Envelope) -> None:
        ref = envelope.ref
        if self._hub.faults.hit(self, "refresh", envelope):
            return
        try:
            identity = self._hub.judge(envelope.refresh.token)
        except Refused as refused:
            # Each try costs a signature check in a real gateway, so guessing has an end.
            if CODES[refused.code].retry == "new_token":
                self._offence(refused.code, "", ref)
            else:
                self.refuse(refused.code, "", ref)
            return
        if (identity.tenant, identity.user) != (self.identity.tenant, self.identity.user):
            self._offence("TOKEN_MISMATCH", "", ref)
            return
        self.identity = identity
        self._watch_token()
        refreshed = pb.Refreshed(expires_at=identity.expires_at)
        self.send(pb.Envelope(op=pb.OPCODE_REFRESHED, ref=ref, refreshed=refreshed))
        for room in sorted(self.rooms):
            if not identity.may_join(room):
                del self.rooms[room]
                self._hub.leave(self, room)
                self.send(_frames.left(room, 0, "JOIN_FORBIDDEN"))

    def _watch_token(self) -> None:
        for timer in self._token_timers:
            timer.cancel()
        identity, clock = self.identity, self._hub.clock
        left = max(0.0, identity.expires_at - clock.wall())
        before = min(_WARN_BEFORE, (identity.expires_at - identity.issued_at) / 3)
        self._token_timers = [
            clock.call_later(max(0.0, left - before), self.tell_expiring),
            clock.call_later(left + self._settings.grace, self._expired),
        ]

    def tell_expiring(self) -> None:
        """Tells TOKEN_EXPIRING."""
        body = pb.TokenExpiring(expires_at=self.identity.expires_at)
        self.send(pb.Envelope(op=pb.OPCODE_TOKEN_EXPIRING, token_expiring=body))

    def _expired(self) -> None:
        self.end("TOKEN_EXPIRED_CLOSE")

    # -- offences

    def _offence(self, code: str, room: str = "", ref: int = 0) -> None:
        if self.closed:
            return
        now = self._hub.clock.monotonic()
        if now - self._window >= _OFFENCE_WINDOW:
            self._window, self._offences = now, 0
        self._offences += 1
        self.refuse(code, room if len(room.encode()) <= ECHOED_ROOM else "", ref)
        if self._offences > self._settings.max_offences:
            self.end("TOO_MANY_OFFENCES")


def _close_code(code: str | int) -> tuple[int, str]:
    if isinstance(code, str):
        return CODES[code].number, code
    # 1001 and its like are errors, too, which are no reason to close.
    closes = (entry for entry in CODES.values() if entry.kind == "close")
    return code, next((entry.name for entry in closes if entry.number == code), "")
