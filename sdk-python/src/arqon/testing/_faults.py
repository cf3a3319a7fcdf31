"""What a test wants to go wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from .._proto import envelope_pb2 as pb
from . import _checks, _frames

if TYPE_CHECKING:
    from ._session import Published, Session

Request = Literal["join", "publish", "presence_get", "presence_set", "refresh"]


@dataclass(frozen=True)
class Refusal:
    """How an upgrade is refused. Without a code: as a proxy would, with a page of HTML."""

    status: int
    code: str | None
    retry_after: float | None = None


@dataclass(frozen=True)
class _Block:
    matches: Callable[[Published], bool]
    code: str
    policy: str
    reason: str


@dataclass(frozen=True)
class _Failure:
    request: Request
    code: str
    retry_after: float | None


class Faults:
    """The orders of a test, used up one by one. As many as the test gives; nothing else adds."""

    def __init__(self) -> None:
        self.refusals: deque[Refusal] = deque()
        self.ack_delay = 0.0
        self.lost_acks = 0
        self._failures: deque[_Failure] = deque()
        self._blocks: list[_Block] = []

    def fail(self, request: Request, code: str, retry_after: float | None) -> None:
        """The next such request is refused."""
        _checks.one_of("request", request, get_args(Request))
        _checks.error_code(code)
        if retry_after is not None:
            _checks.seconds("retry_after", retry_after)
        self._failures.append(_Failure(request, code, retry_after))

    def hit(self, session: Session, request: Request, envelope: pb.Envelope) -> bool:
        """Whether this request was refused by order."""
        for failure in self._failures:
            if failure.request == request:
                self._failures.remove(failure)
                session.send(
                    _frames.error(
                        failure.code,
                        envelope.room,
                        envelope.ref,
                        retry_after=failure.retry_after,
                    )
                )
                return True
        return False

    def block(
        self, what: str | Callable[[Published], bool], code: str, policy: str, reason: str
    ) -> None:
        """Messages with this text, or of which this is true, are refused."""
        _checks.error_code(code)
        _checks.text("policy", policy)
        _checks.text("reason", reason)
        if isinstance(what, str):
            text = what.encode()
            self._blocks.append(
                _Block(lambda message: text in message.payload, code, policy, reason)
            )
        elif callable(what):
            self._blocks.append(_Block(what, code, policy, reason))
        else:
            raise TypeError(f"what must be a text or a function of a message, not {what!r}")

    def unblock(self) -> None:
        """Nothing is blocked any more."""
        self._blocks.clear()

    def judge(self, message: Published, ref: int) -> pb.Envelope | None:
        """The ERROR for a message that is blocked."""
        for block in self._blocks:
            if block.matches(message):
                return _frames.error(
                    block.code, message.room, ref, policy=block.policy, reason=block.reason
                )
        return None
