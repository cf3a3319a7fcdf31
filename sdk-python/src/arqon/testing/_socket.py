"""The sockets of a gateway: upgrades, frames in and out, heartbeats."""

from __future__ import annotations

import asyncio
import base64
import binascii
import html
import http
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from .._log import NoHeaders
from .._wire import SUBPROTOCOL
from ._claims import Identity, Refused
from ._faults import Refusal
from ._frames import CODES, refusal_body
from ._hub import Hub
from ._session import Session

_BEARER = "arqon.bearer."
_PATH = "/v1/socket"
#: Seconds that a client has to answer a close.
_LINGER = 2.0
_LOG = NoHeaders("arqon.testing")


class LoopClock:
    """The time of the running loop."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls it after so many seconds."""
        return asyncio.get_running_loop().call_later(delay, callback)


class _Connection(ServerConnection):
    """A connection that knows whose it is, and when it was heard last."""

    identity: Identity
    heard: float = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class _Outbox:
    """What waits for one client, bounded: who does not take it is closed with 4002."""

    def __init__(self, connection: _Connection, messages: int, size: int) -> None:
        self.session: Session
        self._connection = connection
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._most = messages, size
        self._close: tuple[int, str] | None = None
        self._wake = asyncio.Event()

    def write(self, data: bytes) -> None:
        messages, size = self._most
        if len(self._frames) >= messages or self._size + len(data) > size:
            self._frames.clear()
            self.session.end("SLOW_READER")
            return
        self._frames.append(data)
        self._size += len(data)
        self._wake.set()

    def close(self, code: int, reason: str) -> None:
        self._close = code, reason
        self._wake.set()
        transport = self._connection.transport
        # However slow the client is: it is gone by then.
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)

    async def run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._frames:
                    data = self._frames.popleft()
                    self._size -= len(data)
                    await self._connection.send(data)
                if self._close is not None:
                    code, reason = self._close
                    await self._connection.close(code, reason)
                    return
        except ConnectionClosed:
            return


class Listener:
    """The listening socket and its connections."""

    def __init__(self, hub: Hub, server: Server, refusals: deque[Refusal]) -> None:
        self._hub = hub
        self._server = server
        self._refusals = refusals
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self.port = next(iter(server.sockets)).getsockname()[1]

    @classmethod
    async def open(cls, hub: Hub, host: str, port: int) -> Listener:
        """Listens.

        Raises:
            OSError: the port is not to be had.
        """
        listener: Listener

        async def handle(connection: ServerConnection) -> None:
            assert isinstance(connection, _Connection)
            await listener._handle(connection)

        def check(connection: ServerConnection, request: Request) -> Response | None:
            assert isinstance(connection, _Connection)
            return listener._check(connection, request)

        server = await serve(
            handle,
            host,
            port,
            process_request=check,
            select_subprotocol=_subprotocol,
            create_connection=_Connection,
            compression=None,
            max_size=hub.settings.max_frame_bytes,
            ping_interval=None,
            close_timeout=_LINGER,
            server_header=None,
            logger=_LOG,
        )
        listener = cls(hub, server, hub.faults.refusals)
        return listener

    async def close(self, *, kill: bool) -> None:
        """Stops listening; connections end, in good order or at once."""
        self._server.close(close_connections=False)
        if kill:
            self.abort_all()
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=2 * _LINGER)
        self.abort_all()
        await self._server.wait_closed()

    def abort_all(self) -> int:
        """Cuts every connection without a word; how many there were."""
        count = len(self._connections)
        for connection in tuple(self._connections):
            connection.transport.abort()
        return count

    # -- upgrades

    def _check(self, connection: _Connection, request: Request) -> Response | None:
        """The answer where the request does not become a session."""
        if request.path.partition("?")[0] != _PATH:
            return _response(404, {}, b"")
        if self._refusals:
            return _refuse(self._refusals.popleft())
        if len(self._hub.sessions) >= self._hub.settings.max_sessions:
            return _refuse_with("SESSION_LIMIT")
        headers = request.headers
        upgrade = _list(headers, "Upgrade"), _list(headers, "Connection")
        if "websocket" not in map(str.lower, upgrade[0]) or "upgrade" not in map(
            str.lower, upgrade[1]
        ):
            return _refuse_with("NOT_A_WEBSOCKET")
        if headers.get_all("Sec-WebSocket-Version") != ["13"]:
            return _refuse_with("NOT_A_WEBSOCKET")
        if not _is_key(headers.get_all("Sec-WebSocket-Key")):
            return _refuse(Refusal(400, "NOT_A_WEBSOCKET"))
        offered = _list(headers, "Sec-WebSocket-Protocol")
        if headers.get_all("Sec-WebSocket-Protocol") and SUBPROTOCOL not in offered:
            return _refuse_with("UNSUPPORTED_SUBPROTOCOL")
        try:
            token = _token(headers.get_all("Authorization"), offered)
            connection.identity = self._hub.judge(token)
        except Refused as refused:
            return _refuse_with(refused.code)
        return None

    # -- sessions

    async def _handle(self, connection: _Connection) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._connections.add(connection)
        settings = self._hub.settings
        outbox = _Outbox(connection, settings.queue_messages, settings.queue_bytes)
        session = self._hub.open(connection.identity, outbox.write, outbox.close)
        outbox.session = session
        helpers = [
            asyncio.ensure_future(outbox.run()),
            asyncio.ensure_future(_beat(connection, session, settings.heartbeat)),
        ]
        try:
            async for frame in connection:
                if session.closed:
                    continue
                if isinstance(frame, str):
                    session.on_text()
                else:
                    session.on_binary(frame)
        except ConnectionClosed:
            pass
        finally:
            session.end()
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)
            self._connections.discard(connection)
            self._handlers.discard(task)


