"""Opening a connection: from an address and a token to a session, or to the error that says why."""

from __future__ import annotations

import asyncio
import json
import re
import ssl as tls
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.typing import Subprotocol
from websockets.version import version as _websockets_version

from . import _wire
from ._connection import Link
from ._log import NoHeaders
from ._proto import envelope_pb2 as pb
from ._version import __version__
from .errors import (
    ArqonError,
    ConnectTimeout,
    GatewayUnavailable,
    NotArqonbus,
    TlsFailed,
    Unreachable,
    UrlInvalid,
    from_code,
)

#: The largest frame of a server: a message with its headers is far below.
_MAX_FRAME = 1024 * 1024
_USER_AGENT = (
    f"arqon-sdk/{__version__} "
    f"Python/{sys.version_info.major}.{sys.version_info.minor} "
    f"websockets/{_websockets_version}"
)
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
    link = Link(on_frame)
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
            create_connection=link.make_socket,  # type: ignore[arg-type]
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
        await asyncio.wait([link.welcome], timeout=max(0.0, deadline - loop.time()))
        if not link.welcome.done():
            raise ConnectTimeout(
                f"connected to {dial.url}, but WELCOME did not come in {dial.open_timeout:g} s"
            )
        link.welcome.result()
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
