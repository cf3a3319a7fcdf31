"""``python -m arqon`` where something is odd: its arguments, its streams, its token command.
Against the gateway for tests; ``tests/live/test_command_line.py`` has a real ArqonBus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from children import child, surroundings
from waiting import LONG

import arqon.testing
from arqon import __main__ as command_line

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="bytes as arguments, or a signal")

#: Looks like a token, and is none that a gateway here made.
SECRET = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEiLCJhIjoiYi1fIn0.c2lnbmF0dXJl-_"

#: A token command that tells the test that it runs, by a connection that ends when it does. So
#: does what it starts.
_HANGS = """
import pathlib, socket, subprocess, sys
port, depth, file = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
if file.exists():
    print(file.read_text())
    file.unlink()
    sys.exit()
with socket.create_connection(("127.0.0.1", port)) as line:
    if depth:
        subprocess.Popen([sys.executable, __file__, str(port), str(depth - 1), str(file)])
    line.sendall(b"I run")
    line.recv(1)
"""


@pytest.fixture
async def gw() -> AsyncIterator[arqon.testing.Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


async def ran(*words: str | bytes, shell: str = "", **environment: str) -> tuple[int, bytes, str]:
    """Runs it to its end: status, standard output, standard error."""
    program = (sys.executable, "-m", "arqon", *words)
    process = await asyncio.create_subprocess_exec(
        *(("sh", "-c", f'exec "$0" "$@" {shell}') if shell else ()),
        *program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(**{"ARQON_TOKEN": "", **environment}),
        start_new_session=True,
    )
    out, problem = await asyncio.wait_for(process.communicate(), LONG)
    assert process.returncode is not None
    return process.returncode, out, problem.decode()


# ---- arguments


@POSIX
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((b"room", b"x", b"-H", b"a=\xff"), r"argument -H/--header: 'a=\udcff' is no UTF-8"),
        ((b"room", b"x", b"-H", b"a\xff=b"), r"argument -H/--header: 'a\udcff=b' is no UTF-8"),
        ((b"r\xff", b"x"), r"argument room: 'r\udcff' is no UTF-8"),
    ],
)
async def test_arguments_that_are_no_text(
    gw: arqon.testing.Gateway, words: tuple[bytes, ...], told: str
) -> None:
    status, out, problem = await ran("pub", gw.url, *words, ARQON_TOKEN=gw.token("ada"))
    assert (status, out) == (2, b"")
    assert problem.splitlines() == [f"error: {told}", "hint: python -m arqon pub --help"]


@POSIX
async def test_an_address_that_is_no_text() -> None:
    status, out, problem = await ran("pub", b"ws://127.0.0.1:1/\xff", "room", "x")
    assert (status, out) == (2, b"")
    assert problem.startswith(r"error: argument url: 'ws://127.0.0.1:1/\udcff' is no UTF-8")


@POSIX
async def test_a_payload_may_be_any_bytes(gw: arqon.testing.Gateway) -> None:
    token = gw.token("ada")
    status, _, problem = await ran("pub", gw.url, "room", b"a\xff\xfe", ARQON_TOKEN=token)
    assert (status, problem) == (0, "")
    assert gw.messages[0].payload == b"a\xff\xfe"


def test_half_a_character_is_no_payload(capsys: pytest.CaptureFixture[str]) -> None:
    # No POSIX shell makes one, but one of Windows may.
    words = ["pub", "ws://127.0.0.1:1", "room", "a\ud800", "--token", SECRET]
    assert command_line.main(words) == 2
    out, problem = capsys.readouterr()
    assert out == ""
    assert problem.splitlines()[0] == r"error: the message 'a\ud800' is no UTF-8"


@pytest.mark.parametrize(
    "words",
    [
        ("pub", "ws://127.0.0.1:1", "room", "x", SECRET),
        ("pub", "ws://127.0.0.1:1", "room", "x", f"--tokne={SECRET}"),
        ("pub", "ws://127.0.0.1:1", "room", "x", "-H", SECRET),
        ("sub", "ws://127.0.0.1:1", "room", "--count", SECRET),
        ("sub", "ws://127.0.0.1:1", "room", "--timeout", SECRET),
        (SECRET,),
        ("sub", SECRET, "room", "--token", "a"),
        ("sub", f"ws://127.0.0.1:1/?access_token={SECRET}", "room", "--token", "a"),
        ("sub", "ws://127.0.0.1:1", "room", "--token-file", SECRET),
        ("sub", "ws://127.0.0.1:1", "room", "--token-command", SECRET),
    ],
)
def test_a_token_in_the_wrong_place_is_not_told(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = command_line.main(list(words))
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status in (1, 2)
    out, problem = capsys.readouterr()
    assert out == ""
    assert problem.startswith("error: ")
    assert not any(part in problem for part in SECRET.split(".")), problem


async def test_a_room_that_is_a_token_is_not_told(gw: arqon.testing.Gateway) -> None:
    status, _, problem = await ran("sub", gw.url, SECRET * 4, "--token", gw.token("ada"))
    assert status == 1
    assert "ROOM_NAME_INVALID" in problem
    assert SECRET.split(".")[1] not in problem


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a {SECRET}, b", "a eyJ..., b"),
        (f"'{SECRET}' {SECRET}", "'eyJ...' eyJ..."),
        ("eyJhbGciOiJub25lIn0.", "eyJ..."),
        (f"Bearer={SECRET}\n", "Bearer=eyJ...\n"),
        ("eyJ is where a token begins", "eyJ is where a token begins"),
    ],
)
def test_what_is_taken_for_a_token(text: str, told: str) -> None:
    assert command_line._redacted(text) == told


# ---- streams


@POSIX
async def test_notes_do_not_go_into_the_data(gw: arqon.testing.Gateway) -> None:
    words = ("sub", gw.url, "room", "--json", "--count", "1")
    running = asyncio.ensure_future(ran(*words, shell="2>&-", ARQON_TOKEN=gw.token("ada")))
    await gw.wait_until(lambda: gw.members("room") == ["ada"], LONG)
    gw.publish("room", b"hello")
    status, out, _ = await running
    assert status == 0
    assert out.startswith(b'{"room": "room", ')
    assert out.count(b"\n") == 1


def test_errors_do_not_go_into_the_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert command_line.main(["pub", "ws://127.0.0.1:1", "r", "x", "--lines", "--token", "a"]) == 2
    with pytest.raises(SystemExit):
        command_line.main(["shout"])
    assert capsys.readouterr().out == ""


# ---- the token command


def python(*words: str) -> str:
    """A command line that runs this Python."""
    command = [sys.executable, *words]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


class Hanging:
    """Token commands that hang. Where its file is there, one prints and removes it instead."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.token = folder / "token"
        self._script = folder / "hangs.py"
        self._script.write_text(_HANGS, encoding="utf-8")
        self._callers: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._port = 0

    @contextlib.asynccontextmanager
    async def heard(self) -> AsyncIterator[Hanging]:
        """Listens to them; whatever is left ends with this."""
        server = await asyncio.start_server(self._came, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            await server.wait_closed()

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._callers.put_nowait(reader)

    def command(self, depth: int) -> str:
        """The command line; so many more processes are started by it, one by the other."""
        return python(str(self._script), str(self._port), str(depth), str(self.token))

    async def one(self) -> asyncio.StreamReader:
        """The next process that runs; its reader ends when it does."""
        reader = await asyncio.wait_for(self._callers.get(), LONG)
        assert await asyncio.wait_for(reader.readexactly(5), LONG) == b"I run"
        return reader

    async def ended(self, reader: asyncio.StreamReader) -> None:
        """Waits until this process is gone."""
        # Windows cuts the connection of a process that was ended.
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), LONG) == b""


