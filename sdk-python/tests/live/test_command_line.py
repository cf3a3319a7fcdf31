"""``python -m arqon``, as a user runs it, against a real ArqonBus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import signal
import sys
import uuid

import pytest
from children import Child, child, surroundings
from live_stack import Stack, program

import arqon


def fresh_room() -> str:
    """A room that no other test is in."""
    return f"cli.{uuid.uuid4().hex}"


async def outcome(of: Child) -> tuple[int, str]:
    """Exit status and standard error."""
    return await of.ended(), await of.problem()


async def test_sub_hears_what_pub_says(stack: Stack) -> None:
    room, token = fresh_room(), stack.token("ann")
    async with (
        child("-m", "arqon", "sub", stack.url, room, "--count", "3", ARQON_TOKEN=token) as sub,
        arqon.connect(stack.url, token=stack.token("eve")) as eve,
    ):
        watched = await eve.join(room)
        await sub.note("listening to")
        words = ("-m", "arqon", "pub", stack.url, room)
        bob = stack.token("bob")
        async with child(*words, "hello, grüß dich", "--ack", "--token", bob) as pub:
            assert (await outcome(pub))[0] == 0
        async with child(*words, "-", "--lines", "-H", "app=1", "--token", bob) as pub:
            await pub.say("one")
            await pub.say("\x1b[31mtwo")
            pub.hang_up()
            assert await outcome(pub) == (0, "")
        assert await sub.line("hello") == "bob: hello, grüß dich"
        assert await sub.line("one") == "bob: one"
        # What could colour the terminal is shown.
        assert await sub.line("two") == "bob: \\x1b[31mtwo"
        assert await sub.ended() == 0
        assert [(await watched.get()).headers.get("app") for _ in range(3)] == [None, "1", "1"]


async def test_json_is_one_object_a_line(stack: Stack) -> None:
    room = fresh_room()
    words = ("-m", "arqon", "sub", stack.url, room, "--json", "--token", stack.token("ann"))
    async with child(*words) as sub, arqon.connect(stack.url, token=stack.token("bob")) as bob:
        speaks = await bob.join(room, presence="watch")
        await sub.note("listening to")
        await speaks.publish_text("täxt")
        await speaks.publish(b"\xff\x00")
        first = json.loads(await sub.line("payload"))
        assert first["payload"] == "täxt"
        assert first["user"] == "bob"
        assert first["room"] == room
        assert first["headers"]["content-type"] == "text/plain; charset=utf-8"
        assert json.loads(await sub.line("payload"))["payload_base64"] == "/wA="
        sub.interrupt()
        assert await sub.ended() == 130


async def test_presence(stack: Stack) -> None:
    room = fresh_room()
    words = ("-m", "arqon", "presence", stack.url, room, "--token", stack.token("warden"))
    async with child(*words, "--watch") as watch:
        async with arqon.connect(stack.url, token=stack.token("ann")) as ann:
            await ann.join(room, meta={"status": "here"})
            assert await watch.line("ann") == "+ ann  status=here"
            async with child(*words) as once:
                assert await once.line("ann") == "ann  status=here"
                assert await once.ended() == 0
            async with child(*words, "--count") as count:
                assert await count.line("") == "1"
            async with child(*words, "--json") as told:
                member = json.loads(await told.line("ann"))
                assert member["sessions"][0]["meta"] == {"status": "here"}
        assert await watch.line("- ann") == "- ann  status=here"


async def test_a_token_file_is_read_again(stack: Stack, tmp_path: pathlib.Path) -> None:
    room, file = fresh_room(), tmp_path / "token"
    file.write_text(stack.token("ann", ttl="4s") + "\n")
    words = ("-m", "arqon", "sub", stack.url, room, "--count", "1", "--token-file", str(file))
    async with child(*words) as sub, arqon.connect(stack.url, token=stack.token("bob")) as bob:
        speaks = await bob.join(room)
        await sub.note("listening to")
        file.write_text(stack.token("ann"))
        await asyncio.sleep(9)  # past the expiry of the first, and Shield's leeway and grace
        await speaks.publish(b"still there?")
        assert await sub.line("bob") == "bob: still there?"
        status, problem = await outcome(sub)
        assert status == 0
        assert "reconnecting" not in problem


async def test_a_token_command(stack: Stack) -> None:
    command = f"{program('arq')} --state {stack.folder / 'state'} auth gen --user ann"
    words = ("-m", "arqon", "pub", stack.url, fresh_room(), "x", "--json", "--ack")
    async with child(*words, "--token-command", command) as pub:
        assert uuid.UUID(json.loads(await pub.line("twist_id"))["twist_id"]).version == 7
    async with child(*words, "--token-command", f"{sys.executable} -c 1/0") as pub:
        status, problem = await outcome(pub)
        assert status == 1
        # What the command said, as it wrote it; then what it came to.
        said, _, error = problem.partition("error: TOKEN_SOURCE_FAILED (5007): ")
        assert "ZeroDivisionError" in said
        assert "ended with status 1" in error


async def test_what_is_refused_is_told_in_a_line_and_a_hint(stack: Stack) -> None:
    room = fresh_room()
    expired = ("--token", stack.token("ann", ttl="-5m"))
    observer = ("--token", stack.token("ann", role="observer"))
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("sub", stack.url, room, *expired), 1, "TOKEN_EXPIRED (1003)"),
        (("sub", stack.url, "_x", *observer), 1, "ROOM_NAME_INVALID (2005)"),
        (("pub", stack.url, room, "x", *observer), 1, "PUBLISH_FORBIDDEN (3005)"),
        (("pub", stack.url, room, "x", "--ack", *observer), 1, "PUBLISH_FORBIDDEN (3005)"),
        (("sub", "ws://127.0.0.1:1", room, *observer), 1, "UNREACHABLE (5002)"),
        (("sub", "http://127.0.0.1", room, *observer), 1, "write ws://"),
        (("sub", stack.url, room), 2, "no token"),
        (("pub", stack.url, room, "x", "--lines", *observer), 2, "--lines goes with -"),
        (("sub", stack.url, room, "--count", "0", *observer), 2, "--count"),
        (("pub", stack.url, room, "x", "--json", *observer), 2, "--json goes with --ack"),
        (("presence", stack.url, room, "--watch", "--count"), 2, "not allowed with argument"),
        (("sub", stack.url, room, "--timeout", "x"), 2, "'x' is no number of seconds"),
        (("pub", stack.url, room, "x", "-H", "x"), 2, "'x' is not NAME=VALUE"),
        (("shout",), 2, "invalid choice: 'shout'"),
        ((), 2, "required: sub|pub|presence"),
    ]
    for words, wanted, part in cases:
        async with child("-m", "arqon", *words, ARQON_TOKEN="") as failing:
            status, problem = await outcome(failing)
        assert status == wanted, problem
        assert part in problem
        assert "Traceback" not in problem
        assert problem.startswith("error: ")
        # The hint stands alone, unless the server's own words are the hint.
        rest = problem.splitlines()[1:]
        assert all(line.startswith("hint: ") for line in rest)
        assert len(rest) <= 1


async def test_a_whole_input_is_one_message(stack: Stack) -> None:
    room, token = fresh_room(), stack.token("ann")
    async with arqon.connect(stack.url, token=stack.token("eve")) as eve:
        hears = await eve.join(room)
        async with child("-m", "arqon", "pub", stack.url, room, "-", ARQON_TOKEN=token) as pub:
            await pub.say("one")
            await pub.say("two")
            pub.hang_up()
            assert await outcome(pub) == (0, "")
        assert (await hears.get()).payload == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("more", "size", "wanted", "part"),
    [
        ((), 61441, 1, "PAYLOAD_TOO_LARGE"),
        ((), 1 << 20, 2, "standard input is over"),
        (("--lines",), 1 << 20, 2, "a line is over"),
    ],
)
async def test_too_much_input(
    stack: Stack, more: tuple[str, ...], size: int, wanted: int, part: str
) -> None:
    words = ("-m", "arqon", "pub", stack.url, fresh_room(), "-", "--token", stack.token())
    async with child(*words, *more) as pub:
        # It may stop reading before all is written.
        with contextlib.suppress(ConnectionError):
            await pub.say("x" * size)
        pub.hang_up()
        status, problem = await outcome(pub)
        assert part in problem
        assert status == wanted


async def test_ctrl_c_while_it_waits_for_a_line(stack: Stack) -> None:
    words = ("-m", "arqon", "pub", stack.url, fresh_room(), "-", "--lines", "--ack")
    async with child(*words, "--token", stack.token()) as pub:
        await pub.say("first")
        assert uuid.UUID(await pub.line("")).version == 7
        pub.interrupt()
        assert await outcome(pub) == (130, "")


async def test_sub_connects_again_and_tells_the_gap(own_stack: Stack) -> None:
    room = fresh_room()
    words = ("-m", "arqon", "sub", own_stack.url, room, "--json")
    async with child(*words, ARQON_TOKEN=own_stack.token("ann")) as sub:
        await sub.note("listening to")
        await asyncio.to_thread(own_stack.kill, "shield")
        await sub.note("reconnecting: ")
        await asyncio.to_thread(own_stack.start_shield)
        await sub.note("connected again")
        told = json.loads(await sub.line("gap"))
        assert told == {"gap": "reconnected", "room": room, "missed": None}
        async with arqon.connect(own_stack.url, token=own_stack.token("bob")) as bob:
            await (await bob.join(room)).publish(b"and on", ack=True)
        assert json.loads(await sub.line("payload"))["payload"] == "and on"
        sub.interrupt()
        assert await sub.ended() == 130


async def test_a_reader_that_hangs_does_not_cost_the_session(own_stack: Stack) -> None:
    room = fresh_room()
    words = ("-m", "arqon", "sub", own_stack.url, room)
    async with (
        child(*words, ARQON_TOKEN=own_stack.token("ann")) as sub,
        arqon.connect(own_stack.url, token=own_stack.token("bob")) as bob,
    ):
        await sub.note("listening to")
        speaks = await bob.join(room, echo=False)
        # More than a pipe and this test's reader hold; nothing is read meanwhile.
        for _ in range(40):
            await speaks.publish(b"x" * 60_000, ack=True)
            # Shield's queue for a session is not what this is about.
            await asyncio.sleep(0.05)
        # Heartbeats come each second here, and two missing ones would end the session.
        await asyncio.sleep(6)
        await speaks.publish(b"last", ack=True)
        await sub.line("bob: last")
        sub.interrupt()
        assert await outcome(sub) == (130, "")


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is no SIGPIPE there")
async def test_whoever_reads_may_leave(stack: Stack) -> None:
    room = fresh_room()
    script = f"{sys.executable} -m arqon sub {stack.url} {room} | head -n 1"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"set -o pipefail; {script}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=surroundings(ARQON_TOKEN=stack.token("ann")),
    )
    async with arqon.connect(stack.url, token=stack.token("bob")) as bob:
        speaks = await bob.join(room)
        while process.returncode is None:
            await speaks.publish(b"again")
            await asyncio.sleep(0.1)
    out, problem = await process.communicate()
    assert out == b"bob: again\n"
    assert b"Traceback" not in problem
    assert b"Exception ignored" not in problem
    assert process.returncode in (0, 128 + signal.SIGPIPE)


def test_help_names_everything() -> None:
    from arqon.__main__ import parser

    text = parser().format_help()
    for word in ("sub", "pub", "presence", "ARQON_TOKEN", "--token-file", "examples:"):
        assert word in text


async def test_a_terminal_that_has_few_characters(stack: Stack) -> None:
    poor = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    async with child("-m", "arqon", "pub", "--help", **poor) as shown:
        await shown.line("twist_id")
        assert await outcome(shown) == (0, "")
    words = ("-m", "arqon", "sub", stack.url, fresh_room(), "--count", "1")
    async with (
        child(*words, ARQON_TOKEN=stack.token("ann"), **poor) as sub,
        arqon.connect(stack.url, token=stack.token("bob")) as bob,
    ):
        await sub.note("listening to")
        await (await bob.join(words[4])).publish_text("grüß dich", ack=True)
        assert await sub.line("bob") == r"bob: gr\xfc\xdf dich"
        assert await outcome(sub) == (0, "")
