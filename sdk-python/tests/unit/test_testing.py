"""The gateway for tests: its controls, seen by a real client, and its bounds."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable

import leaks
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import arqon
import arqon.testing
from arqon import errors
from arqon._proto import envelope_pb2 as pb
from arqon.testing import Gateway, Settings

BOUND = 10.0
FAST = arqon.Reconnect(base=0.01, cap=0.05)


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


@pytest.fixture
async def bus(gw: Gateway) -> AsyncIterator[arqon.Client]:
    async with arqon.connect(
        gw.url, token=lambda: gw.token("ada"), reconnect=FAST, proxy=None
    ) as client:
        yield client


async def raw(gw: Gateway, user: str = "ada") -> ClientConnection:
    """A WebSocket, its WELCOME taken."""
    connection = await connect(
        gw.url,
        additional_headers={"Authorization": f"Bearer {gw.token(user)}"},
        compression=None,
        proxy=None,
        ping_interval=None,
    )
    assert (await receive(connection)).op == pb.OPCODE_WELCOME
    return connection


async def receive(connection: ClientConnection) -> pb.Envelope:
    data = await asyncio.wait_for(connection.recv(), BOUND)
    assert isinstance(data, bytes)
    return pb.Envelope.FromString(data)


# ---- what a test sees


async def test_what_was_published_is_known(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    await room.publish(b"one", headers={"a": "b"})
    receipt = await room.publish(b"two", ack=True)
    await gw.wait_until(lambda: len(gw.messages) == 2)
    one, two = gw.messages
    assert (one.tenant, one.room, one.payload, one.user) == ("test", "lobby", b"one", "ada")
    assert one.headers["a"] == "b"
    assert (one.ack, two.ack) == (False, True)
    assert two.twist_id == receipt.twist_id
    assert two.session == bus.session.id
    assert "ada" in repr(one)


async def test_sessions_and_members_are_known(gw: Gateway, bus: arqon.Client) -> None:
    await bus.join("lobby")
    async with arqon.connect(gw.url, token=gw.token("ben"), proxy=None) as other:
        await other.join("lobby")
        assert [session.identity.user for session in gw.sessions] == ["ada", "ben"]
        assert gw.members("lobby") == ["ada", "ben"]
        assert gw.members("lobby", tenant="other") == []
    await gw.wait_until(lambda: gw.members("lobby") == ["ada"])


async def test_waiting_has_an_end(gw: Gateway) -> None:
    with pytest.raises(TimeoutError):
        await gw.wait_until(lambda: bool(gw.messages), timeout=0.05)


async def test_waiting_looks_at_the_application_too(gw: Gateway) -> None:
    done: list[int] = []
    asyncio.get_running_loop().call_later(0.1, done.append, 1)
    # Nothing changes in the gateway; with the deadline alone this would wait for it.
    await asyncio.wait_for(gw.wait_until(lambda: bool(done), timeout=1000.0), 30.0)


async def test_messages_are_bounded() -> None:
    settings = Settings(kept_messages=3)
    async with arqon.testing.gateway(settings=settings) as gw:
        for number in range(5):
            gw.publish("lobby", str(number).encode())
        assert [message.payload for message in gw.messages] == [b"2", b"3", b"4"]


async def test_an_address_needs_a_start() -> None:
    gateway = arqon.testing.gateway()
    with pytest.raises(RuntimeError):
        _ = gateway.url
    assert gateway.token("ada").count(".") == 2, "a token does not"


# ---- what a server may do


async def test_publishing_from_outside(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    gw.publish("lobby", b"hello", user="ben", headers={"content-type": "text/plain"})
    gw.publish("lobby", b"not here", tenant="other")
    gw.publish("lobby", b"bye", user="ben")
    message = await asyncio.wait_for(room.get(), BOUND)
    assert (message.sender.user, message.payload) == ("ben", b"hello")
    assert message.headers["content-type"] == "text/plain"
    assert (await asyncio.wait_for(room.get(), BOUND)).payload == b"bye"
    assert [each.payload for each in gw.messages] == [b"hello", b"not here", b"bye"]
    for room_name, headers in (("a b", {}), ("lobby", {"X-Own": "a"})):
        with pytest.raises(ValueError):
            gw.publish(room_name, b"", headers=headers)


async def test_a_gap_comes_in_its_place(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    gw.publish("lobby", b"before")
    assert gw.gap("lobby", reason="slow_reader", missed=3) == 1
    gw.publish("lobby", b"after")
    assert gw.gap("elsewhere") == 0
    events = room.events()
    found = [await asyncio.wait_for(anext(events), BOUND) for _ in range(3)]
    assert [type(each) for each in found] == [arqon.Message, arqon.Gap, arqon.Message]
    assert found[1] == arqon.Gap("lobby", arqon.GapReason.SLOW_READER, 3)


async def test_goaway_moves_a_client(gw: Gateway, bus: arqon.Client) -> None:
    first = bus.session.id
    assert gw.goaway() == 1
    await gw.wait_until(lambda: [each.id for each in gw.sessions] not in ([], [first]))
    await bus.wait_for(arqon.State.CONNECTED, BOUND)
    assert bus.session.id != first


async def test_goaway_closes_who_stays(gw: Gateway) -> None:
    connection = await raw(gw)
    gw.goaway(retry_after=1, spread=2, deadline=0.1)
    told = await receive(connection)
    goaway = told.goaway
    assert (goaway.retry_after_ms, goaway.spread_ms, goaway.deadline_ms) == (1000, 2000, 100)
    await asyncio.wait_for(connection.wait_closed(), BOUND)
    assert (connection.close_code, connection.close_reason) == (4001, "GOING_AWAY")


async def test_a_kick_may_come_back(gw: Gateway, bus: arqon.Client) -> None:
    assert gw.kick("nobody") == 0
    assert gw.kick("ada", tenant="other") == 0
    assert gw.kick("ada") == 1
    await gw.wait_until(lambda: len(gw.sessions) == 1)
    await bus.wait_for(arqon.State.CONNECTED, BOUND)
    assert isinstance(bus.last_error, errors.Kicked)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4501, errors.TenantGone),
        ("TOO_MANY_OFFENCES", errors.TooManyOffences),
        (4503, errors.TokenRevokedClose),
        (4999, errors.ClosedByServer),
    ],
)
async def test_a_close_that_ends_a_client(
    gw: Gateway, bus: arqon.Client, code: int | str, kind: type[arqon.ArqonError]
) -> None:
    assert gw.close_all(code) == 1
    with pytest.raises(kind):
        await asyncio.wait_for(bus.wait_closed(), BOUND)


async def test_a_restart_keeps_the_port_and_forgets_the_rooms(
    gw: Gateway, bus: arqon.Client
) -> None:
    room = await bus.join("lobby")
    gw.publish("lobby", b"kept")
    url = gw.url
    await gw.stop()
    assert not gw.sessions
    assert gw.members("lobby") == []
    assert len(gw.messages) == 1
    with pytest.raises(errors.Unreachable):
        await arqon.connect(url, token=gw.token("ben"), proxy=None)
    await gw.start()
    assert gw.url == url
    await gw.wait_until(lambda: gw.members("lobby") == ["ada"])
    await bus.wait_for(arqon.State.CONNECTED, BOUND)
    await room.publish(b"here again", ack=True)


async def test_a_kill_says_nothing(gw: Gateway) -> None:
    connection = await raw(gw)
    await gw.stop(kill=True)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), BOUND)
    assert connection.close_code == 1006


async def test_a_cut_is_no_close(gw: Gateway, bus: arqon.Client) -> None:
    assert gw.drop_all() == 1
    await gw.wait_until(lambda: len(gw.sessions) == 0)
    await gw.wait_until(lambda: len(gw.sessions) == 1)
    await bus.wait_for(arqon.State.CONNECTED, BOUND)
    assert isinstance(bus.last_error, errors.ConnectionLost)


async def test_stopping_does_not_wait_for_a_client_that_hangs() -> None:
    async with arqon.testing.gateway() as gw:
        connection = await raw(gw)
        connection.transport.pause_reading()
        await asyncio.wait_for(gw.stop(), BOUND)
        connection.transport.abort()


async def test_stopping_twice_and_starting_twice(gw: Gateway) -> None:
    await gw.start()
    await gw.stop()
    await gw.stop()


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            await arqon.testing.gateway(port=taken.getsockname()[1]).start()


async def test_a_token_that_expires_is_renewed(gw: Gateway) -> None:
    refreshed = asyncio.Event()

    def on_event(event: arqon.Event) -> None:
        if isinstance(event, arqon.TokenRefreshed):
            refreshed.set()

    tokens = iter([gw.token("ada", ttl=60), gw.token("ada", ttl=90)])
    connecting = arqon.connect(gw.url, token=lambda: next(tokens), on_event=on_event, proxy=None)
    async with connecting as bus:
        first = bus.session
        assert gw.expire_tokens() == 1
        await asyncio.wait_for(refreshed.wait(), BOUND)
        assert bus.session.id == first.id
        assert bus.session.expires_at > first.expires_at
        assert bus.reconnects == 0


async def test_a_suspended_tenant(gw: Gateway, bus: arqon.Client) -> None:
    assert gw.suspend("other") == 0
    assert gw.suspend() == 1
    with pytest.raises(errors.TenantGone):
        await asyncio.wait_for(bus.wait_closed(), BOUND)
    with pytest.raises(errors.TenantSuspended):
        await arqon.connect(gw.url, token=gw.token("ada"), proxy=None)
    gw.resume()
    async with arqon.connect(gw.url, token=gw.token("ada"), proxy=None):
        pass


# ---- what may go wrong


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "kind", "told"),
    [
        (503, "OVERLOADED", 2.5, errors.Overloaded, 3.0),
        (503, "NOT_READY", None, errors.NotReady, 1.0),
        (401, "TOKEN_REVOKED", None, errors.TokenRevoked, None),
        (502, None, None, errors.GatewayUnavailable, None),
        (503, None, 4, errors.GatewayUnavailable, 4.0),
        (404, None, None, errors.NotArqonbus, None),
    ],
)
async def test_a_refusal(
    gw: Gateway,
    status: int,
    code: str | None,
    retry_after: float | None,
    kind: type[arqon.ArqonError],
    told: float | None,
) -> None:
    gw.refuse_next(status, code, retry_after, times=2)
    for _ in range(2):
        with pytest.raises(kind) as raised:
            await arqon.connect(gw.url, token=gw.token("ada"), proxy=None)
        assert raised.value.retry_after == told
    async with arqon.connect(gw.url, token=gw.token("ada"), proxy=None):
        pass
    with pytest.raises(ValueError):
        gw.refuse_next(503, "NO_SUCH_CODE")


async def test_requests_that_fail_by_order(gw: Gateway, bus: arqon.Client) -> None:
    gw.fail_next("join", "JOIN_REFUSED")
    with pytest.raises(errors.JoinRefused):
        await bus.join("lobby")
    room = await bus.join("lobby", presence="full")
    gw.fail_next("publish", "RATE_LIMITED", retry_after=0.25)
    with pytest.raises(errors.RateLimited) as raised:
        await room.publish(b"a", ack=True)
    assert raised.value.retry_after == 0.25
    gw.fail_next("presence_get", "PRESENCE_UNAVAILABLE")
    with pytest.raises(errors.PresenceUnavailable):
        await room.presence.get()
    gw.fail_next("refresh", "CONTROL_STALE")
    with pytest.raises(errors.ControlStale):
        await bus.refresh()
    await room.publish(b"a", ack=True)
    assert len(gw.messages) == 1
    for code in ("NO_SUCH_CODE", "GOING_AWAY", "UNREACHABLE"):
        with pytest.raises(ValueError):
            gw.fail_next("join", code)


async def test_messages_that_are_blocked(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    gw.block("spam", policy="words", reason="no spam")
    gw.block(lambda message: message.user == "ada" and len(message.payload) > 100)
    with pytest.raises(errors.PolicyBlocked) as raised:
        await room.publish(b"some spam", ack=True)
    assert (raised.value.policy, raised.value.reason) == ("words", "no spam")
    with pytest.raises(errors.PolicyBlocked) as raised:
        await room.publish(bytes(101), ack=True)
    assert (raised.value.policy, raised.value.reason) == ("", "")
    assert not gw.messages
    gw.unblock()
    await room.publish(b"some spam", ack=True)


async def test_a_lost_acknowledgement(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    gw.lose_acks()
    with pytest.raises(errors.PublishUncertain):
        await room.publish(b"a", ack=True)
    assert len(gw.messages) == 1, "it was delivered"
    await room.publish(b"b", ack=True)


async def test_a_late_acknowledgement(gw: Gateway, bus: arqon.Client) -> None:
    room = await bus.join("lobby")
    gw.delay_acks(0.05)
    publishing = asyncio.ensure_future(room.publish(b"a", ack=True))
    message = await asyncio.wait_for(room.get(), BOUND)
    assert not publishing.done()
    assert (await publishing).twist_id == message.twist_id
    gw.delay_acks(600)
    publishing = asyncio.ensure_future(room.publish(b"b", ack=True))
    await gw.wait_until(lambda: len(gw.messages) == 2)
    gw.drop_all()
    with pytest.raises(errors.PublishUncertain):
        await asyncio.wait_for(publishing, BOUND)


async def test_acknowledgements_kept_back_are_bounded() -> None:
    async with (
        arqon.testing.gateway(settings=Settings(max_unconfirmed=2)) as gw,
        arqon.connect(gw.url, token=gw.token("ada"), proxy=None) as bus,
    ):
        room = await bus.join("lobby")
        gw.delay_acks(600)
        publishing = [
            asyncio.ensure_future(room.publish(bytes([number]), ack=True)) for number in range(3)
        ]
        done, _ = await asyncio.wait(publishing, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
        assert done == {publishing[0]}
        gw.drop_all()
        await asyncio.wait(publishing, timeout=BOUND)
        for each in publishing[1:]:
            assert isinstance(each.exception(), errors.PublishUncertain)


async def test_a_status_that_only_proxies_know(gw: Gateway) -> None:
    gw.refuse_next(520, None)
    with pytest.raises(InvalidStatus) as raised:
        await raw(gw)
    assert raised.value.response.status_code == 520


async def test_a_close_code_has_no_name_of_an_error(gw: Gateway) -> None:
    connection = await raw(gw)
    assert gw.close_all(1001) == 1, "which is TOKEN_MISSING as an error"
    await asyncio.wait_for(connection.wait_closed(), BOUND)
    assert (connection.close_code, connection.close_reason) == (1001, "")


async def test_an_address_of_ipv6() -> None:
    try:
        gateway = arqon.testing.gateway(host="::1")
        await gateway.start()
    except OSError:
        pytest.skip("no IPv6 here")
    async with gateway, arqon.connect(gateway.url, token=gateway.token("ada"), proxy=None):
        assert gateway.url.startswith("ws://[::1]:")


# ---- orders that cannot be carried out


async def test_what_is_published_from_outside_may_be_refused(
    gw: Gateway, bus: arqon.Client
) -> None:
    room = await bus.join("lobby")
    with pytest.raises(errors.PayloadTooLarge):
        gw.publish("lobby", bytes(61_441))
    gw.block("spam", policy="words", reason="no spam")
    with pytest.raises(errors.PolicyBlocked) as blocked:
        gw.publish("lobby", b"spam")
    assert (blocked.value.policy, blocked.value.reason) == ("words", "no spam")
    gw.fail_next("publish", "RATE_LIMITED", retry_after=0.25)
    with pytest.raises(errors.RateLimited) as limited:
        gw.publish("lobby", b"a")
    assert limited.value.retry_after == 0.25
    assert not gw.messages
    gw.publish("lobby", b"b")
    assert (await asyncio.wait_for(room.get(), BOUND)).payload == b"b"


async def test_nothing_is_published_while_it_does_not_run(gw: Gateway) -> None:
    with pytest.raises(RuntimeError, match="not running"):
        arqon.testing.gateway().publish("lobby", b"a")
    await gw.stop()
    with pytest.raises(RuntimeError, match="not running"):
        gw.publish("lobby", b"a")
    assert not gw.messages
    await gw.start()
    gw.publish("lobby", b"a")


Order = Callable[[Gateway], object]


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (lambda gw: gw.fail_next("nope", "INTERNAL"), "join, publish, presence_get, presence_set"),
        (lambda gw: gw.fail_next("join", "NOPE"), "SPINE_UNAVAILABLE"),
        (lambda gw: gw.fail_next("join", "INTERNAL", math.nan), "retry_after must be 0 to"),
        (lambda gw: gw.fail_next("join", "INTERNAL", -1), "retry_after must be 0 to"),
        (lambda gw: gw.fail_next("join", "INTERNAL", 1e9), "retry_after must be 0 to"),
        (lambda gw: gw.refuse_next(99_999), "status must be 200 to 599"),
        (lambda gw: gw.refuse_next(101), "status must be 200 to 599"),
        (lambda gw: gw.refuse_next(retry_after=math.nan), "retry_after must be 0 to"),
        (lambda gw: gw.refuse_next(retry_after=math.inf), "retry_after must be 0 to"),
        (lambda gw: gw.refuse_next(retry_after=-1), "retry_after must be 0 to"),
        (lambda gw: gw.refuse_next(code="KICKED"), "OVERLOADED"),
        (lambda gw: gw.refuse_next(times=-1), "times must be 0 to"),
        (lambda gw: gw.block("a", code="KICKED"), "POLICY_BLOCKED"),
        (lambda gw: gw.delay_acks(-5), "seconds must be 0 or more"),
        (lambda gw: gw.delay_acks(math.nan), "seconds must be 0 or more"),
        (lambda gw: gw.lose_acks(-1), "count must be 0 to"),
        (lambda gw: gw.gap("lobby", reason="bad"), "spine_reconnected, sequence, slow_reader"),
        (lambda gw: gw.gap("lobby", missed=-1), "missed must be 0 to"),
        (lambda gw: gw.gap("a b"), "'a b' is no room"),
        (lambda gw: gw.members("a b"), "'a b' is no room"),
        (lambda gw: gw.publish("a b", b""), "'a b' is no room"),
        (lambda gw: gw.publish("lobby", b"", user=""), "'' is no user"),
        (lambda gw: gw.publish("lobby", b"", tenant="A b"), "'A b' is no tenant"),
        (lambda gw: gw.publish("lobby", b"", headers={"X-Own": "a"}), "the headers .* are refused"),
        (lambda gw: gw.goaway(retry_after=-1), "retry_after must be 0 to"),
        (lambda gw: gw.goaway(spread=math.nan), "spread must be 0 to"),
        (lambda gw: gw.goaway(deadline=1e9), "deadline must be 0 to 4294967, not"),
        (lambda gw: gw.kick(""), "'' is no user"),
        (lambda gw: gw.kick("ada", tenant="A b"), "'A b' is no tenant"),
        (lambda gw: gw.close_all("NOPE"), "GOING_AWAY, SLOW_READER"),
        (lambda gw: gw.close_all("TOKEN_EXPIRED"), "GOING_AWAY, SLOW_READER"),
        (lambda gw: gw.close_all(5), "code must be 1000 to 1003, 1007"),
        (lambda gw: gw.close_all(1005), "code must be 1000 to 1003, 1007"),
        (lambda gw: gw.close_all(5000), "code must be 0 to 4999"),
        (lambda gw: gw.suspend("A b"), "'A b' is no tenant"),
        (lambda gw: gw.resume("A b"), "'A b' is no tenant"),
        (lambda gw: gw.token("ada", role="king"), "user, observer, service, admin"),
        (lambda gw: gw.token("ada", ttl=math.nan), "ttl must be"),
        (lambda gw: gw.token("ada", ttl=math.inf), "ttl must be"),
        (lambda gw: gw.token("ada", rooms={"read": ["a"]}), "join, publish"),
        (lambda gw: gw.token("ada", rooms={"join": ["a b"]}), "'a b' is no pattern"),
        (lambda gw: arqon.testing.gateway(tenant="A b"), "'A b' is no tenant"),
        (lambda gw: arqon.testing.gateway(host=""), "host must be"),
        (lambda gw: arqon.testing.gateway(port=65_536), "port must be 0 to 65535"),
    ],
)
async def test_orders_that_can_never_be_carried_out(
    gw: Gateway, bus: arqon.Client, order: Order, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        order(gw)
    # And nothing of it was done.
    room = await bus.join("lobby")
    await room.publish(b"a", ack=True)
    assert len(gw.messages) == 1
    assert bus.reconnects == 0
    async with arqon.connect(gw.url, token=gw.token("ben"), proxy=None):
        pass


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (lambda gw: gw.publish("lobby", "text"), "payload must be bytes"),
        (lambda gw: gw.publish("lobby", 5), "payload must be bytes"),
        (lambda gw: gw.publish("lobby", b"", user=None), "user must be a text"),
        (lambda gw: gw.publish("lobby", b"", headers={"a": 1}), "the value of header a"),
        (lambda gw: gw.publish(None, b""), "room must be a text"),
        (lambda gw: gw.publish("lobby", b"", tenant=1), "tenant must be a text"),
        (lambda gw: gw.token(None), "user must be a text"),
        (lambda gw: gw.token(5), "user must be a text"),
        (lambda gw: gw.token("ada", tenant=5), "tenant must be a text"),
        (lambda gw: gw.token("ada", rooms={"join": "lobby"}), "list of patterns for join"),
        (lambda gw: gw.kick(None), "user must be a text"),
        (lambda gw: gw.gap("lobby", missed=0.5), "missed must be a whole number"),
        (lambda gw: gw.block(b"spam"), "a text or a function"),
        (lambda gw: gw.block("a", policy=None), "policy must be a text"),
        (lambda gw: gw.block("a", reason=5), "reason must be a text"),
        (lambda gw: gw.refuse_next("503"), "status must be a whole number"),
        (lambda gw: gw.close_all(None), "code must be a whole number"),
        (lambda gw: gw.close_all(True), "code must be a whole number"),
        (lambda gw: gw.delay_acks("1"), "seconds must be a number"),
        (lambda gw: gw.lose_acks(0.5), "count must be a whole number"),
        (lambda gw: gw.goaway(spread=None), "spread must be a number"),
        (
            lambda gw: arqon.testing.gateway(settings={}),  # type: ignore[arg-type]
            "settings must be Settings",
        ),
        (
            lambda gw: arqon.testing.gateway(port="80"),  # type: ignore[arg-type]
            "port must be a whole number",
        ),
    ],
)
async def test_orders_of_another_type(
    gw: Gateway, bus: arqon.Client, order: Order, told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        order(gw)
    room = await bus.join("lobby")
    await room.publish(b"a", ack=True)
    assert len(gw.messages) == 1


async def test_orders_about_a_tenant_that_there_is_not() -> None:
    settings = Settings(tenants=frozenset({"acme", "globex"}))
    async with arqon.testing.gateway(tenant="acme", settings=settings) as gw:
        gw.publish("lobby", b"a", tenant="globex")
        for order in (
            lambda: gw.publish("lobby", b"a", tenant="acem"),
            lambda: gw.gap("lobby", tenant="acem"),
            lambda: gw.kick("ada", tenant="acem"),
            lambda: gw.members("lobby", tenant="acem"),
            lambda: gw.suspend("acem"),
        ):
            with pytest.raises(ValueError, match="acme, globex"):
                order()


async def test_orders_from_another_thread(gw: Gateway, bus: arqon.Client) -> None:
    # There they would wake nobody, and come at some time or never.
    orders: list[Callable[[], object]] = [
        lambda: gw.publish("lobby", b"a"),
        lambda: gw.gap("lobby"),
        gw.goaway,
        lambda: gw.kick("ada"),
        gw.close_all,
        gw.drop_all,
        gw.expire_tokens,
        gw.suspend,
        lambda: asyncio.run(gw.wait_until(lambda: True)),
    ]
    for order in orders:
        with pytest.raises(RuntimeError, match="another thread"):
            await asyncio.to_thread(order)
    assert len(gw.sessions) == 1
    async with arqon.connect(gw.url, token=await asyncio.to_thread(gw.token, "ben"), proxy=None):
        pass


async def test_a_condition_must_be_a_plain_function(gw: Gateway) -> None:
    async def condition() -> bool:
        return False

    with pytest.raises(TypeError, match="plain function"):
        await gw.wait_until(condition)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        await gw.wait_until(lambda: True, timeout=math.nan)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"heartbeat": 0.0}, "heartbeat must be above 0"),
        ({"heartbeat": math.inf}, "heartbeat must be 0 to"),
        ({"leave_delay": -1.0}, "leave_delay must be 0 or more"),
        ({"presence_tick": math.nan}, "presence_tick must be 0 or more"),
        ({"page_members": 0}, "page_members must be 1 to"),
        ({"queue_messages": 0}, "queue_messages must be 1 to"),
        ({"sessions_listed": 0}, "sessions_listed must be 1 to"),
        ({"max_rooms": 2**32}, "max_rooms must be 0 to"),
        ({"kept_messages": -1}, "kept_messages must be 0 to"),
        ({"max_frame_bytes": 65_536.0}, "max_frame_bytes must be a whole number"),
        ({"grace": "5"}, "grace must be a number"),
        ({"audience": None}, "audience must be a text"),
        ({"tenants": "acme"}, "tenants must be a set"),
        ({"tenants": frozenset({"A b"})}, "'A b' is no tenant"),
    ],
)
def test_settings_that_can_not_be(change: dict[str, object], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Settings(**change)  # type: ignore[arg-type]


def test_settings_without_an_end() -> None:
    Settings(leeway=math.inf, grace=math.inf, max_ttl=math.inf, leave_delay=math.inf, max_rooms=0)


# ---- bounds


async def test_a_client_that_does_not_read_is_closed() -> None:
    async with arqon.testing.gateway(settings=Settings(queue_messages=16)) as gw:
        connection = await raw(gw)
        await connection.send(pb.Envelope(op=pb.OPCODE_JOIN, room="a").SerializeToString())
        assert (await receive(connection)).op == pb.OPCODE_JOINED
        connection.transport.pause_reading()
        for _ in range(400):
            gw.publish("a", bytes(60_000))
            await asyncio.sleep(0)
            if not gw.sessions:
                break
        assert not gw.sessions, "its queue is full, and it is no member any more"
        connection.transport.abort()


async def test_sessions_are_bounded() -> None:
    async with arqon.testing.gateway(settings=Settings(max_sessions=1)) as gw:
        connection = await raw(gw)
        with pytest.raises(InvalidStatus) as raised:
            await raw(gw, "ben")
        assert raised.value.response.status_code == 503
        assert b"SESSION_LIMIT" in (raised.value.response.body or b"")
        await connection.close()


async def test_a_room_above_the_limit_is_told_by_its_count() -> None:
    async with arqon.testing.gateway(settings=Settings(full_limit=2)) as gw:
        clients = [await arqon.connect(gw.url, token=gw.token(user), proxy=None) for user in "abcd"]
        watched = await clients[0].join("lobby", presence="full")
        changes = watched.presence.__aiter__()
        assert (await asyncio.wait_for(anext(changes), BOUND)).user == "a"
        for client in clients[1:]:
            await client.join("lobby", presence="count")

        async def until(count: int, *, truncated: bool) -> None:
            presence = watched.presence
            # What is truncated makes no change that could be waited for.
            while (presence.count, presence.truncated) != (count, truncated):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await asyncio.wait_for(until(4, truncated=True), BOUND)
        assert await watched.presence.get_count() == 4
        await clients[3].close()
        await clients[2].close()
        await asyncio.wait_for(until(2, truncated=False), BOUND)
        assert sorted(watched.presence.members) == ["a", "b"]
        for client in clients:
            await client.close()


async def test_it_pings_and_hears_who_is_there() -> None:
    async with arqon.testing.gateway(settings=Settings(heartbeat=0.1)) as gw:
        alive, silent = await raw(gw), await raw(gw, "ben")
        silent.transport.pause_reading()
        await gw.wait_until(lambda: [each.identity.user for each in gw.sessions] == ["ada"])
        await asyncio.sleep(0.5)
        assert len(gw.sessions) == 1
        silent.transport.resume_reading()
        await asyncio.wait_for(silent.wait_closed(), BOUND)
        assert (silent.close_code, silent.close_reason) == (4003, "HEARTBEAT_LOST")
        await alive.close()


async def test_many_gateways_at_once_do_not_know_each_other() -> None:
    async with arqon.testing.gateway() as one, arqon.testing.gateway() as two:
        assert one.url != two.url
        async with (
            arqon.connect(one.url, token=one.token("ada"), proxy=None) as first,
            arqon.connect(two.url, token=two.token("ada"), proxy=None) as second,
        ):
            await first.join("lobby")
            await second.join("lobby")
            one.publish("lobby", b"here")
            assert (len(one.messages), len(two.messages)) == (1, 0)
