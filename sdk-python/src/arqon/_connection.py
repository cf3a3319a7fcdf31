"""One WebSocket connection, from the dial to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl as tls
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSING, OPEN, Event
from websockets.typing import Subprotocol
from websockets.version import version as _websockets_version

from . import _wire
from ._leaves import LEAVES as _LEAVES
from ._log import NoHeaders
from ._proto import envelope_pb2 as pb
from ._types import Session
from ._version import __version__
from .errors import (
    ArqonError,
    ConnectionLost,
    ConnectTimeout,
    GatewayUnavailable,
    NotArqonbus,
    PayloadTooLarge,
    SendQueueFull,
    ServerGarbage,
    TlsFailed,
    Unreachable,
    UrlInvalid,
    from_code,
)

#: The largest frame of a server: a message with its headers is far below.
_MAX_FRAME = 1024 * 1024
#: So many frames of one turn of the loop, and the sender should give way: a loop that only
#: publishes would neither write nor read.
_FRAMES_PER_TURN = 128
#: Seconds that the last bytes to a server that closes may take.
_LINGER = 1.0
#: Frames that may come between WELCOME and the moment somebody takes them.
_EARLY_FRAMES = 64
_USER_AGENT = (
    f"arqon-sdk/{__version__} "
    f"Python/{sys.version_info.major}.{sys.version_info.minor} "
    f"websockets/{_websockets_version}"
)
#: Bytes of frames that are written before the turn of the loop ends, so that it is known how much
#: the network takes.
_FLUSH_BYTES = 64 * 1024
#: Bytes of answers to pings that may wait beside what is published: their number is the server's.
_MAX_PONGS = 256 * 1024
#: Bytes of the head of such a frame.
_PONG_HEAD = 6
#: Seconds of a heartbeat at most; a Shield's is 300 at most.
_LONGEST_HEARTBEAT = 300.0
_WEBSOCKET_LOG = NoHeaders("arqon.websocket")


@dataclass(frozen=True)
class Dial:
    """How connections are opened. Times in seconds, sizes in bytes."""

    url: str
    open_timeout: float
    close_timeout: float
    send_buffer: int
    ssl: tls.SSLContext | None
    proxy: str | Literal[True] | None


def check_url(url: str) -> str:
    """The address to dial; without a path, the one that every Shield has.

    Raises:
        UrlInvalid: it is no address of a WebSocket.
    """
    if not isinstance(url, str):
        raise UrlInvalid(f"the address is no text but {type(url).__name__}")
    shown = repr(without_user(url))
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        # Its text may hold parts of the address.
        raise UrlInvalid(f"{shown}: {error}" if "@" not in url else f"{shown} is none") from None
    if parts.scheme in ("http", "https"):
        better = "wss" if parts.scheme == "https" else "ws"
        raise UrlInvalid(f"{shown} begins with {parts.scheme}://; write {better}://")
    if parts.scheme not in ("ws", "wss"):
        raise UrlInvalid(f"{shown} does not begin with ws:// or wss://")
    if parts.username is not None or parts.password is not None:
        raise UrlInvalid("the address holds a user or a password; a token goes by token=")
    if not parts.hostname:
        raise UrlInvalid(f"{shown} names no host")
    if parts.fragment:
        raise UrlInvalid(f"{shown} has a fragment (#...)")
    if parts.path in ("", "/"):
        parts = parts._replace(path="/v1/socket")
    return parts.geturl()


def without_user(url: str) -> str:
    """An address that may be shown: without a password, wherever it stands."""
    return "..." + url[url.rindex("@") :] if "@" in url else url


class _Connect(connect):
    """A token goes to the address that was named and to no other, so no redirect is followed."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


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
    """A connection that has its session. Made by :func:`open_link`."""

    session: Session

    def __init__(self, dial: Dial, on_frame: Callable[[Link, pb.Envelope, int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._on_frame = on_frame
        self._socket: _Socket
        self._welcome: asyncio.Future[pb.Welcome] = self._loop.create_future()
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
        if not self._welcome.done():
            self._welcome.set_exception(error or ConnectionLost("closed before WELCOME"))
            self._welcome.exception()
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
        if self._welcome.done():
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
            self._welcome.set_result(envelope.welcome)
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

    def _make_socket(self, *args: Any, **options: Any) -> _Socket:  # noqa: ANN401 - theirs
        socket = _Socket(*args, **options)
        socket.heard = self._loop.time()
        socket._parts = bytearray()
        socket.sink, socket.garbage = self._on_data, self._fail
        socket.closing, socket.ended = self._on_closing, self._on_ended
        socket.writable = self._let_send
        self._socket = socket
        return socket


async def open_link(
    dial: Dial, token: str, on_frame: Callable[[Link, pb.Envelope, int], None]
) -> Link:
    """Connects, and is back when the server has welcomed the session.

    Raises:
        ConnectError: no session; the class says why.
        AuthError: the token was refused.
        CapacityError: the server is not ready, or has too many.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + dial.open_timeout
    link = Link(dial, on_frame)
    options: dict[str, Any] = {} if dial.ssl is None else {"ssl": dial.ssl}
    try:
        connection = await _Connect(
            dial.url,
            additional_headers={"Authorization": f"Bearer {token}"},
            subprotocols=[Subprotocol(_wire.SUBPROTOCOL)],
            user_agent_header=_USER_AGENT,
            compression=None,
            proxy=dial.proxy,
            open_timeout=dial.open_timeout,
            close_timeout=dial.close_timeout,
            ping_interval=None,
            max_size=_MAX_FRAME,
            max_queue=None,
            write_limit=dial.send_buffer,
            logger=_WEBSOCKET_LOG,
            create_connection=link._make_socket,  # type: ignore[arg-type]
            **options,
        )
    except Exception as error:
        raise _dial_error(dial, error) from error
    try:
        if connection.subprotocol != _wire.SUBPROTOCOL:
            raise NotArqonbus(
                f"what answers at {dial.url} does not speak {_wire.SUBPROTOCOL}, "
                "though it takes WebSockets"
            )
        await asyncio.wait([link._welcome], timeout=max(0.0, deadline - loop.time()))
        if not link._welcome.done():
            raise ConnectTimeout(
                f"connected to {dial.url}, but WELCOME did not come in {dial.open_timeout:g} s"
            )
        link._welcome.result()
    except BaseException:
        link.abort()
        raise
    return link


def _dial_error(dial: Dial, error: Exception) -> ArqonError:
    """The one place where failures of lower layers get their names."""
    where = dial.url
    if isinstance(error, ArqonError):
        return error
    if isinstance(error, InvalidStatus):
        return _refusal(where, error)
    if isinstance(error, InvalidURI):
        return UrlInvalid(str(error))
    if isinstance(error, InvalidProxy):
        return UrlInvalid(f"the proxy {without_user(error.proxy)!r} is none: {error.msg}")
    if isinstance(error, ProxyError):
        return Unreachable(f"the proxy did not connect to {where}: {error}")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and not _is_os_timeout(error):
        return ConnectTimeout(f"no connection to {where} in {dial.open_timeout:g} s")
    if isinstance(error, tls.SSLCertVerificationError):
        return TlsFailed(f"the certificate of {where}: {error.verify_message}")
    if isinstance(error, tls.SSLError):
        if isinstance(error, (tls.SSLEOFError, tls.SSLZeroReturnError)):
            return Unreachable(f"{where} ended the connection during TLS")
        return TlsFailed(f"TLS with {where}: {error.reason or error}")
    if isinstance(error, InvalidMessage):
        cause = error.__cause__
        if isinstance(cause, (EOFError, ConnectionError)):
            return Unreachable(f"{where} ended the connection before it answered")
        return NotArqonbus(f"{where} does not answer in HTTP (does it want wss://?)")
    if isinstance(error, InvalidHandshake):
        return NotArqonbus(f"{where} takes no WebSocket: {error}")
    if isinstance(error, OSError):
        why = str(error.strerror or error)
        return Unreachable(
            f"{where}: {why}" if why else f"{where} ended the connection before it answered"
        )
    if isinstance(error, (EOFError, websockets.WebSocketException)):
        return Unreachable(f"{where} ended the connection before it answered: {error}".rstrip(": "))
    if isinstance(error, ValueError):
        return UrlInvalid(f"{where}: {error}")
    return Unreachable(f"{where}: {error}")


def _is_os_timeout(error: Exception) -> bool:
    # ETIMEDOUT of the kernel is a TimeoutError too, but not of our clock.
    return isinstance(error, OSError) and error.errno is not None


def _refusal(where: str, error: InvalidStatus) -> ArqonError:
    response = error.response
    status = response.status_code
    retry_after = _seconds(_first(response.headers, "Retry-After"))
    try:
        body = json.loads(response.body or b"")
        code, name, message = body["code"], str(body["name"]), str(body.get("message", ""))
        if isinstance(code, int) and not isinstance(code, bool) and 1000 <= code <= 3999:
            return from_code(code, name, message, retryable=status >= 500, retry_after=retry_after)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # Not a Shield's answer.
    if status >= 500 or status in (408, 425, 429):
        return GatewayUnavailable(
            f"{where} answered HTTP {status}, which is no answer of a Shield's",
            retry_after=retry_after,
        )
    if status == 431:
        return NotArqonbus(f"{where} answered HTTP 431: is the token far too long?")
    to = _first(response.headers, "Location")
    hint = f"; it points to {to}, which is not followed with a token" if to else ""
    return NotArqonbus(f"{where} answered HTTP {status}, which is no answer of a Shield's{hint}")


def _first(headers: Headers, name: str) -> str | None:
    # There may be several, and `get` would raise.
    return next(iter(headers.get_all(name)), None)


def _seconds(text: str | None) -> float | None:
    # The other form, a date, would need both clocks to agree.
    if text is None or not re.fullmatch(r"[0-9]+", text.strip()):
        return None
    digits = text.strip().lstrip("0")
    return min(float(digits[:9] or 0), _wire.LONGEST_WAIT)


def _expire(waiter: asyncio.Future[None], timeout: float) -> None:
    if not waiter.done():
        waiter.set_exception(
            SendQueueFull(f"the network did not take enough in {timeout:g} s; nothing was sent")
        )
        # Whoever waits may have been cancelled.
        waiter.exception()


__all__ = ["Dial", "Link", "check_url", "open_link"]
