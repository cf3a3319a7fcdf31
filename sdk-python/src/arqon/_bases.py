"""The base classes of every error; the leaves are generated from the registry of codes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

Retry = Literal["never", "later", "new_token"]


class ArqonError(Exception):
    """Anything that goes wrong in ArqonBus or on the way to it.

    Attributes:
        code: the stable number, the same in every SDK and in the platform's logs.
        name: its stable name, for instance ``TOKEN_EXPIRED``.
        retry: ``never``: the same call cannot succeed; ``later``: it may succeed unchanged;
            ``new_token``: get another token first.
        help: what happened and what to do.
        message: what happened this time; may change between versions.
        retry_after: seconds to wait at least before another try, where the server said so.
    """

    code: int = 0
    name: str = "ARQON_ERROR"
    retry: Retry = "never"
    help: ClassVar[str] = ""

    def __init__(
        self,
        message: str | None = None,
        *,
        code: int | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or self.help)
        self.message = message or self.help
        if code is not None:
            self.code = code
        if name is not None:
            self.name = name
        if retry is not None:
            self.retry = retry
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, unchanged."""
        return self.retry == "later"

    def __str__(self) -> str:
        text = f"{self.name} ({self.code}): {self.message}"
        if self.help and self.help not in text:
            text = f"{text.rstrip('.')}. {self.help}"
        return text

    def _again(self) -> Self:
        """The same error, to raise once more: a traceback belongs to one raising, and would grow
        with each, and hold what the frames of all of them held.
        """
        error = copy.copy(self)
        error.__cause__ = self.__cause__
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword arguments of subclasses are attributes by now; pickling keeps them as such.
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(cls: type[ArqonError], message: str, state: dict[str, object]) -> ArqonError:
    error = cls.__new__(cls)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class AuthError(ArqonError):
    """The token was not accepted (1xxx)."""


class ProtocolError(ArqonError):
    """The request was not well formed, or over a limit (2xxx)."""


class RoomError(ArqonError):
    """Joining, leaving or publishing was refused (3000 to 3499)."""


class PresenceError(ArqonError):
    """Presence could not be told or set (35xx)."""


class PolicyError(ArqonError):
    """A policy of the platform stopped the message (36xx).

    Attributes:
        policy: the binding that blocked it, where that may be shown, else empty.
        reason: its reason, where that may be shown, else empty.
    """

    policy: str = ""
    reason: str = ""


class CapacityError(ArqonError):
    """A quota, or a part of the platform that is not there at the moment (37xx)."""


class ClosedByServer(ArqonError):
    """The server closed the connection, and said why (4xxx)."""

    @property
    def close_code(self) -> int:
        """The WebSocket close code; from 4500 on the client stays away."""
        return self.code


class ClientError(ArqonError):
    """Found by this library itself (5xxx)."""


class ConnectError(ClientError):
    """No session could be opened (5001 to 5008)."""


class UncertainBase(ClientError):
    """What :class:`PublishUncertain` has beside a code.

    Attributes:
        twist_id: the ``X-Twist-ID`` of the message. Publishing again with the same id lets
            receivers recognise a duplicate.
    """

    twist_id: str = ""
