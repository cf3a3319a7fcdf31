"""The values that an application gets: messages, gaps, members, states and events."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from . import _trace
from ._proto import envelope_pb2 as pb
from .errors import ArqonError, ServerGarbage

if TYPE_CHECKING:
    from opentelemetry.context import Context

PresenceMode = Literal["none", "count", "full", "watch"]
Overflow = Literal["drop_oldest", "drop_newest"]


class State(str, enum.Enum):
    """Where a client stands. It only ever ends in ``CLOSED``. Each equals its text, too."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


@dataclass(frozen=True)
class Reconnect:
    """How a lost connection is opened again: full jitter, that is a random wait between 0 and a
    bound that doubles with each try. What the server asks for (``GOAWAY``, ``Retry-After``) is
    waited for in any case.

    Attributes:
        base: bound of the first wait, seconds.
        cap: largest bound, seconds.
        give_up_after: seconds without a session after which the client closes with
            :class:`ReconnectGivenUp`; ``None``: never.
        first: whether the very first connect is retried too, instead of raising its error.
    """

    base: float = 0.5
    cap: float = 20.0
    give_up_after: float | None = None
    first: bool = False

    def __post_init__(self) -> None:
        # Written so that no comparison with NaN passes.
        if not 0 < self.base <= self.cap < math.inf:
            raise ValueError("Reconnect needs 0 < base <= cap, in seconds")
        if self.give_up_after is not None and not self.give_up_after > 0:
            raise ValueError("Reconnect.give_up_after must be above 0 seconds, or None")


@dataclass(frozen=True)
class Limits:
    """What the server accepts of this session. 0: not said."""

    max_payload_bytes: int
    max_frame_bytes: int
    max_rooms: int
    max_headers: int
    max_header_bytes: int


@dataclass(frozen=True)
class Session:
    """What ``WELCOME`` told of the session that is open now.

    Attributes:
        id: the session's id, a UUIDv7; a new one after each reconnect.
        user: the token's ``sub``.
        tenant: the token's ``tenant``.
        shield: the server that holds the session, for support questions.
        heartbeat: seconds between heartbeats.
        expires_at: when the token in force expires, UTC.
        limits: what may be sent.
        features: optional features of this server.
    """

    id: str
    user: str
    tenant: str
    shield: str
    heartbeat: float
    expires_at: datetime
    limits: Limits
    features: frozenset[str]


@dataclass(frozen=True)
class Sender:
    """Who published a message. Stamped by the platform; no client can forge it."""

    user: str
    session: str


@dataclass(frozen=True)
class Receipt:
    """The platform has the message.

    Attributes:
        twist_id: the message's ``X-Twist-ID``, which every receiver sees.
    """

    twist_id: str


