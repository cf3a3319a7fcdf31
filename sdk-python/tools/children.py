"""Programs that a test runs beside itself and talks to by their pipes."""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from waiting import LONG

#: Bytes of a line that a program may print.
_LONGEST_LINE = 256 * 1024
_LIBRARY = pathlib.Path(__file__).resolve().parents[1] / "src"


class Child:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def line(self, wanted: str) -> str:
        """Reads on until a line holds this text."""
        stdout = self._process.stdout
        assert stdout is not None
        while True:
            raw = await asyncio.wait_for(stdout.readline(), LONG)
            if not raw:
                problem = await self.problem()
                raise AssertionError(f"no line with {wanted!r} in {self.lines}; {problem}")
            self.lines.append(raw.decode().rstrip("\r\n"))
            if wanted in self.lines[-1]:
                return self.lines[-1]

    async def note(self, wanted: str) -> None:
        """Reads standard error on until a line holds this text."""
        stderr = self._process.stderr
        assert stderr is not None
        while wanted not in (raw := await asyncio.wait_for(stderr.readline(), LONG)).decode():
            assert raw, f"no line with {wanted!r} on standard error"

    async def say(self, line: str) -> None:
        """Types a line."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")
        await stdin.drain()

    def hang_up(self) -> None:
        """Ends its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def interrupt(self) -> None:
        """Ctrl-C."""
        import signal

        self.signal(signal.SIGINT)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status."""
        return await asyncio.wait_for(self._process.wait(), LONG)

    async def problem(self) -> str:
        """Its standard error, once it ended."""
        assert self._process.stderr is not None
        return (await asyncio.wait_for(self._process.stderr.read(), LONG)).decode()


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a program: the library of this tree, whatever is installed."""
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(_LIBRARY), **more}


@asynccontextmanager
async def child(*words: str, **environment: str) -> AsyncIterator[Child]:
    """Runs this Python with these arguments; ends it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=surroundings(**environment),
        # Without the terminal that the tests may have, which would make a difference.
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    try:
        yield Child(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
