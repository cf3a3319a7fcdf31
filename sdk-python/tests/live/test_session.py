"""Rooms, messages and their bounds, against a real ArqonBus."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from leaks import none_left
from live_stack import Stack

import arqon


def fresh_room() -> str:
    """A room that no other test is in."""
    return f"test.{uuid.uuid4().hex}"


async def test_five_lines(stack: Stack) -> None:
    room_name = fresh_room()
    async with none_left(), arqon.connect(stack.url, token=stack.token()) as bus:
        room = await bus.join(room_name, meta={"name": "Ada"})
        await room.publish(b"hello")
        async for message in room:
            assert message.payload == b"hello"
            assert message.room == room_name
            session = bus.session
            assert session is not None
            assert message.sender == arqon.Sender("ada", session.id)
            assert uuid.UUID(message.twist_id).version == 7
            age = datetime.now(timezone.utc) - message.timestamp
            assert abs(age) < timedelta(minutes=1)
            break
    assert bus.state is arqon.State.CLOSED


async def test_welcome_is_told(stack: Stack) -> None:
    async with arqon.connect(stack.url, token=stack.token("ann", ttl="1h")) as bus:
        session = bus.session
        assert session is not None
        assert (session.user, session.tenant, session.shield) == ("ann", "acme", "shield-1")
        assert session.limits.max_payload_bytes == 61440
        left = session.expires_at - datetime.now(timezone.utc)
        assert timedelta(minutes=50) < left <= timedelta(minutes=61)
        assert await bus.ping() > 0


async def test_order_headers_and_json_come_through(stack: Stack) -> None:
    name = fresh_room()
    async with (
        arqon.connect(stack.url, token=stack.token("ann")) as ann,
        arqon.connect(stack.url, token=stack.token("bob")) as bob,
    ):
        hears = await ann.join(name, queue_messages=2000)
        speaks = await bob.join(name, echo=False)
        for number in range(1000):
            await speaks.publish(str(number).encode())
        twist = str(uuid.UUID("0192f0c1-2345-7abc-8def-0123456789ab"))
        receipt = await speaks.publish_json(
            {"done": [1, "ö"]}, ack=True, headers={"app-id": "7"}, twist_id=twist
        )
        assert receipt.twist_id == twist
        got = [await hears.get() for _ in range(1001)]
        assert [message.text() for message in got[:1000]] == [str(n) for n in range(1000)]
        last = got[1000]
        assert last.json() == {"done": [1, "ö"]}
        assert last.twist_id == twist
        assert last.headers["app-id"] == "7"
        assert last.headers["content-type"] == "application/json"
        # echo=False: bob heard nothing of himself, though what he sent has gone round by now.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(speaks.get(), 0.2)


async def test_tenants_hear_nothing_of_each_other(stack: Stack) -> None:
    name = fresh_room()
    async with (
        arqon.connect(stack.url, token=stack.token("ann", "acme")) as ours,
        arqon.connect(stack.url, token=stack.token("ann", "globex")) as theirs,
    ):
        here = await ours.join(name, meta={"of": "acme"})
        there = await theirs.join(name, meta={"of": "globex"})
        await here.publish(b"for acme", ack=True)
        await there.publish(b"for globex", ack=True)
        assert (await here.get()).payload == b"for acme"
        assert (await there.get()).payload == b"for globex"
        for room, tenant in ((here, "acme"), (there, "globex")):
            (member,) = await room.presence.get()
            assert member.meta == {"of": tenant}
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(room.get(), 0.2)


async def test_what_is_over_a_limit_is_not_sent(stack: Stack) -> None:
    async with arqon.connect(stack.url, token=stack.token()) as bus:
        room = await bus.join(fresh_room())
        with pytest.raises(arqon.PayloadTooLarge, match="61440 are allowed"):
            await room.publish(bytes(61441))
        with pytest.raises(arqon.HeadersTooLarge):
            await room.publish(b"x", headers={f"h{n}": "v" for n in range(33)})
        with pytest.raises(arqon.HeadersTooLarge):
            await room.publish(b"x", headers={"h": "v" * 4096})
        with pytest.raises(arqon.HeaderReserved):
            await room.publish(b"x", headers={"X-Mine": "v"})
        with pytest.raises(arqon.HeaderInvalid):
            await room.publish(b"x", headers={"two words": "v"})
        with pytest.raises(arqon.RoomNameInvalid):
            await bus.join("_presence")
        with pytest.raises(TypeError, match="publish_text"):
            await room.publish("text")  # type: ignore[call-overload]
        # Each within its limit, and too much together: the server would close the connection.
        with pytest.raises(arqon.PayloadTooLarge, match="65536 are allowed"):
            await room.publish(bytes(61440), headers={"h": "v" * 4090})
        # The largest one goes through, and nothing before it came.
        await room.publish(bytes(61440), ack=True, headers={"h": "v" * 3900})
        assert len((await room.get()).payload) == 61440


async def test_what_the_server_refuses_has_its_code(stack: Stack) -> None:
    failed: list[arqon.Event] = []
    rooms = '{"join":["a.*"],"publish":["a.open"]}'
    token = stack.token("ann", rooms=rooms)
    async with arqon.connect(stack.url, token=token, on_event=failed.append) as bus:
        with pytest.raises(arqon.JoinForbidden):
            await bus.join("b")
        room = await bus.join("a.closed")
        with pytest.raises(arqon.PublishForbidden):
            await room.publish(b"x", ack=True)
        await room.publish(b"x")
        await bus.ping()
        await asyncio.sleep(0)
        with pytest.raises(arqon.AlreadyJoined):
            await bus.join("a.closed")
        with pytest.raises(arqon.NotJoined):
            await bus.publish("a.open", b"x", ack=True)
        await room.leave()
        with pytest.raises(arqon.NotJoined):
            await room.publish(b"x")
        with pytest.raises(arqon.NotJoined):
            await room.get()
        assert list(bus.rooms) == []
    (refused,) = [event for event in failed if isinstance(event, arqon.PublishFailed)]
    assert refused.room == "a.closed"
    assert isinstance(refused.error, arqon.PublishForbidden)


async def test_a_service_publishes_without_joining(stack: Stack) -> None:
    name = fresh_room()
    async with (
        arqon.connect(stack.url, token=stack.token("ann")) as ann,
        arqon.connect(stack.url, token=stack.token("daemon", role="service")) as service,
    ):
        room = await ann.join(name)
        await service.publish(name, b"from outside", ack=True)
        assert (await room.get()).sender.user == "daemon"


async def test_a_policy_blocks(stack: Stack) -> None:
    name = fresh_room()
    stack.arq(
        *("policy", "add", "blocklist", "--words", "malware", "--tenant", "acme"),
        *("--room", name, "--name", "sdk-test", "--show-reason"),
    )
    async with arqon.connect(stack.url, token=stack.token()) as bus:
        room = await bus.join(name)
        with pytest.raises(arqon.PolicyBlocked, match="Message blocked by policy") as blocked:
            await room.publish(b"free malware", ack=True)
        assert blocked.value.policy == "sdk-test"
        assert not blocked.value.retryable
        await room.publish(b"free software", ack=True)
        assert (await room.get()).payload == b"free software"


async def test_nothing_arrives_after_close(stack: Stack) -> None:
    name = fresh_room()
    async with arqon.connect(stack.url, token=stack.token("bob")) as bob:
        speaks = await bob.join(name)
        async with none_left():
            bus = await arqon.connect(stack.url, token=stack.token("ann"))
            room = await bus.join(name)
            for number in range(100):
                await speaks.publish(str(number).encode(), ack=number == 99)
            read = asyncio.ensure_future(collect(room))
            await asyncio.sleep(0)
            sent = [asyncio.ensure_future(room.publish(b"last", ack=True)) for _ in range(10)]
            await asyncio.sleep(0)
            await bus.close()
            # It drained: what was under way got its acknowledgement.
            assert len([await each for each in sent]) == 10
            seen = len(await read)
            await asyncio.sleep(0.1)
            assert len(read.result()) == seen
            with pytest.raises(arqon.ClientClosed):
                await room.get()
            with pytest.raises(arqon.ClientClosed):
                await room.publish(b"too late")
        # And bob heard all ten.
        got = [(await speaks.get()).payload for _ in range(110)]
        assert got.count(b"last") == 10


async def collect(room: arqon.Room) -> list[arqon.Message]:
    """Everything until the room ends."""
    return [message async for message in room]
