"""Every error of ArqonBus, in one tree under :class:`ArqonError`.

Each code of the registry has a class of its own; catch the class, or its base for a whole range::

    from arqon.errors import ArqonError, AuthError

    try:
        await arqon.connect("wss://bus.example.com/v1/socket", token="stale")
    except AuthError as error:
        print("not let in:", error.name)  # prints: not let in: TOKEN_MALFORMED
    except ArqonError as error:
        if not error.retryable:
            raise
"""

from __future__ import annotations

from ._bases import (
    ArqonError,
    AuthError,
    CapacityError,
    ClientError,
    ClosedByServer,
    ConnectError,
    PolicyError,
    PresenceError,
    ProtocolError,
    Retry,
    RoomError,
)
from ._leaves import *
from ._leaves import LEAVES

__all__ = [
    "ArqonError",
    "AuthError",
    "CapacityError",
    "ClientError",
    "ClosedByServer",
    "ConnectError",
    "PolicyError",
    "PresenceError",
    "ProtocolError",
    "Retry",
    "RoomError",
    "from_code",
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

_RANGES: tuple[tuple[int, int, type[ArqonError]], ...] = (
    (1000, 1999, AuthError),
    (2000, 2999, ProtocolError),
    (3000, 3499, RoomError),
    (3500, 3599, PresenceError),
    (3600, 3699, PolicyError),
    (3700, 3799, CapacityError),
    (4000, 4999, ClosedByServer),
    (5000, 5999, ClientError),
)


def from_code(
    code: int,
    name: str = "",
    message: str = "",
    *,
    retryable: bool | None = None,
    retry_after: float | None = None,
) -> ArqonError:
    """The error of a code. One that this version does not know, of a newer server, becomes the
    class of its range.

    Args:
        code: the number.
        name: its name, used where the number is not known here.
        message: what the server said.
        retryable: what the server said, where the number is not known here.
        retry_after: seconds.
    """
    leaf = LEAVES.get(code)
    if leaf is not None:
        return leaf(message or None, retry_after=retry_after)
    base = next((cls for low, high, cls in _RANGES if low <= code <= high), ArqonError)
    return base(
        message or "an error that this version of arqon-sdk does not know",
        code=code,
        name=name or "UNKNOWN",
        retry="later" if retryable else "never",
        retry_after=retry_after,
    )
