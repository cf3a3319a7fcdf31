"""Presence in its modes, told by a real Brain."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from live_stack import Stack
from waiting import LONG, until

import arqon


def fresh_room() -> str:
    """A room that no other test is in."""
    return f"presence.{uuid.uuid4().hex}"


async def changes_of(room: arqon.Room, count: int) -> list[tuple[str, str]]:
    """The next changes, without their members."""
    got: list[tuple[str, str]] = []
    async for change in room.presence:
        got.append((change.kind, change.user))
        if len(got) == count:
            break
    return got


async def test_full_tells_who_comes_changes_and_leaves(stack: Stack) -> None:
    name = fresh_room()
    async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
        room = await ann.join(name, presence="full", meta={"name": "Ann"})
        watching = asyncio.ensure_future(changes_of(room, 4))
        async with arqon.connect(stack.url, token=stack.token("bob")) as bob:
            other = await bob.join(name, meta={"name": "Bob"})
            assert other.presence.mode == "full"
            await until(lambda: "bob" in room.presence.members)
            assert room.presence.members["bob"].meta == {"name": "Bob"}
            await other.presence.set({"name": "Bob", "status": "away"})
            await until(lambda: room.presence.members["bob"].meta.get("status") == "away")
            assert await other.presence.get_count() == 2
        assert await asyncio.wait_for(watching, LONG) == [
            ("join", "ann"),
            ("join", "bob"),
            ("update", "bob"),
            ("leave", "bob"),
        ]
        assert room.presence.count == 1
        assert list(room.presence.members) == ["ann"]


async def test_two_sessions_are_one_member(stack: Stack) -> None:
    name = fresh_room()
    async with (
        arqon.connect(stack.url, token=stack.token("ann")) as first,
        arqon.connect(stack.url, token=stack.token("ann")) as second,
    ):
        room = await first.join(name, meta={"device": "phone"})
        await second.join(name, meta={"device": "desk"})
        await until(lambda: [m.session_count for m in room.presence.members.values()] == [2])
        (member,) = room.presence.members.values()
        assert {session.meta["device"] for session in member.sessions} == {"phone", "desk"}
        assert {session.session for session in member.sessions} == {
            session.id for session in (first.session, second.session) if session is not None
        }


async def test_count_tells_numbers_and_watch_is_not_seen(stack: Stack) -> None:
    name = fresh_room()
    async with (
        arqon.connect(stack.url, token=stack.token("ann")) as ann,
        arqon.connect(stack.url, token=stack.token("bob")) as bob,
        arqon.connect(stack.url, token=stack.token("eve")) as eve,
    ):
        counted = await ann.join(name, presence="count")
        watched = await eve.join(name, presence="watch")

        async def counts(last: int) -> list[int]:
            got = []
            async for count in counted.presence.counts():
                got.append(count)
                if count == last:
                    break
            return got

        assert (await asyncio.wait_for(counts(1), LONG))[-1] == 1
        counting = asyncio.ensure_future(counts(2))
        await bob.join(name, presence="count", meta={"a": "b"})
        assert (await asyncio.wait_for(counting, LONG))[-1] == 2
        assert sorted(await asyncio.wait_for(changes_of(watched, 2), LONG)) == [
            ("join", "ann"),
            ("join", "bob"),
        ]
        assert dict(counted.presence.members) == {}
        assert sorted(member.user for member in await counted.presence.get()) == ["ann", "bob"]
        with pytest.raises(arqon.PresenceNotSeen):
            await watched.presence.set({"a": "b"})


async def test_a_meta_over_the_limit_is_refused_and_the_old_one_stays(stack: Stack) -> None:
    name = fresh_room()
    async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
        room = await ann.join(name, meta={"name": "Ann"})
        with pytest.raises(arqon.MetaTooLarge):
            await room.presence.set({"name": "A" * 100_000})
        (member,) = await room.presence.get()
        assert member.meta == {"name": "Ann"}
        await room.leave()
        with pytest.raises(arqon.MetaTooLarge):
            await ann.join(name, meta={"name": "A" * 50_000})
        assert not ann.rooms


async def test_iterating_ends_with_the_room(stack: Stack) -> None:
    async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
        room = await ann.join(fresh_room(), presence="full")

        async def all_changes() -> int:
            return len([change async for change in room.presence])

        counted = asyncio.ensure_future(all_changes())
        await until(lambda: room.presence.ready)
        await room.leave()
        assert await asyncio.wait_for(counted, LONG) <= 1
