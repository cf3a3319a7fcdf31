"""Frames of clients, checked; frames of a gateway, made. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone

from google.protobuf.message import DecodeError

from .._codes import ENTRIES, Entry
from .._proto import envelope_pb2 as pb
from . import _strict
from ._settings import Settings

CODES: Mapping[str, Entry] = {entry.name: entry for entry in ENTRIES}

_ENVELOPE = pb.DESCRIPTOR.message_types_by_name["Envelope"]
_PING_BYTES = 125
#: No valid room is longer, and an invalid one must not be reflected at the length of a frame.
ECHOED_ROOM = 200
_OWN_VALUE = 256
_META_KEYS = 32
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", flags=re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", flags=re.ASCII)

#: Of each opcode of clients: the bodies it may have, whether it has a room, and a payload.
_RULES: Mapping[int, tuple[frozenset[str | None], bool, bool]] = {
    pb.OPCODE_JOIN: (frozenset({None, "join"}), True, False),
    pb.OPCODE_LEAVE: (frozenset({None}), True, False),
    pb.OPCODE_PUBLISH: (frozenset({None, "publish"}), True, True),
    pb.OPCODE_PRESENCE_GET: (frozenset({None, "presence_get"}), True, False),
    pb.OPCODE_PRESENCE_SET: (frozenset({"presence_set"}), True, False),
    pb.OPCODE_REFRESH: (frozenset({"refresh"}), False, False),
    pb.OPCODE_PING: (frozenset({None}), False, True),
}


class Fault(Exception):
    """A frame that is refused."""

    def __init__(self, code: str, room: str = "", ref: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.room = room if len(room.encode()) <= ECHOED_ROOM else ""
        self.ref = ref


def decode_client(data: bytes) -> pb.Envelope:
    """A client's frame, where opcode, body, room and payload fit each other.

    Raises:
        Fault: they do not, or it is no frame at all.
    """
    try:
        envelope = pb.Envelope.FromString(data)
    except (DecodeError, ValueError):
        raise Fault("ENVELOPE_UNDECODABLE") from None
    if not _strict.fits(data, _ENVELOPE):
        raise Fault("ENVELOPE_UNDECODABLE")
    room, ref = envelope.room, envelope.ref
    rule = _RULES.get(int(envelope.op))
    if rule is None:
        raise Fault("UNKNOWN_OPCODE", room, ref)
    bodies, has_room, has_payload = rule
    fits = envelope.WhichOneof("body") in bodies
    if not fits or (room and not has_room) or (envelope.payload and not has_payload):
        raise Fault("PROTOCOL_MISMATCH", room, ref)
    if envelope.op == pb.OPCODE_PING and len(envelope.payload) > _PING_BYTES:
        raise Fault("PAYLOAD_TOO_LARGE", room, ref)
    return envelope


def check_headers(headers: Mapping[str, str], settings: Settings) -> str | None:
    """The code that a publish with these headers is refused with, if it is."""
    count = size = 0
    # In order of their names, as the gateway has them: the first fault decides.
    for name in sorted(headers, key=str.encode):
        value = headers[name]
        if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value):
            return "HEADER_INVALID"
        if name in ("X-Twist-ID", "traceparent"):
            if len(value.encode()) > _OWN_VALUE:
                return "HEADERS_TOO_LARGE"
        elif name.lower().startswith("x-") or name.lower() == "traceparent":
            return "HEADER_RESERVED"
        else:
            count += 1
            size += len(name) + len(value.encode())
    if count > settings.max_headers or size > settings.max_header_bytes:
        return "HEADERS_TOO_LARGE"
    return None


def check_meta(meta: Mapping[str, str], settings: Settings) -> str | None:
    """The code that this meta is refused with, if it is."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in meta.items())
    if len(meta) > _META_KEYS or size > settings.max_meta_bytes:
        return "META_TOO_LARGE"
    return None


def stamp(headers: dict[str, str], at: datetime, new_id: str) -> str:
    """Sets the headers that are the gateway's; the message's id."""
    twist = _uuid7(headers.get("X-Twist-ID", "")) or new_id
    headers["X-Twist-ID"] = twist
    headers["X-Timestamp"] = f"{at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}Z"
    parent = headers.get("traceparent")
    if parent is not None:
        match = _TRACEPARENT.fullmatch(parent)
        if match is None or not (match[1].strip("0") and match[2].strip("0")):
            del headers["traceparent"]
    return twist


def _uuid7(text: str) -> str | None:
    if len(text) != 36:
        return None
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    hyphens = [at for at, char in enumerate(text) if char == "-"] == [8, 13, 18, 23]
    return str(value) if hyphens and value.version == 7 else None


def error(
    code: str,
    room: str = "",
    ref: int = 0,
    *,
    retry_after: float | None = None,
    policy: str = "",
    reason: str = "",
) -> pb.Envelope:
    """An ERROR."""
    entry = CODES[code]
    body = pb.Error(
        code=entry.number,
        name=entry.name,
        message=entry.help,
        retryable=entry.retry == "later",
        retry_after_ms=round((retry_after or 0.0) * 1000),
        policy=policy,
        reason=reason,
    )
    return pb.Envelope(op=pb.OPCODE_ERROR, room=room, ref=ref, error=body)


def left(room: str, ref: int = 0, code: str | None = None) -> pb.Envelope:
    """A LEFT, by request or for this code."""
    body = pb.Left() if code is None else pb.Left(code=CODES[code].number, name=code)
    return pb.Envelope(op=pb.OPCODE_LEFT, room=room, ref=ref, left=body)


def ack(room: str, ref: int, twist: str) -> pb.Envelope:
    """An ACK."""
    return pb.Envelope(op=pb.OPCODE_ACK, room=room, ref=ref, ack=pb.Ack(twist_id=twist))


def refusal_body(code: str) -> dict[str, object]:
    """What an HTTP answer with this code holds."""
    entry = CODES[code]
    return {"code": entry.number, "name": entry.name, "message": entry.help}