async def _beat(connection: _Connection, session: Session, pace: float) -> None:
    """Pings at this pace; a client that is silent for two heartbeats is closed."""
    wait = pace * random.uniform(0.5, 1.0)
    try:
        while not session.closed:
            await asyncio.sleep(wait)
            silent = connection.loop.time() - connection.heard
            if silent >= 2 * pace:
                session.end("HEARTBEAT_LOST")
                return
            await connection.ping()
            wait = min(pace, max(2 * pace - silent, pace / 4))
    except ConnectionClosed:
        return


def _subprotocol(
    connection: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _token(authorization: Sequence[str], offered: Sequence[str]) -> str:
    if len(authorization) > 1:
        raise Refused("TOKEN_MALFORMED")
    if authorization:
        scheme, _, token = authorization[0].partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    for protocol in offered:
        if protocol.startswith(_BEARER):
            return protocol[len(_BEARER) :]
    raise Refused("TOKEN_MISSING")


def _is_key(values: Sequence[str]) -> bool:
    try:
        return len(values) == 1 and len(base64.b64decode(values[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _list(headers: Headers, name: str) -> list[str]:
    return [item.strip() for line in headers.get_all(name) for item in line.split(",")]


def _refuse_with(code: str) -> Response:
    return _refuse(Refusal(CODES[code].http or 400, code))


def _refuse(refusal: Refusal) -> Response:
    headers: dict[str, str] = {}
    if refusal.retry_after is not None or (refusal.status == 503 and refusal.code):
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after or 0.0)))
    code = refusal.code
    if code is None:
        phrase = html.escape(_phrase(refusal.status))
        headers["Content-Type"] = "text/html"
        return _response(refusal.status, headers, f"<h1>{phrase}</h1>\n".encode())
    headers["Content-Type"] = "application/json"
    headers["Cache-Control"] = "no-store"
    if refusal.status == 401:
        challenge = f'Bearer error="invalid_token", error_description="{code}"'
        headers["WWW-Authenticate"] = "Bearer" if code == "TOKEN_MISSING" else challenge
    elif refusal.status == 426:
        headers["Upgrade"] = "websocket"
        headers["Sec-WebSocket-Version"] = "13"
    return _response(refusal.status, headers, json.dumps(refusal_body(code)).encode())


def _response(status: int, headers: dict[str, str], body: bytes) -> Response:
    told = Headers(headers)
    told["Content-Length"] = str(len(body))
    told["Connection"] = "close"
    return Response(status, _phrase(status), told, body)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        # Proxies have numbers of their own, 520 for instance.
        return "Unknown"
