"""Requests that wait for their answer, by correlation id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from . import _wire
from ._proto import envelope_pb2 as pb
from .errors import ArqonError, ConnectionLost, RequestTimeout, ServerGarbage


class Requests:
    """The requests of one client. Each is answered, refused, cut by the end of its connection, or
    out of time; never none of these.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pending: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(
        self,
        ref: int,
        what: str,
        expects: Sequence[int],
        cut: Callable[[str], ArqonError] = ConnectionLost,
        *,
        twist_id: str = "",
    ) -> Request:
        """A request that was sent in this turn of the loop.

        Args:
            ref: its correlation id.
            what: for the text of errors.
            expects: opcodes of an answer.
            cut: makes the error of a request whose outcome nobody will tell any more.
            twist_id: the message that an ACK must name.
        """
        request = Request(self, ref, what, expects, cut, twist_id)
        self._pending[ref] = request
        return request

    def answered(self, envelope: pb.Envelope, size: int, *, last: bool = True) -> bool:
        """An answer came. Whether anybody waits for it.

        Raises:
            ServerGarbage: it is no answer to that request, or takes more pages than any room has.
        """
        request = self._pending.get(envelope.ref)
        if request is None or request.done.done():
            return False
        op = int(envelope.op)
        if op not in request.expects or (
            op == pb.OPCODE_ACK and envelope.ack.twist_id != request.twist_id
        ):
            raise ServerGarbage(f"PROTOCOL_MISMATCH: opcode {op} answers {request.what}")
        request.size += size
        if request.size > _wire.LARGEST_STATE:
            raise ServerGarbage(f"the answer to {request.what} does not end")
        request.pages.append(envelope)
        if last:
            request.done.set_result(None)
        return True

    def refused(self, ref: int, error: ArqonError) -> bool:
        """An ERROR came. Whether anybody waits for it."""
        request = self._pending.get(ref)
        if request is None:
            return False
        request.fail(error)
        return True

    def cut_all(self, why: str) -> None:
        """The connection ended."""
        for request in list(self._pending.values()):
            request.fail(request.cut(why))

    def forget(self, ref: int) -> None:
        """Nobody waits for it any more."""
        self._pending.pop(ref, None)

    async def settled(self, timeout: float) -> None:
        """Waits until nothing is pending, for so many seconds at most."""
        waiting = [request.done for request in self._pending.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)


class Request:
    """One request. Awaited by whoever sent it, once."""

    __slots__ = ("_owner", "_ref", "cut", "done", "expects", "pages", "size", "twist_id", "what")

    def __init__(
        self,
        owner: Requests,
        ref: int,
        what: str,
        expects: Sequence[int],
        cut: Callable[[str], ArqonError],
        twist_id: str,
    ) -> None:
        self._owner = owner
        self._ref = ref
        self.what = what
        self.expects = expects
        self.cut = cut
        self.twist_id = twist_id
        self.size = 0
        #: The frames of the answer.
        self.pages: list[pb.Envelope] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: ArqonError) -> None:
        """Ends it with an error."""
        if not self.done.done():
            self.done.set_exception(error)
            # Whoever waits may have been cancelled.
            self.done.exception()

    async def answer(self) -> list[pb.Envelope]:
        """The frames of the answer.

        Raises:
            ArqonError: the server refused, the connection ended, or no answer came in time.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._owner._timeout, self._late)
        try:
            await self.done
        finally:
            timer.cancel()
            self._owner._pending.pop(self._ref, None)
        return self.pages

    def _late(self) -> None:
        why = f"no answer to {self.what} in {self._owner._timeout:g} s"
        error = self.cut(why)
        # Where an unknown outcome has no error of its own, it is just late.
        self.fail(error if not error.retryable else RequestTimeout(why))
