"""``arqon.connect``."""

from __future__ import annotations

import math
import ssl as tls
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ._client import Client
from ._core import Core
from ._dial import Dial, check_url
from ._events import EventHandler
from ._inbox import Inbox
from ._tokens import Tokens, TokenSource
from ._types import Overflow, Reconnect

_NOT_AWAITED = (
    "connect was not awaited: bus = await arqon.connect(...), "
    "or async with arqon.connect(...) as bus"
)


class Connecting:
    """What :func:`connect` returns: await it, or enter it with ``async with``."""

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource,
        open_timeout: float = 10.0,
        request_timeout: float = 10.0,
        token_timeout: float = 10.0,
        close_timeout: float = 5.0,
        reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - it is frozen
        queue_messages: int = 1024,
        queue_bytes: int = 8 * 1024 * 1024,
        overflow: Overflow = "drop_oldest",
        send_buffer: int = 1024 * 1024,
        ssl: tls.SSLContext | None = None,
        proxy: str | Literal[True] | None = True,
        on_event: EventHandler | None = None,
    ) -> None:
        for name, value in (
            ("open_timeout", open_timeout),
            ("request_timeout", request_timeout),
            ("token_timeout", token_timeout),
            ("close_timeout", close_timeout),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number of seconds, not {value!r}")
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")
        if send_buffer < 1:
            raise ValueError("send_buffer is a number of bytes above 0")
        if reconnect is not None and not isinstance(reconnect, Reconnect):
            raise TypeError(
                f"reconnect is arqon.Reconnect(...), or None for off, not {reconnect!r}"
            )
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event is a function, not {on_event!r}")
        # Its bounds are checked here, and not when the first room is joined.
        Inbox("", queue_messages, queue_bytes, overflow)
        self._dial = Dial(
            url=check_url(url),
            open_timeout=open_timeout,
            close_timeout=close_timeout,
            send_buffer=send_buffer,
            ssl=ssl,
            proxy=proxy,
        )
        self._tokens = Tokens(token, token_timeout)
        self._request_timeout = request_timeout
        self._reconnect = reconnect
        self._queue: tuple[int, int, Overflow] = (queue_messages, queue_bytes, overflow)
        self._on_event = on_event
        self._client: Client | None = None

    async def _connect(self) -> Client:
        core = Core(
            self._dial,
            self._tokens,
            request_timeout=self._request_timeout,
            reconnect=self._reconnect,
            on_event=self._on_event,
        )
        await core.start()
        return Client(core, self._queue)

    if not TYPE_CHECKING:
        # A forgotten await is the commonest mistake, and Python's own words do not name it.
        def __getattr__(self, name: str) -> object:
            raise AttributeError(f"{_NOT_AWAITED}, then .{name}")

        def __enter__(self) -> object:
            raise TypeError(f"{_NOT_AWAITED}; without asyncio, arqon.sync.connect")

        def __exit__(self, *error: object) -> None:
            pass

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.close()


def connect(
    url: str,
    *,
    token: TokenSource,
    open_timeout: float = 10.0,
    request_timeout: float = 10.0,
    token_timeout: float = 10.0,
    close_timeout: float = 5.0,
    reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - it is frozen
    queue_messages: int = 1024,
    queue_bytes: int = 8 * 1024 * 1024,
    overflow: Overflow = "drop_oldest",
    send_buffer: int = 1024 * 1024,
    ssl: tls.SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    on_event: EventHandler | None = None,
) -> Connecting:
    """Connects to ArqonBus.

    Example::

        async with arqon.connect("wss://bus.example.com/v1/socket", token=get_token) as bus:
            room = await bus.join("lobby")

    The first connect is tried once, and its error raised; from then on a lost connection is opened
    again by itself.

    Args:
        url: ``wss://HOST[:PORT]/v1/socket``; the path may be left out. ``ws://`` sends the token
            in the clear: for this machine only.
        token: the JWT, or a function, async or not, that returns one. A function is called for
            each connect and when the server says that the token expires; one at a time. One that
            is not async runs in a thread.
        open_timeout: seconds for each try to connect: TCP, TLS, the upgrade and WELCOME.
        request_timeout: seconds for each answer, and for a connection to come back where a request
            needs one.
        token_timeout: seconds that the token function may take.
        close_timeout: seconds that closing may take.
        reconnect: how a lost connection is opened again; ``None``: its loss closes the client.
        queue_messages: messages of one room that wait to be read.
        queue_bytes: bytes of them.
        overflow: which message is dropped where a room's queue is full: ``drop_oldest``, or
            ``drop_newest``. Either leaves a :class:`Gap` in its place.
        send_buffer: bytes that wait for the network before publishing waits.
        ssl: TLS settings, for an authority of your own for instance; ``wss://`` only.
        proxy: address of a proxy; ``True``: as the environment says (``HTTPS_PROXY`` and so on);
            ``None``: none.
        on_event: called with each :data:`Event` of the client's life, in order, in a task of its
            own; may be async. 256 events wait for it at most, then the oldest is dropped.

    Raises:
        UrlInvalid: at once; likewise ``TokenMissing`` and ``TokenMalformed`` for a text that can
            be no token. When awaited or entered:
        ConnectError: no session; the class says why: ``Unreachable``, ``TlsFailed``,
            ``ConnectTimeout``, ``NotArqonbus``, ``TokenSourceFailed``…
        AuthError: the token was refused: ``TokenExpired``, ``TokenUntrusted``…
        CapacityError: the server is not ready, or has too many.
    """
    return Connecting(
        url,
        token=token,
        open_timeout=open_timeout,
        request_timeout=request_timeout,
        token_timeout=token_timeout,
        close_timeout=close_timeout,
        reconnect=reconnect,
        queue_messages=queue_messages,
        queue_bytes=queue_bytes,
        overflow=overflow,
        send_buffer=send_buffer,
        ssl=ssl,
        proxy=proxy,
        on_event=on_event,
    )
