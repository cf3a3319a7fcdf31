"""Envelopes to and from bytes. Pure: no connection, no clock but that of ids."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone

from google.protobuf.message import DecodeError

from ._proto import envelope_pb2 as pb
from ._trace import TRACEPARENT
from ._types import Gap, GapReason, Limits, Member, MemberSession, PresenceMode, Session
from .errors import (
    ArqonError,
    HeaderInvalid,
    HeaderReserved,
    HeadersTooLarge,
    PayloadTooLarge,
    PolicyError,
    RoomNameInvalid,
    ServerGarbage,
    from_code,
)

SUBPROTOCOL = "arqon.v1"
PROTOCOL_VERSION = 1

#: What a server sends, and the body that belongs to it.
_SERVER_BODIES: Mapping[int, str | None] = {
    pb.OPCODE_WELCOME: "welcome",
    pb.OPCODE_JOINED: "joined",
    pb.OPCODE_LEFT: "left",
    pb.OPCODE_ACK: "ack",
    pb.OPCODE_ERROR: "error",
    pb.OPCODE_MESSAGE: "message",
    pb.OPCODE_GAP: "gap",
    pb.OPCODE_PRESENCE_STATE: "presence_state",
    pb.OPCODE_PRESENCE_UPDATE: "presence_update",
    pb.OPCODE_PRESENCE_LEAVE: "presence_leave",
    pb.OPCODE_PRESENCE_COUNT: "presence_count",
    pb.OPCODE_TOKEN_EXPIRING: "token_expiring",
    pb.OPCODE_REFRESHED: "refreshed",
    pb.OPCODE_GOAWAY: "goaway",
    pb.OPCODE_PONG: None,
}
#: Opcodes of servers, today's and tomorrow's.
_SERVER_OPCODES = range(64, 128)

MODES: Mapping[PresenceMode, pb.PresenceMode] = {
    "none": pb.PRESENCE_MODE_NONE,
    "count": pb.PRESENCE_MODE_COUNT,
    "full": pb.PRESENCE_MODE_FULL,
    "watch": pb.PRESENCE_MODE_WATCH,
}

_GAP_REASONS: Mapping[int, GapReason] = {
    pb.GAP_REASON_SPINE_RECONNECTED: GapReason.SPINE_RECONNECTED,
    pb.GAP_REASON_SEQUENCE: GapReason.SEQUENCE,
    pb.GAP_REASON_SLOW_READER: GapReason.SLOW_READER,
    pb.GAP_REASON_SHIELD_OVERLOADED: GapReason.SHIELD_OVERLOADED,
    pb.GAP_REASON_LATEST_ONLY: GapReason.LATEST_ONLY,
}

_ROOM = re.compile(r"(?!_)[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}", flags=re.ASCII)
_ROOM_BYTES = 200
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", flags=re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: Bytes of a `traceparent`, which is not counted among an application's headers.
_TRACEPARENT_BYTES = 256
_UUID7 = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    flags=re.ASCII | re.IGNORECASE,
)
#: Bytes that the pages of one answer or presence state may have: twice the most that a Shield tells
#: of a room.
LARGEST_STATE = 32 * 1024 * 1024
#: The longest wait that a server may ask for, in seconds.
LONGEST_WAIT = 3600.0


class UnknownFrame(Exception):
    """A frame of a newer server. It is left out, so that old clients go on."""


def decode(data: bytes) -> pb.Envelope:
    """The frame of a server.

    Raises:
        ServerGarbage: it is none; the message begins with the name of the code that says why.
        UnknownFrame: its opcode is a server's, and not known here.
    """
    try:
        envelope = pb.Envelope.FromString(data)
    except (DecodeError, ValueError):
        raise ServerGarbage(
            f"ENVELOPE_UNDECODABLE: {len(data)} bytes are no Protobuf Envelope"
        ) from None
    op = int(envelope.op)
    body = _SERVER_BODIES.get(op, "")
    if body == "":
        if op in _SERVER_OPCODES:
            raise UnknownFrame(f"opcode {op}")
        raise ServerGarbage(f"UNKNOWN_OPCODE: {op} is none that a server sends")
    if envelope.WhichOneof("body") != body:
        raise ServerGarbage(f"PROTOCOL_MISMATCH: opcode {op} and the body disagree")
    return envelope


def check_room(room: str) -> str:
    """The name itself.

    Raises:
        RoomNameInvalid: it is none. Nothing was sent.
    """
    if not isinstance(room, str) or len(room) > _ROOM_BYTES or not _ROOM.fullmatch(room):
        raise RoomNameInvalid(f"{room!r} is no room")
    return room


def check_payload(payload: bytes, limits: Limits) -> None:
    """Raises ``PayloadTooLarge`` before anything is sent."""
    limit = limits.max_payload_bytes
    if limit and len(payload) > limit:
        raise PayloadTooLarge(f"the payload has {len(payload)} bytes, {limit} are allowed")


def check_headers(headers: Mapping[str, str], limits: Limits) -> None:
    """Raises before anything is sent, by the rules of the server."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is a mapping of text to text, not {type(headers).__name__}")
    count = size = 0
    for key, value in headers.items():
        if not isinstance(key, str) or not _HEADER_NAME.fullmatch(key):
            raise HeaderInvalid(f"{key!r} is no header name")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise HeaderInvalid(f"the value of {key} is no text, or holds a control character")
        lower = key.lower()
        if lower.startswith("x-"):
            raise HeaderReserved(f"{key} may not be sent; an id goes by twist_id=")
        if lower == TRACEPARENT != key:
            raise HeaderReserved(f"{key} may not be sent; a trace context is in {TRACEPARENT}")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise HeaderInvalid(f"the value of {key} holds half a character") from None
        if key != TRACEPARENT:
            count += 1
            size += len(key) + length
        elif length > _TRACEPARENT_BYTES:
            raise HeadersTooLarge(f"{key} has {length} bytes, {_TRACEPARENT_BYTES} are allowed")
    if limits.max_headers and count > limits.max_headers:
        raise HeadersTooLarge(f"{count} headers, {limits.max_headers} are allowed")
    if limits.max_header_bytes and size > limits.max_header_bytes:
        raise HeadersTooLarge(
            f"the headers have {size} bytes, {limits.max_header_bytes} are allowed"
        )


