"""TLS that cannot be: each a typed error with a remedy, and nothing left behind."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import leaks
import pytest
import trustme
from hostile_server import BOUND, Peer, refused, serving, welcome

import arqon
from arqon import errors


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@dataclass
class Authority:
    """An authority, and who trusts it."""

    ca: trustme.CA
    trusting: ssl.SSLContext

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    ca = trustme.CA()
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    return Authority(ca, trusting)


async def good(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(welcome())
    await peer.silence()


async def test_a_certificate_that_is_trusted_is_taken(authority: Authority) -> None:
    async with serving(good, tls=authority.server("localhost", "127.0.0.1")) as address:
        connecting = arqon.connect(
            f"wss://{address}/",
            token="a.b.c",
            ssl=authority.trusting,
            close_timeout=1.0,
            proxy=None,
        )
        async with connecting as bus:
            assert bus.state is arqon.State.CONNECTED


async def test_an_authority_that_nobody_knows(authority: Authority) -> None:
    async with serving(good, tls=authority.server("127.0.0.1")) as address:
        error = await refused(f"wss://{address}/", errors.TlsFailed)
    assert "certificate" in str(error)
    assert not error.retryable


async def test_a_certificate_of_another_host(authority: Authority) -> None:
    async with serving(good, tls=authority.server("bus.example.com")) as address:
        error = await refused(f"wss://{address}/", errors.TlsFailed, ssl=authority.trusting)
    assert "127.0.0.1" in str(error)


async def test_a_certificate_that_has_expired(authority: Authority) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.ca.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    async with serving(good, tls=context) as address:
        error = await refused(f"wss://{address}/", errors.TlsFailed, ssl=authority.trusting)
    assert "expired" in str(error)


async def test_tls_to_a_plain_port() -> None:
    async def plain(peer: Peer) -> None:
        await peer.reader.read(16)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with serving(plain) as address:
        await refused(f"wss://{address}/", errors.TlsFailed)


async def test_tls_to_a_port_that_ends_it() -> None:
    async def ends(peer: Peer) -> None:
        await peer.reader.read(16)

    async with serving(ends) as address:
        await refused(f"wss://{address}/", errors.Unreachable)


async def test_tls_to_a_port_that_is_silent() -> None:
    async with serving(Peer.silence) as address:
        await refused(f"wss://{address}/", errors.ConnectTimeout)


async def test_plain_to_a_port_of_tls(authority: Authority) -> None:
    # The server's TLS layer ends the connection, with or without an alert in front of it.
    async with serving(good, tls=authority.server("127.0.0.1")) as address:
        connecting = arqon.connect(f"ws://{address}/", token="a.b.c", proxy=None)
        with pytest.raises((errors.Unreachable, errors.NotArqonbus)) as raised:
            await asyncio.wait_for(connecting._connect(), BOUND)
    assert raised.value.help in str(raised.value)


async def test_versions_that_have_nothing_in_common(authority: Authority) -> None:
    old = authority.server("127.0.0.1")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context()
    authority.ca.configure_trust(new)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    async with serving(good, tls=old) as address:
        # asyncio's server cuts the connection without the alert that would say why.
        error = await refused(f"wss://{address}/", errors.Unreachable, ssl=new)
    assert "ended the connection" in str(error)


async def test_a_context_for_an_address_without_tls(authority: Authority) -> None:
    async with serving(good) as address:
        await refused(f"ws://{address}/", errors.UrlInvalid, ssl=authority.trusting)