class Message:
    """A message of a room, as it came. Its fields are decoded when they are read."""

    __slots__ = ("_envelope",)

    def __init__(self, envelope: pb.Envelope) -> None:
        self._envelope = envelope

    @property
    def room(self) -> str:
        """The room's name, without the tenant."""
        return self._envelope.room

    @property
    def payload(self) -> bytes:
        """The bytes that were published."""
        return self._envelope.payload

    @property
    def sender(self) -> Sender:
        """Who published it."""
        sender = self._envelope.message.sender
        return Sender(sender.user, sender.session)

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, the platform's (``X-…`` and ``traceparent``) among them."""
        return dict(self._envelope.headers)

    @property
    def twist_id(self) -> str:
        """The id of the message, a UUIDv7: the publisher's, or else given by the platform."""
        return self._envelope.headers.get("X-Twist-ID", "")

    @property
    def timestamp(self) -> datetime:
        """When the platform took it, UTC with microseconds, by the platform's clock."""
        text = self._envelope.headers.get("X-Timestamp", "")
        try:
            return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            raise ServerGarbage(f"X-Timestamp is no time: {text!r}") from None

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that came with it: the publisher's span, or a span of the platform
        in the same trace. ``None``: the publisher was in no trace.
        """
        return self._envelope.headers.get(_trace.TRACEPARENT)

    def trace_context(self) -> Context | None:
        """The same as OpenTelemetry's ``Context``, the parent of a span that handles the message.

        Example::

            from opentelemetry import trace

            tracer = trace.get_tracer("shop")
            await room.publish(b"hello")
            message = await room.get()
            with tracer.start_as_current_span("handle", context=message.trace_context()):
                print(message.text())  # prints: hello

        It holds nothing but that span. ``None`` if there is no :attr:`traceparent`, a malformed
        one, or no ``opentelemetry-api``; as ``context=`` that means the context of now. Whoever
        publishes to the room chooses it, its sampled flag too.
        """
        return _trace.context_of(self.traceparent)

    def text(self) -> str:
        """The payload as UTF-8 text.

        Raises:
            UnicodeDecodeError: it is none.
        """
        return self.payload.decode("utf-8")

    def json(self) -> object:
        """The payload as JSON.

        Raises:
            ValueError: it is none (``json.JSONDecodeError``, ``UnicodeDecodeError``).
        """
        try:
            value: object = json.loads(self.payload)
        except RecursionError:
            # Whoever may publish could make the interpreter's limit an error of the reader.
            raise ValueError("the JSON is nested too deeply") from None
        return value

    def __repr__(self) -> str:
        size = len(self.payload)
        return f"<Message of {self.sender.user!r} in {self.room!r}, {size} bytes>"


class GapReason(enum.Enum):
    """Why messages of a room may be missing."""

    UNKNOWN = "unknown"
    SPINE_RECONNECTED = "spine_reconnected"
    SEQUENCE = "sequence"
    SLOW_READER = "slow_reader"
    SHIELD_OVERLOADED = "shield_overloaded"
    #: Of this room only the latest message waits for a client; older ones gave way to it.
    LATEST_ONLY = "latest_only"
    #: This client had no connection for a while.
    RECONNECTED = "reconnected"
    #: The application read the room too slowly, and the room's queue in this client was full.
    LOCAL_OVERFLOW = "local_overflow"


@dataclass(frozen=True)
class Gap:
    """Messages of a room may have been missed.

    Attributes:
        room: the room's name.
        reason: why.
        missed: how many, where that is known.
    """

    room: str
    reason: GapReason
    missed: int | None


@dataclass(frozen=True)
class MemberSession:
    """One session of a user in a room."""

    session: str
    meta: Mapping[str, str]
    joined_at: datetime
    last_active_at: datetime


@dataclass(frozen=True)
class Member:
    """A user in a room, with all sessions.

    Attributes:
        user: the token's ``sub``.
        sessions: the user's sessions; the newest ones, if there are more than the platform tells.
        session_count: how many there are.
    """

    user: str
    sessions: tuple[MemberSession, ...]
    session_count: int

    @property
    def meta(self) -> Mapping[str, str]:
        """The meta of the newest session."""
        return self.sessions[0].meta if self.sessions else {}


@dataclass(frozen=True)
class PresenceChange:
    """Somebody came, changed or left.

    Attributes:
        kind: ``join``: the user's first session came; ``update``: a session came, left or changed
            its meta; ``leave``: the last one went.
        user: who.
        member: the user as it is now; with ``leave``, as it was last.
    """

    kind: Literal["join", "update", "leave"]
    user: str
    member: Member


@dataclass(frozen=True)
class StateChanged:
    """The client's state changed. ``error`` says why, where something went wrong."""

    state: State
    previous: State
    error: ArqonError | None


@dataclass(frozen=True)
class RoomLeft:
    """The server ended a membership, or a room could not be restored after a reconnect."""

    room: str
    error: ArqonError


@dataclass(frozen=True)
class PublishFailed:
    """A fire-and-forget publish was refused."""

    room: str
    error: ArqonError


@dataclass(frozen=True)
class TokenRefreshed:
    """A new token is in force on the live session."""

    expires_at: datetime


@dataclass(frozen=True)
class TokenRefreshFailed:
    """The session could not be given a new token; it is tried again until it expires."""

    error: ArqonError


@dataclass(frozen=True)
class ReconnectAsked:
    """The server will stop (``GOAWAY``); the reconnect it asks for follows ``after`` seconds."""

    after: float


@dataclass(frozen=True)
class ServerProblem:
    """The server told of a problem that belongs to no request."""

    room: str
    error: ArqonError


Event = (
    StateChanged
    | Gap
    | RoomLeft
    | PublishFailed
    | TokenRefreshed
    | TokenRefreshFailed
    | ReconnectAsked
    | ServerProblem
)