def check_twist_id(twist_id: str) -> str:
    """The id as the platform writes it.

    Raises:
        HeaderInvalid: it is none, and the platform would give another. Nothing was sent.
    """
    if not isinstance(twist_id, str) or not _UUID7.fullmatch(twist_id):
        raise HeaderInvalid(f"twist_id is a UUIDv7 in its text form, not {twist_id!r}")
    return twist_id.lower()


def check_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """A copy that Protobuf takes.

    Raises:
        TypeError: it is no mapping of text to text.
        ValueError: a text of it holds half a character.
    """
    if not isinstance(meta, Mapping):
        raise TypeError(f"meta is a mapping of text to text, not {type(meta).__name__}")
    for key, value in meta.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise TypeError(f"meta is a mapping of text to text; {key!r} has {value!r}")
            text.encode()
    return dict(meta)


def publish(
    room: str,
    payload: bytes,
    ref: int,
    *,
    ack: bool,
    headers: Mapping[str, str] | None,
    twist_id: str | None,
    traceparent: str | None,
    limits: Limits,
) -> bytes:
    """A PUBLISH. Headers of the application go before the `traceparent`, which is left out where
    the frame has no room for it, too: no trace is worth a message.
    """
    envelope = pb.Envelope(op=pb.OPCODE_PUBLISH, room=room, ref=ref, payload=payload)
    if ack:
        envelope.publish.ack = True
    if headers:
        envelope.headers.update(headers)
    if twist_id is not None:
        envelope.headers["X-Twist-ID"] = twist_id
    if traceparent is not None and not (headers and TRACEPARENT in headers):
        envelope.headers[TRACEPARENT] = traceparent
        frame = envelope.SerializeToString()
        if not limits.max_frame_bytes or len(frame) <= limits.max_frame_bytes:
            return frame
        del envelope.headers[TRACEPARENT]
    return envelope.SerializeToString()


def join(room: str, ref: int, *, echo: bool, mode: PresenceMode, meta: Mapping[str, str]) -> bytes:
    """A JOIN."""
    body = pb.Join(echo=echo, presence=MODES[mode], meta=meta)
    return pb.Envelope(op=pb.OPCODE_JOIN, room=room, ref=ref, join=body).SerializeToString()


