"""Each example, run as a user would, against a real ArqonBus."""

from __future__ import annotations

import asyncio
import pathlib
import re
import uuid

import pytest
from children import child
from live_stack import Stack, program
from waiting import LONG

import arqon

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def fresh_room() -> str:
    """A room that no other test is in."""
    return f"examples.{uuid.uuid4().hex}"


def test_every_example_is_tested() -> None:
    tested = pathlib.Path(__file__).read_text()
    for example in EXAMPLES.glob("*.py"):
        assert f'"{example.name}"' in tested


async def test_chat(stack: Stack) -> None:
    room = fresh_room()
    script = str(EXAMPLES / "chat.py")
    async with (
        child(script, stack.url, room, "--token", stack.token("ann")) as ann,
        child(script, stack.url, room, "--token", stack.token("bob")) as bob,
    ):
        assert "-- in" in await ann.line("end with Ctrl-D")
        await bob.line("end with Ctrl-D")
        await bob.say("hello Ann, grüß dich")
        assert await ann.line("bob") == "bob: hello Ann, grüß dich"
        await ann.say("hello Bob")
        assert await bob.line("ann") == "ann: hello Bob"
        # Nobody hears oneself.
        assert not any(line.startswith("bob:") for line in bob.lines)
        for each in (ann, bob):
            each.hang_up()
            assert await each.ended() == 0


async def test_the_chat_bears_anything_and_ends_with_its_token(stack: Stack) -> None:
    room = fresh_room()
    words = (str(EXAMPLES / "chat.py"), stack.url, room, "--token", stack.token("ann", ttl="3s"))
    async with child(*words) as ann, arqon.connect(stack.url, token=stack.token("bob")) as bob:
        await ann.line("end with Ctrl-D")
        speaks = await bob.join(room)
        await speaks.publish(b"\xff\x1b[2J\n", ack=True)
        assert await ann.line("bob") == "bob: \ufffd?[2J?"
        # Nobody types, and it ends all the same, when the token that cannot be renewed expired.
        assert await ann.ended() == 1
        problem = await ann.problem()
    assert problem.startswith("error: TOKEN_EXPIRED (1003)")
    assert problem.count("\n") == 1


async def test_presence_board(stack: Stack) -> None:
    room = fresh_room()
    script = str(EXAMPLES / "presence_board.py")
    async with child(script, stack.url, room, "--token", stack.token("warden")) as board:
        await board.line(f"== {room}: 0 users")
        async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
            await ann.join(room, meta={"status": "here"})
            await board.line(f"== {room}: 1 users")
            line = await board.line("ann")
            assert re.fullmatch(r" +ann +since \d\d:\d\d:\d\d UTC  status=here", line)
        await board.line(f"== {room}: 0 users")
        assert not any("warden" in line for line in board.lines)


async def test_latency_meter(stack: Stack) -> None:
    words = ("--count", "50", "--rate", "200", "--token", stack.token())
    async with child(str(EXAMPLES / "latency_meter.py"), stack.url, fresh_room(), *words) as meter:
        line = await meter.line("50 messages")
        found = re.fullmatch(
            r"50 messages: p50 (\S+) ms, p95 (\S+) ms, p99 (\S+) ms, max (\S+) ms", line
        )
        assert found is not None
        p50, p95, p99, most = map(float, found.groups())
        assert 0 < p50 <= p95 <= p99 <= most
        assert await meter.ended() == 0


async def test_token_refresh(stack: Stack) -> None:
    room = fresh_room()
    command = f"{program('arq')} --state {stack.folder / 'state'} auth gen --user ada --ttl 5s"
    words = (stack.url, room, "--token-command", command)
    async with (
        child(str(EXAMPLES / "token_refresh.py"), *words) as refreshing,
        arqon.connect(stack.url, token=stack.token("bob")) as bob,
    ):
        await refreshing.line("-- connected")
        for _ in range(3):
            await refreshing.line("-- refreshed, good until")
        # Three times past its expiry, and still the first session.
        assert not any("reconnecting" in line for line in refreshing.lines)
        speaks = await bob.join(room)
        await speaks.publish_text("still there?", ack=True)
        assert await refreshing.line("bob") == "bob: b'still there?'"


@pytest.mark.parametrize("name", ["chat.py", "presence_board.py", "latency_meter.py"])
async def test_an_error_is_one_line(name: str) -> None:
    words = ("ws://127.0.0.1:1/v1/socket", "lobby", "--token", "x")
    async with child(str(EXAMPLES / name), *words) as failing:
        assert await asyncio.wait_for(failing.ended(), LONG) == 1
        problem = await failing.problem()
    assert problem.startswith("error: UNREACHABLE (5002): ")
    assert problem.count("\n") == 1
