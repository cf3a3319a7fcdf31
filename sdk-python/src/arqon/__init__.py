"""ArqonBus: a real-time message bus for many tenants.

Example::

    import arqon

    async with arqon.connect("wss://bus.example.com/v1/socket", token=get_token) as bus:
        room = await bus.join("lobby", meta={"name": "Ada"})
        await room.publish(b"hello")
        async for message in room:
            print(message.sender.user, message.payload)  # prints: ada b'hello'

:func:`connect` gives a :class:`Client`, :meth:`Client.join` a :class:`Room`. Errors are in
:mod:`arqon.errors`, a wrapper for scripts without asyncio in :mod:`arqon.sync`, a gateway for
your own unit tests in :mod:`arqon.testing`.
"""

from __future__ import annotations

from . import errors
from ._client import Client
from ._connect import Connecting, connect
from ._presence import Presence
from ._room import Room
from ._types import (
    Event,
    Gap,
    GapReason,
    Limits,
    Member,
    MemberSession,
    Message,
    Overflow,
    PresenceChange,
    PresenceMode,
    PublishFailed,
    Receipt,
    Reconnect,
    ReconnectAsked,
    RoomLeft,
    Sender,
    ServerProblem,
    Session,
    State,
    StateChanged,
    TokenRefreshed,
    TokenRefreshFailed,
)
from ._version import __version__
from ._wire import uuid7 as new_twist_id
from .errors import *

__all__ = [
    "Client",
    "Connecting",
    "Event",
    "Gap",
    "GapReason",
    "Limits",
    "Member",
    "MemberSession",
    "Message",
    "Overflow",
    "Presence",
    "PresenceChange",
    "PresenceMode",
    "PublishFailed",
    "Receipt",
    "Reconnect",
    "ReconnectAsked",
    "Room",
    "RoomLeft",
    "Sender",
    "ServerProblem",
    "Session",
    "State",
    "StateChanged",
    "TokenRefreshFailed",
    "TokenRefreshed",
    "__version__",
    "connect",
    "new_twist_id",
    "errors",
]
# From proto/codes.toml, by scripts/gen.
__all__ += [
    "AckUnknown",
    "AlreadyJoined",
    "BinaryFrame",
    "ClientClosed",
    "ConnectTimeout",
    "ConnectionLost",
    "ControlStale",
    "EnvelopeUndecodable",
    "FirstFrameMissed",
    "GatewayUnavailable",
    "GoingAway",
    "HeaderInvalid",
    "HeaderReserved",
    "HeadersTooLarge",
    "HeartbeatLost",
    "Internal",
    "JoinForbidden",
    "JoinRefused",
    "JsonInvalid",
    "Kicked",
    "MetaTooLarge",
    "NotAWebsocket",
    "NotArqonbus",
    "NotConnected",
    "NotJoined",
    "NotReady",
    "OriginForbidden",
    "Overloaded",
    "PayloadTooLarge",
    "PolicyBlocked",
    "PolicyFault",
    "PolicyUnavailable",
    "PresenceNotSeen",
    "PresenceNotTold",
    "PresenceUnavailable",
    "ProtocolMismatch",
    "PublishForbidden",
    "PublishUncertain",
    "RateLimited",
    "ReconnectGivenUp",
    "RequestTimeout",
    "RoomFull",
    "RoomLimit",
    "RoomNameInvalid",
    "SendQueueFull",
    "ServerError",
    "ServerGarbage",
    "SessionLimit",
    "SlowReader",
    "SpineUnavailable",
    "TenantGone",
    "TenantSuspended",
    "TextFrame",
    "TlsFailed",
    "TokenExpired",
    "TokenExpiredClose",
    "TokenLifetimeTooLong",
    "TokenMalformed",
    "TokenMismatch",
    "TokenMissing",
    "TokenNotYetValid",
    "TokenRevoked",
    "TokenRevokedClose",
    "TokenSourceFailed",
    "TokenSourceTimeout",
    "TokenUntrusted",
    "TooManyOffences",
    "UnknownOpcode",
    "Unreachable",
    "UnsupportedSubprotocol",
    "UrlInvalid",
]