@pytest.fixture
async def hanging(tmp_path: pathlib.Path) -> AsyncIterator[Hanging]:
    async with Hanging(tmp_path).heard() as commands:
        yield commands


async def test_a_token_command_that_is_late_is_ended(
    gw: arqon.testing.Gateway, hanging: Hanging
) -> None:
    words = ("pub", gw.url, "room", "x", "--timeout", "4")
    running = asyncio.ensure_future(ran(*words, "--token-command", hanging.command(depth=1)))
    command, what_it_started = await hanging.one(), await hanging.one()
    status, _, problem = await running
    assert status == 1
    assert problem.startswith("error: TOKEN_SOURCE_TIMEOUT (5008): ")
    await hanging.ended(command)
    await hanging.ended(what_it_started)


async def test_one_that_is_late_later_is_ended_while_the_program_goes_on(
    gw: arqon.testing.Gateway, hanging: Hanging
) -> None:
    hanging.token.write_text(gw.token("ada"), encoding="utf-8")
    words = ("-m", "arqon", "sub", gw.url, "room", "--count", "1", "--timeout", "4")
    async with child(*words, "--token-command", hanging.command(depth=0)) as sub:
        await sub.note("listening to")
        gw.expire_tokens()
        await hanging.ended(await hanging.one())
        gw.publish("room", b"still there?", user="ben")
        assert await sub.line("ben") == "ben: still there?"
        assert await sub.ended() == 0


