"""One WebSocket connection that has its session, to its end. `_dial` opens it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSING, OPEN, Event

from . import _wire
from ._leaves import LEAVES as _LEAVES
from ._proto import envelope_pb2 as pb
from ._types import Session
from .errors import (
    ArqonError,
    ConnectionLost,
    PayloadTooLarge,
    SendQueueFull,
    ServerGarbage,
    from_code,
)

#: So many frames of one turn of the loop, and the sender should give way: a loop that only
#: publishes would neither write nor read.
_FRAMES_PER_TURN = 128
#: Seconds that the last bytes to a server that closes may take.
_LINGER = 1.0
#: Frames that may come between WELCOME and the moment somebody takes them.
_EARLY_FRAMES = 64
#: Bytes of frames that are written before the turn of the loop ends, so that it is known how much
#: the network takes.
_FLUSH_BYTES = 64 * 1024
#: Bytes of answers to pings that may wait beside what is published: their number is the server's.
_MAX_PONGS = 256 * 1024
#: Bytes of the head of such a frame.
_PONG_HEAD = 6
#: Seconds of a heartbeat at most; a Shield's is 300 at most.
_LONGEST_HEARTBEAT = 300.0


class _Socket(ClientConnection):
    """Hands each frame on at once, instead of queueing it for a reader that has to be woken."""

    sink: Callable[[bytes], None]
    garbage: Callable[[str], None]
    closing: Callable[[], None]
    ended: Callable[[], None]
    writable: Callable[[], None]
    heard: float
    #: What broke the connection, if the network said. Kept here, since the base class has it under
    #: another name in each of its versions.
    broken_by: Exception | None = None
    _parts: bytearray
    # Bytes of answers to pings that the network did not take.
    _pongs: int = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.protocol.state is CLOSING:
            self.closing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pongs = 0
        self.writable()

    def process_event(self, event: Event) -> None:
        if not isinstance(event, Frame):
            super().process_event(event)
            return
        self.heard = self.loop.time()
        opcode = event.opcode
        if opcode is Opcode.BINARY:
            if event.fin:
                self.sink(bytes(event.data))
            else:
                self._parts = bytearray(event.data)
        elif opcode is Opcode.CONT:
            self._parts += event.data
            if event.fin:
                data, self._parts = bytes(self._parts), bytearray()
                self.sink(data)
        elif opcode is Opcode.TEXT:
            self._parts = bytearray()
            self.garbage("the server sent a text frame")
        else:
            super().process_event(event)
            if opcode is Opcode.PING and self.paused:
                self._pongs += _PONG_HEAD + len(event.data)
                if self._pongs > _MAX_PONGS:
                    self.garbage("the server sends pings and does not read the answers")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.broken_by = exc
        self.ended()


class Link:
    """A connection that has its session. Made by :func:`arqon._dial.open_link`."""

    session: Session

    def __init__(self, on_frame: Callable[[Link, pb.Envelope, int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._socket: _Socket
        #: The server's greeting, or why it never came.
        self.welcome: asyncio.Future[pb.Welcome] = self._loop.create_future()
        self._garbage: ArqonError | None = None
        self._silent = False
        self._closing = False
        # Frames of this turn of the loop, and bytes of them that are not written yet.
        self._frames = 0
        self._unwritten = 0
        # Publishes that wait for the network, in their order.
        self._senders: deque[asyncio.Future[None]] = deque()
        self._early: list[tuple[pb.Envelope, int]] | None = []
        self._heartbeat: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        #: Frames of a newer server that were left out.
        self.unknown_frames = 0
        #: Why the connection ended; ``None`` where this side closed it.
        self.lost: asyncio.Future[ArqonError | None] = self._loop.create_future()
        self._next_ref = 1

    # -- sending

    def ref(self) -> int:
        """A correlation id that no other request of this connection has. 1 is never given: all
        fire-and-forget publishes carry it.
        """
        self._next_ref += 1
        return self._next_ref

    def send(self, data: bytes) -> None:
        """Queues a frame; frames of one turn of the loop are written in one go.

        Raises:
            ConnectionLost: there is no connection any more.
            PayloadTooLarge: the server would close the connection on such a frame.
        """
        limit = self.session.limits.max_frame_bytes
        if limit and len(data) > limit:
            raise PayloadTooLarge(
                f"the frame with all headers has {len(data)} bytes, {limit} are allowed"
            )
        protocol = self._socket.protocol
        if protocol.state is not OPEN or self._closing:
            raise ConnectionLost("the connection is closing")
        protocol.send_binary(data)
        if not self._frames:
            self._loop.call_soon(self._end_turn)
        self._frames += 1
        self._unwritten += len(data)
        if self._unwritten >= _FLUSH_BYTES:
            self._flush()

    @property
    def congested(self) -> bool:
        """Whether the network takes less than is sent, or others wait for it already."""
        return self._socket.paused or bool(self._senders)

    @property
    def should_yield(self) -> bool:
        """Whether the sender should give way to the loop."""
        return self._frames >= _FRAMES_PER_TURN

    async def drain(self, timeout: float) -> None:
        """Waits for this sender's turn, and until the network has taken enough.

        Raises:
            SendQueueFull: it did not in time.
            ConnectionLost: there is no connection any more.
        """
        waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout, _expire, waiter, timeout)
        self._senders.append(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._senders.remove(waiter)
            # The next one looks after this one has sent.
            self._loop.call_soon(self._let_send)
        if self.lost.done():
            raise ConnectionLost("the connection ended while messages waited for it")

    def _let_send(self) -> None:
        if self._senders and not self._socket.paused:
            waiter = self._senders[0]
            if not waiter.done():
                waiter.set_result(None)

    def _end_turn(self) -> None:
        self._frames = 0
        self._flush()

    def _flush(self) -> None:
        self._unwritten = 0
        data = b"".join(self._socket.protocol.data_to_send())
        if data and not self._socket.transport.is_closing():
            self._socket.transport.write(data)

    # -- ending

    async def close(self) -> None:
        """Closes in good order, within the time limit of closing."""
        if not self._closing:
            self._flush()
            self._closing = True
        try:
            await self._socket.close()
        finally:
            self.abort()

    async def close_within(self, timeout: float) -> None:
        """Closes in good order if that takes no longer than so many seconds, else at once."""
        try:
            await asyncio.wait_for(self.close(), timeout)
        except (asyncio.TimeoutError, OSError):
            self.abort()

    def abort(self) -> None:
        """Ends it now."""
        self._closing = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        transport = getattr(self._socket, "transport", None)
        if transport is not None:
            transport.abort()

    def fail(self, error: ServerGarbage) -> None:
        """The server does not keep the rules: the connection ends, by this error."""
        if self._garbage is None:
            self._garbage = error
            self._give_up_socket()

    def _fail(self, reason: str) -> None:
        self.fail(ServerGarbage(reason))

    def _give_up_socket(self) -> None:
        # The closing handshake would be with a peer that does not keep the rules, or is silent.
        self._socket.transport.abort()

    def _on_closing(self) -> None:
        """The server closes, or broke the rules. Whatever it does now, the connection ends: the
        library would wait for it to do its part.
        """
        if not self._closing and self._linger is None:
            transport = self._socket.transport
            transport.close()  # our own close frame goes out first
            self._linger = self._loop.call_later(_LINGER, transport.abort)

    def _on_ended(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        error = self._why()
        if not self.welcome.done():
            self.welcome.set_exception(error or ConnectionLost("closed before WELCOME"))
            self.welcome.exception()
        if not self.lost.done():
            self.lost.set_result(error)
        for waiter in self._senders:
            if not waiter.done():
                waiter.set_result(None)

    def _why(self) -> ArqonError | None:
        if self._garbage is not None:
            return self._garbage
        if self._silent:
            return ConnectionLost("nothing was heard from the server for two heartbeats")
        protocol = self._socket.protocol
        received, sent = protocol.close_rcvd, protocol.close_sent
        if received is not None and protocol.close_rcvd_then_sent is not False:
            if 4000 <= received.code <= 4999:
                leaf = _LEAVES.get(received.code)
                # Shield gives the code's name as reason, which the class has already.
                told = "" if leaf is not None and received.reason == leaf.name else received.reason
                return from_code(received.code, message=told)
            return ConnectionLost(
                f"the server closed the connection: {received.code} {received.reason}".rstrip()
            )
        if self._closing:
            return None
        if sent is not None and sent.code in (1002, 1003, 1007, 1009):
            return ServerGarbage(f"illegal WebSocket frames: {sent.reason or sent.code}")
        cause = self._socket.broken_by
        return ConnectionLost(
            f"the connection broke: {cause}" if cause else "the connection broke without a close"
        )

    # -- receiving

    def _on_data(self, data: bytes) -> None:
        if self._garbage is not None or self._closing:
            return
        try:
            envelope = _wire.decode(data)
        except _wire.UnknownFrame:
            self.unknown_frames += 1
            return
        except ServerGarbage as error:
            self.fail(error)
            return
        if self.welcome.done():
            if envelope.op == pb.OPCODE_WELCOME:
                self._fail("PROTOCOL_MISMATCH: a second WELCOME")
            else:
                self._give(envelope, len(data))
        elif envelope.op != pb.OPCODE_WELCOME:
            self._fail("PROTOCOL_MISMATCH: the first frame is no WELCOME")
        elif envelope.welcome.protocol_version != _wire.PROTOCOL_VERSION:
            version = envelope.welcome.protocol_version
            self._fail(f"PROTOCOL_MISMATCH: the server speaks version {version}, this SDK 1")
        else:
            self.session = _wire.session_of(envelope.welcome)
            self.welcome.set_result(envelope.welcome)
            self._beat()

    def start(self) -> None:
        """Frames are given to ``on_frame`` from here on; those that came already, now."""
        early, self._early = self._early or [], None
        for envelope, size in early:
            self._on_frame(self, envelope, size)

    def _give(self, envelope: pb.Envelope, size: int) -> None:
        if self._early is None:
            self._on_frame(self, envelope, size)
        elif len(self._early) < _EARLY_FRAMES:
            self._early.append((envelope, size))
        else:
            self._fail("frames flood in before anything was asked")

    def _beat(self) -> None:
        """The server pings each heartbeat. If it is silent for one, it is asked; for two, gone."""
        pace = min(self.session.heartbeat or 25.0, _LONGEST_HEARTBEAT)
        silent = self._loop.time() - self._socket.heard
        if silent >= 2 * pace:
            self._silent = True
            self._give_up_socket()
            return
        if silent >= pace and not self._closing and self._socket.protocol.state is OPEN:
            # Whatever the server says of its limits, this is within them.
            with contextlib.suppress(ArqonError):
                self.send(_wire.ping(0))
        self._heartbeat = self._loop.call_later(pace / 2, self._beat)

    def make_socket(self, *args: Any, **options: Any) -> _Socket:  # noqa: ANN401 - theirs
        """What the library is given in place of its own class."""
        socket = _Socket(*args, **options)
        socket.heard = self._loop.time()
        socket._parts = bytearray()
        socket.sink, socket.garbage = self._on_data, self._fail
        socket.closing, socket.ended = self._on_closing, self._on_ended
        socket.writable = self._let_send
        self._socket = socket
        return socket


def _expire(waiter: asyncio.Future[None], timeout: float) -> None:
    if not waiter.done():
        waiter.set_exception(
            SendQueueFull(f"the network did not take enough in {timeout:g} s; nothing was sent")
        )
        # Whoever waits may have been cancelled.
        waiter.exception()
