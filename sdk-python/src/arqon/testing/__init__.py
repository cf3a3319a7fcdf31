"""A gateway for the unit tests of applications: in the same process, without anything to install.

Example::

    import arqon
    import arqon.testing

    async def test_greeting():
        async with arqon.testing.gateway() as gw:
            async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
                room = await bus.join("lobby")
                gw.publish("lobby", b"hello", user="ben")
                message = await room.get()
                assert (message.sender.user, message.payload) == ("ben", b"hello")

What blocks, with :mod:`arqon.sync`, runs in a thread beside it.

Example::

    import arqon.sync
    import arqon.testing

    def greet(url, token):
        with arqon.sync.connect(url, token=token) as bus:
            bus.join("lobby").publish(b"hello", ack=True)

    async def test_greeting():
        async with arqon.testing.gateway() as gw:
            await asyncio.to_thread(greet, gw.url, gw.token("ada"))
            assert gw.messages[0].payload == b"hello"

It speaks the real protocol over a WebSocket on the loopback interface, and refuses what the real
gateway refuses, with the same codes. The SDK's own tests run one file of scenarios against both.
An order that cannot be carried out raises ``ValueError`` or ``TypeError`` where it is given.

What it does not do:

* verify signatures: any text in the shape of a JWT whose claims are right is taken;
* TLS, browsers' ``Origin``, ``/healthz``, ``/readyz`` and metrics;
* run policies (:meth:`Gateway.block` stands in), or limit rates and tenants;
* lose, reorder or repeat messages by itself: it is one process, so what a cluster does under load
  or failure has to be ordered (:meth:`Gateway.gap`, :meth:`Gateway.drop_all`,
  :meth:`Gateway.lose_acks` and so on);
* wait as long: presence is told after 20 ms and a leave after 50 ms, where the real ones take
  about 200 ms and 1 s. :class:`Settings` has these and all limits.
"""

from __future__ import annotations

from . import _checks
from ._claims import Identity
from ._gateway import GapKind, Gateway, Role
from ._session import Published, Session
from ._settings import Settings


def gateway(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tenant: str = "test",
    settings: Settings | None = None,
) -> Gateway:
    """A gateway, to be entered with ``async with``.

    Args:
        host: the address it listens on.
        port: the port; 0: a free one.
        tenant: the tenant of tokens and rooms where none is named.
        settings: limits and times; ``None``: the defaults.

    Raises:
        ValueError: there is no such port or tenant.
        TypeError: an argument is of another type.
    """
    if not _checks.text("host", host):
        raise ValueError("host must be an address or a name: 127.0.0.1, for instance")
    _checks.whole("port", port, most=65_535)
    _checks.tenant(tenant, None)
    if not isinstance(settings, Settings | None):
        raise TypeError(f"settings must be Settings, not {settings!r}")
    return Gateway(host, port, tenant, settings or Settings())


__all__ = [
    "GapKind",
    "Gateway",
    "Identity",
    "Published",
    "Role",
    "Session",
    "Settings",
    "gateway",
]