def leave(room: str, ref: int) -> bytes:
    """A LEAVE."""
    return pb.Envelope(op=pb.OPCODE_LEAVE, room=room, ref=ref).SerializeToString()


def presence_get(room: str, ref: int, *, count_only: bool) -> bytes:
    """A PRESENCE_GET."""
    body = pb.PresenceGet(count_only=count_only)
    return pb.Envelope(
        op=pb.OPCODE_PRESENCE_GET, room=room, ref=ref, presence_get=body
    ).SerializeToString()


def presence_set(room: str, ref: int, meta: Mapping[str, str]) -> bytes:
    """A PRESENCE_SET."""
    body = pb.PresenceSet(meta=meta)
    return pb.Envelope(
        op=pb.OPCODE_PRESENCE_SET, room=room, ref=ref, presence_set=body
    ).SerializeToString()


def refresh(token: str, ref: int) -> bytes:
    """A REFRESH."""
    body = pb.Refresh(token=token)
    return pb.Envelope(op=pb.OPCODE_REFRESH, ref=ref, refresh=body).SerializeToString()


def ping(ref: int) -> bytes:
    """A PING."""
    return pb.Envelope(op=pb.OPCODE_PING, ref=ref).SerializeToString()


def check_code(code: int) -> None:
    """Raises ``ServerGarbage`` for a code that no frame of a server carries: those of closes, and
    those that this library alone raises, such as `ClientClosed`.
    """
    if not 1000 <= code < 4000:
        raise ServerGarbage(f"PROTOCOL_MISMATCH: {code} is no code of an ERROR or LEFT")


def error_of(envelope: pb.Envelope) -> ArqonError:
    """What an ERROR says.

    Raises:
        ServerGarbage: nothing that a server says.
    """
    told = envelope.error
    check_code(told.code)
    error = from_code(
        told.code,
        told.name,
        told.message,
        retryable=told.retryable,
        retry_after=min(told.retry_after_ms / 1000, LONGEST_WAIT) or None,
    )
    if isinstance(error, PolicyError):
        error.policy, error.reason = told.policy, told.reason
    return error


def session_of(welcome: pb.Welcome) -> Session:
    """What a WELCOME says."""
    limits = welcome.limits
    return Session(
        id=welcome.session_id,
        user=welcome.user,
        tenant=welcome.tenant,
        shield=welcome.shield_id,
        heartbeat=float(welcome.heartbeat_secs),
        expires_at=_time(welcome.token_expires_at * 1000),
        limits=Limits(
            max_payload_bytes=limits.max_payload_bytes,
            max_frame_bytes=limits.max_frame_bytes,
            max_rooms=limits.max_rooms,
            max_headers=limits.max_headers,
            max_header_bytes=limits.max_header_bytes,
        ),
        features=frozenset(welcome.features),
    )


def gap_of(envelope: pb.Envelope) -> Gap:
    """What a GAP says."""
    told = envelope.gap
    return Gap(
        room=envelope.room,
        reason=_GAP_REASONS.get(int(told.reason), GapReason.UNKNOWN),
        missed=told.missed if told.HasField("missed") else None,
    )


def member_of(member: pb.PresenceMember) -> Member:
    """What a member of PRESENCE_STATE or PRESENCE_UPDATE says."""
    sessions = tuple(
        MemberSession(
            session=told.session,
            meta=dict(told.meta),
            joined_at=_time(told.joined_at_ms),
            last_active_at=_time(told.last_active_at_ms),
        )
        for told in member.sessions
    )
    return Member(member.user, sessions, member.session_count or len(sessions))


def expiry_of(seconds: int) -> datetime:
    """A time of TOKEN_EXPIRING or REFRESHED."""
    return _time(seconds * 1000)


def uuid7() -> str:
    """A new id of a message: a UUIDv7 (RFC 9562) in its text form, which begins with the time.

    Example::

        twist_id = arqon.new_twist_id()  # keep it, to publish the same message again with it
        await room.publish(b"order 17", ack=True, twist_id=twist_id)
    """
    value = int.from_bytes(os.urandom(10), "big")
    value |= (time.time_ns() // 1_000_000) << 80
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _time(milliseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (OverflowError, OSError, ValueError):
        # A time beyond what Python can hold: a token that never expires, for instance.
        return datetime.max.replace(tzinfo=timezone.utc)
