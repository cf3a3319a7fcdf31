"""Addresses that are none, and servers of something else: each a typed error with a remedy, and
nothing left behind.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator

import hostile_server as hostile
import leaks
import pytest
from hostile_server import BOUND, PATIENCE, Peer, refused, refused_by, serving, serving_bytes
from waiting import until

import arqon
from arqon import errors


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


# ---- addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bus.example.com",
        "bus.example.com:8080",
        "http://bus.example.com/v1/socket",
        "https://bus.example.com/v1/socket",
        "ftp://bus.example.com/",
        "ws://",
        "ws:///v1/socket",
        "wss://user@bus.example.com/v1/socket",
        "wss://user:secret@bus.example.com/v1/socket",
        "wss://:secret@bus.example.com/v1/socket",
        "wss://bus.example.com/v1/socket#part",
        "ws://bus.example.com:port/v1/socket",
        "ws://bus.example.com:99999/v1/socket",
        "ws://[::1/v1/socket",
    ],
)
async def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(errors.UrlInvalid) as raised:
        await arqon.connect(url, token="a.b.c")
    assert isinstance(raised.value, ValueError)
    assert raised.value.help in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@bus.example.com/",
        "https://user:secret@bus.example.com/v1/socket",
        "ftp://user:secret@bus.example.com/",
        "user:secret@bus.example.com",
        "ws://user:secret@bus.example.com:99999/",
        "ws://user:secret@bus.example.com:port/",
        "ws://user:secret@[::1/",
        "ws://user:sec@ret@[::1/",
    ],
)
async def test_no_password_of_an_address_is_told(url: str) -> None:
    with pytest.raises(errors.UrlInvalid) as raised:
        await arqon.connect(url, token="a.b.c")
    assert "sec" not in repr(raised.value) + str(raised.value)


@pytest.mark.parametrize("proxy", ["http://user:secret@", "ftp://user:secret@127.0.0.1:1", "no"])
async def test_a_proxy_that_is_none_is_told_as_that(proxy: str) -> None:
    with pytest.raises(errors.UrlInvalid, match="proxy") as raised:
        await asyncio.wait_for(
            arqon.connect("ws://bus.example.com/", token="a.b.c", proxy=proxy), BOUND
        )
    assert "secret" not in repr(raised.value) + str(raised.value)


async def test_a_proxy_that_refuses_is_told_as_that() -> None:
    async def behave(peer: Peer) -> None:
        await peer.answer("407 Proxy Authentication Required")

    async with serving(behave) as address:
        with pytest.raises(errors.Unreachable, match="the proxy did not connect") as raised:
            await asyncio.wait_for(
                arqon.connect(
                    "ws://bus.example.com/", token="a.b.c", proxy=f"http://user:secret@{address}"
                ),
                BOUND,
            )
    assert "407" in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_an_address_that_no_text_can_be() -> None:
    with pytest.raises(errors.UrlInvalid):
        await arqon.connect(b"ws://bus.example.com/", token="a.b.c")  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["ws://127.0.0.1:{port}/a b", "ws://127.0.0.1:{port}/a\r\nX-A: b"])
async def test_an_address_cannot_smuggle_a_header(url: str) -> None:
    heads: list[bytes] = []

    async def behave(peer: Peer) -> None:
        await peer.request()
        heads.append(peer.head)

    async with serving(behave) as address:
        target = url.format(port=address.split(":")[1])
        with pytest.raises(arqon.ArqonError):
            await asyncio.wait_for(arqon.connect(target, token="a.b.c", proxy=None), BOUND)
    assert all(b"\r\nX-A: b" not in head for head in heads)


async def test_a_port_that_refuses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
        port = taken.getsockname()[1]
        error = await refused(f"ws://127.0.0.1:{port}/v1/socket", errors.Unreachable)
    assert isinstance(error, ConnectionError)
    assert error.retryable


async def test_a_host_that_nobody_knows() -> None:
    error = await refused("ws://no-such-host.invalid/v1/socket", errors.Unreachable)
    assert "no-such-host.invalid" in str(error)


async def test_an_address_that_swallows_packets() -> None:
    # A full backlog answers no further SYN, as a firewall does.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(0)
        port = taken.getsockname()[1]
        blockers = []
        try:
            for _ in range(4):
                blocker = socket.socket()
                blocker.setblocking(False)
                blocker.connect_ex(("127.0.0.1", port))
                blockers.append(blocker)
            error = await refused(f"ws://127.0.0.1:{port}/v1/socket", errors.ConnectTimeout)
        finally:
            for blocker in blockers:
                blocker.close()
    assert isinstance(error, TimeoutError)


# ---- HTTP servers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("200 OK", errors.NotArqonbus),
        ("204 No Content", errors.NotArqonbus),
        ("400 Bad Request", errors.NotArqonbus),
        ("401 Unauthorized", errors.NotArqonbus),
        ("403 Forbidden", errors.NotArqonbus),
        ("404 Not Found", errors.NotArqonbus),
        ("426 Upgrade Required", errors.NotArqonbus),
        ("431 Request Header Fields Too Large", errors.NotArqonbus),
        ("408 Request Timeout", errors.GatewayUnavailable),
        ("429 Too Many Requests", errors.GatewayUnavailable),
        ("500 Internal Server Error", errors.GatewayUnavailable),
        ("502 Bad Gateway", errors.GatewayUnavailable),
        ("503 Service Unavailable", errors.GatewayUnavailable),
        ("504 Gateway Timeout", errors.GatewayUnavailable),
    ],
)
async def test_an_answer_that_is_no_shields(status: str, kind: type[arqon.ArqonError]) -> None:
    async def behave(peer: Peer) -> None:
        await peer.answer(status, b"<h1>Nothing here</h1>", "Content-Type: text/html")

    error = await refused_by(behave, kind)
    assert status[:3] in str(error)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status: str) -> None:
    asked: list[str] = []

    async def elsewhere(peer: Peer) -> None:
        await peer.request()
        asked.append("elsewhere")

    async with serving(elsewhere) as other:

        async def behave(peer: Peer) -> None:
            await peer.answer(status, b"", f"Location: ws://{other}/v1/socket")

        error = await refused_by(behave, errors.NotArqonbus)
    assert other in str(error), "where it points to is told"
    assert not asked, "and the token does not go there"


@pytest.mark.parametrize(
    ("status", "code", "name", "kind"),
    [
        ("401 Unauthorized", 1001, "TOKEN_MISSING", errors.TokenMissing),
        ("401 Unauthorized", 1002, "TOKEN_MALFORMED", errors.TokenMalformed),
        ("401 Unauthorized", 1003, "TOKEN_EXPIRED", errors.TokenExpired),
        ("401 Unauthorized", 1004, "TOKEN_NOT_YET_VALID", errors.TokenNotYetValid),
        ("401 Unauthorized", 1005, "TOKEN_UNTRUSTED", errors.TokenUntrusted),
        ("401 Unauthorized", 1008, "TOKEN_LIFETIME_TOO_LONG", errors.TokenLifetimeTooLong),
        ("401 Unauthorized", 1009, "TOKEN_REVOKED", errors.TokenRevoked),
        ("403 Forbidden", 1006, "TENANT_SUSPENDED", errors.TenantSuspended),
        ("400 Bad Request", 2009, "UNSUPPORTED_SUBPROTOCOL", errors.UnsupportedSubprotocol),
        ("403 Forbidden", 2013, "ORIGIN_FORBIDDEN", errors.OriginForbidden),
        ("503 Service Unavailable", 3703, "CONTROL_STALE", errors.ControlStale),
        ("503 Service Unavailable", 3704, "SESSION_LIMIT", errors.SessionLimit),
        ("503 Service Unavailable", 3705, "NOT_READY", errors.NotReady),
        ("503 Service Unavailable", 3706, "OVERLOADED", errors.Overloaded),
    ],
)
async def test_a_refusal_of_each_kind(
    status: str, code: int, name: str, kind: type[arqon.ArqonError]
) -> None:
    body = json.dumps({"code": code, "name": name, "message": "said the server"}).encode()

    async def behave(peer: Peer) -> None:
        await peer.answer(status, body, "Content-Type: application/json", "Retry-After: 7")

    error = await refused_by(behave, kind)
    assert (error.code, error.name, error.message) == (code, name, "said the server")
    assert error.retry_after == 7.0


async def test_a_code_of_a_newer_server_is_of_its_range() -> None:
    body = json.dumps({"code": 1099, "name": "TOKEN_PURPLE", "message": "no"}).encode()

    async def behave(peer: Peer) -> None:
        await peer.answer("401 Unauthorized", body)

    async with serving(behave) as address:
        with pytest.raises(errors.AuthError) as raised:
            await arqon.connect(f"ws://{address}/", token="a.b.c", proxy=None)
    assert (raised.value.code, raised.value.name) == (1099, "TOKEN_PURPLE")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"TOKEN_EXPIRED"',
        b"{}",
        b'{"code": "1003", "name": "TOKEN_EXPIRED"}',
        b'{"code": true, "name": "TOKEN_EXPIRED"}',
        b'{"code": 1e999, "name": "TOKEN_EXPIRED"}',
        b'{"code": 5002, "name": "UNREACHABLE", "message": "lies"}',
        b'{"code": 4502, "name": "TOO_MANY_OFFENCES"}',
        b'{"name": "TOKEN_EXPIRED"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        gzip.compress(b'{"code": 1003, "name": "TOKEN_EXPIRED"}'),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_a_401_with_a_body_that_is_none(body: bytes) -> None:
    async def behave(peer: Peer) -> None:
        await peer.answer("401 Unauthorized", body, "Content-Type: application/json")

    error = await refused_by(behave, errors.NotArqonbus)
    assert "401" in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("000000000000005", 5.0),
        ("99999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("٣", None),
        ("3\r\nRetry-After: 4", 3.0),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_retry_after_of_a_proxy(value: str, seconds: float | None) -> None:
    async def behave(peer: Peer) -> None:
        await peer.answer("503 Service Unavailable", b"", f"Retry-After: {value}")

    error = await refused_by(behave, errors.GatewayUnavailable)
    assert error.retry_after == seconds


async def test_a_header_that_comes_twice() -> None:
    async def behave(peer: Peer) -> None:
        await peer.answer("302 Found", b"", "Location: ws://one/", "Location: ws://two/")

    assert "ws://one/" in str(await refused_by(behave, errors.NotArqonbus))


async def test_odd_headers_do_not_end_a_client_that_reconnects() -> None:
    tries = 0

    async def behave(peer: Peer) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await peer.upgrade()
            await peer.send(hostile.welcome())
        else:
            await peer.answer("503 Busy", b"", "Retry-After: 0", f"Retry-After: {'9' * 5000}")

    async with serving(behave) as address:
        bus = await arqon.connect(
            f"ws://{address}/",
            token="a.b.c",
            proxy=None,
            reconnect=arqon.Reconnect(base=0.01, cap=0.01),
        )
        await until(lambda: tries >= 5)
        assert bus.state is arqon.State.RECONNECTING
        await bus.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"+OK ready\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 101\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: a\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXIgb25l\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
async def test_a_server_of_something_else(data: bytes) -> None:
    async with serving_bytes(data) as address:
        connecting = arqon.connect(
            f"ws://{address}/", token="a.b.c", open_timeout=PATIENCE, proxy=None
        )
        with pytest.raises((errors.NotArqonbus, errors.Unreachable)) as raised:
            await asyncio.wait_for(hostile.enter(connecting), BOUND)
    assert raised.value.help in str(raised.value)