@POSIX
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
async def test_a_signal_ends_the_token_command(
    gw: arqon.testing.Gateway, hanging: Hanging, name: str, status: int
) -> None:
    words = ("-m", "arqon", "sub", gw.url, "room", "--token-command", hanging.command(depth=1))
    async with child(*words) as sub:
        command, what_it_started = await hanging.one(), await hanging.one()
        sub.signal(getattr(signal, name))
        assert await sub.ended() == status
        await hanging.ended(command)
        await hanging.ended(what_it_started)


@POSIX
async def test_a_token_command_may_ask_at_the_terminal(gw: arqon.testing.Gateway) -> None:
    ask = "printf 'which token? ' >/dev/tty; read answer </dev/tty; echo \"$answer\""
    words = ("pub", gw.url, "room", "x", "--ack", "--token-command", shlex.join(["sh", "-c", ask]))
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        # The first terminal that the leader of a session opens is its own.
        *(sys.executable, "-c", _AT_TERMINAL, os.ttyname(theirs), sys.executable, "-m", "arqon"),
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(ARQON_TOKEN=""),
        start_new_session=True,
    )
    try:
        asked = b""
        while b"which token? " not in asked:
            asked += await asyncio.wait_for(asyncio.to_thread(os.read, ours, 4096), LONG)
        os.write(ours, gw.token("ada").encode() + b"\n")
        out, problem = await asyncio.wait_for(process.communicate(), LONG)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        os.close(ours)
        os.close(theirs)
    assert (process.returncode, problem) == (0, b"")
    assert len(out.strip()) == 36
    assert gw.messages[-1].user == "ada"


_AT_TERMINAL = (
    "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
)


async def test_what_a_token_command_says_is_in_no_error(gw: arqon.testing.Gateway) -> None:
    script = f"import sys; print('no use:', '{SECRET}', file=sys.stderr); sys.exit(3)"
    words = ("pub", gw.url, "room", "x", "--token-command", python("-c", script))
    status, out, problem = await ran(*words)
    assert (status, out) == (1, b"")
    said, error, *_ = problem.splitlines()
    # The command's own words, as it wrote them.
    assert said == f"no use: {SECRET}"
    assert error.startswith("error: TOKEN_SOURCE_FAILED (5007): ")
    assert "ended with status 3" in error
    assert "eyJ" not in error


@POSIX
async def test_a_token_command_without_standard_error(gw: arqon.testing.Gateway) -> None:
    script = f"import os; os.write(1, b'{gw.token('ada')}'); os.write(2, b'done')"
    words = ("pub", gw.url, "room", "x", "--ack", "--token-command", python("-c", script))
    # No time is too long to wait for it.
    status, out, problem = await ran(*words, "--timeout", "1e9", shell="2>&-")
    assert status == 0
    assert out.decode().strip() == gw.messages[0].twist_id
    assert problem == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "--token-command is empty"),
        pytest.param("'", "--token-command is no command: No closing quotation", marks=POSIX),
    ],
)
def test_a_token_command_that_is_none(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pub", "ws://127.0.0.1:1", "room", "x", "--token-command", line]
    assert command_line.main(words) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {told}"
