"""Runs the blocks of a page in one shell, as a reader would, and looks at what they print."""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import sandbox
from blocks import PYTHON, Block, Kind

# A page is given this long; a block that waits for a text, that long.
PAGE_SECS = 600
UNTIL_SECS = 60
# An output of the background may come a moment after the block that caused it.
LATE_SECS = 20
STOP_SECS = 60
PATIENCE = 0.05
# Of an output, in the report of a failure.
SHOWN_LINES = 30

PREAMBLE = r"""
set -eE -o pipefail -m
trap 'echo "$LINENO" >"$DOCS_OUT/line"' ERR
docs_until() {
    local deadline=$((SECONDS + $3))
    until grep -qsF -e "$2" "$DOCS_OUT/$1.out"; do
        if [ -e "$DOCS_OUT/$1.status" ] || [ "$SECONDS" -ge "$deadline" ]; then
            echo "docs: never printed: $2" >>"$DOCS_OUT/$1.out"
            echo "$1" >"$DOCS_OUT/at"
            exit 1
        fi
        sleep 0.05
    done
}
docs_ctrl_c() {
    local pid deadline=$((SECONDS + 60))
    pid=$(cat "$DOCS_OUT/$1.pid")
    kill -INT -- "-$pid"
    while kill -0 -- "-$pid" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
"""


@dataclasses.dataclass
class Outcome:
    """How a page went."""

    ran: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def follow(page: Path, blocks: list[Block]) -> Outcome:
    """Follows a page in a place of its own."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="arqon-docs.") as folder:
        place, out = Path(folder, "ArqonBus"), Path(folder, "out")
        for made in (place, out, place / "tmp"):
            made.mkdir()
        sandbox.copy_tree(place)
        (out / "page.sh").write_text(_script(blocks, out, place, outcome), encoding="utf-8")
        shell = subprocess.Popen(
            ["bash", str(out / "page.sh")],
            cwd=place,
            env=sandbox.environment(place) | {"DOCS_OUT": str(out)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            # A block that ends the shell, with `exit 0` or `exec`, leaves those after it undone.
            failed = shell.wait(timeout=PAGE_SECS) != 0 or not (out / "done").exists()
        except subprocess.TimeoutExpired:
            failed = True
            outcome.problems.append(f"{page}: not at its end after {PAGE_SECS} s")
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        if failed:
            outcome.problems.append(_failure(blocks, out))
        else:
            outcome.problems += _outputs(blocks, out)
        outcome.problems += _stop(blocks, out)
        if failed:
            outcome.problems += _logs(place)
    return outcome


def _script(blocks: list[Block], out: Path, place: Path, outcome: Outcome) -> str:
    text = PREAMBLE
    for number, block in enumerate(blocks):
        if block.needs and not _is_there(block.needs, place):
            outcome.skipped.append(f"{block.page}:{block.line}: {block.needs} is not installed")
            continue
        if block.kind is Kind.FILE:
            (out / f"{number}.file").write_text(block.text + "\n", encoding="utf-8")
            name = shlex.quote(block.file)
            text += f'mkdir -p "$(dirname {name})" && cp "$DOCS_OUT/{number}.file" {name}\n'
        elif block.kind in (Kind.RUN, Kind.HIDDEN):
            text += _one(number, block, out)
        else:
            continue
        outcome.ran += 1
    return text + 'touch "$DOCS_OUT/done"\n'


def _is_there(program: str, place: Path) -> bool:
    return bool(shutil.which(program, path=sandbox.environment(place)["PATH"])) or (
        "/" in program and (place / program).exists()
    )


def _one(number: int, block: Block, out: Path) -> str:
    """The lines of the script that run one block."""
    source = out / f"{number}.{'py' if block.language == PYTHON else 'sh'}"
    source.write_text(block.text + "\n", encoding="utf-8")
    run = ("python " if block.language == PYTHON else "source ") + shlex.quote(str(source))
    text = f'echo {number} >"$DOCS_OUT/at"\n'
    if block.background:
        # A job of its own, which Ctrl-C reaches as it would in another terminal.
        text += (
            f'( ({run}); echo $? >"$DOCS_OUT/{number}.status" ) >"$DOCS_OUT/{number}.out" 2>&1 &\n'
        )
        text += f'echo $! >"$DOCS_OUT/{number}.pid"\n'
        if block.name:
            text += f'echo $! >"$DOCS_OUT/{block.name}.pid"\n'
        if block.until:
            text += f"docs_until {number} {shlex.quote(block.until)} {UNTIL_SECS}\n"
        return text
    text += f'exec >"$DOCS_OUT/{number}.out" 2>&1\n'
    if block.fails is None:
        return text + run + "\n"
    right = f'[ "$docs_status" {"-ne 0" if not block.fails else "-eq " + block.fails} ]'
    return (
        text
        + f"docs_status=0; ({run}) || docs_status=$?\n"
        + f'{right} || {{ echo "docs: exit status $docs_status"; exit 1; }}\n'
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _shown(block: Block, out: str) -> str:
    lines = out.splitlines()
    if len(lines) > SHOWN_LINES:
        out = "\n".join(["…", *lines[-SHOWN_LINES:]])
    return (
        f"{block.page}:{block.line}:\n"
        + _indented(block.text)
        + "\n  printed\n"
        + _indented(out or "(nothing)")
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip("\n").splitlines())


def _failure(blocks: list[Block], out: Path) -> str:
    at = int(_read(out / "at") or 0)
    line = _read(out / "line").strip()
    where = f" (line {line} of the block)" if line else ""
    return f"failed{where}: " + _shown(blocks[at], _read(out / f"{at}.out"))


def _outputs(blocks: list[Block], out: Path) -> list[str]:
    problems = []
    for number, block in enumerate(blocks):
        if block.kind is not Kind.OUTPUT:
            continue
        before = [
            other
            for other in range(number)
            if blocks[other].kind in (Kind.RUN, Kind.NO_RUN, Kind.RUN_BY)
        ]
        if not before or blocks[before[-1]].kind is not Kind.RUN:
            continue
        cause = before[-1]
        deadline = time.monotonic() + (LATE_SECS if blocks[cause].background else 0)
        while not (
            right := matches(block.text, _read(out / f"{cause}.out"), blocks[cause].background)
        ):
            if time.monotonic() >= deadline:
                break
            time.sleep(PATIENCE)
        if not right and (out / f"{cause}.out").exists():
            problems.append(
                f"{block.page}:{block.line}: it says\n{_indented(block.text)}\n  but "
                + _shown(blocks[cause], _read(out / f"{cause}.out"))
            )
    return problems


def matches(expected: str, printed: str, anywhere: bool) -> bool:
    """Whether this was printed: `…` stands for anything in a line, alone for any lines.

    Blanks do not count. What is in the background may have printed more, before and after.
    """
    pattern = ""
    for line in filter(None, map(str.strip, expected.splitlines())):
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += (
                ".*?".join(
                    r"[ \t]+".join(map(re.escape, part.split(" ")))
                    for part in re.sub(r"[ \t]+", " ", line).split("…")
                )
                + r"\n"
            )
    text = "".join(f"{line.strip()}\n" for line in printed.splitlines() if line.strip())
    return bool(
        re.search(rf"^{pattern}", text, re.MULTILINE) if anywhere else re.fullmatch(pattern, text)
    )


def _stop(blocks: list[Block], out: Path) -> list[str]:
    """Ctrl-C to what runs in the background, the last first."""
    problems = []
    for number in reversed(range(len(blocks))):
        if not (pid := _read(out / f"{number}.pid").strip()):
            continue
        if _read(out / f"{number}.status").strip() not in ("", "0"):
            problems.append(
                "ended by itself: " + _shown(blocks[number], _read(out / f"{number}.out"))
            )
        for sign, seconds in ((signal.SIGINT, STOP_SECS), (signal.SIGKILL, 1)):
            try:
                os.killpg(int(pid), sign)
            except ProcessLookupError:
                break
            if _gone(int(pid), seconds):
                break
            problems.append(
                f"Ctrl-C does not end it: {_shown(blocks[number], _read(out / f'{number}.out'))}"
            )
    return problems


def _gone(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(PATIENCE)
    return False


def _logs(place: Path) -> list[str]:
    """The ends of the logs, where something went wrong."""
    return [
        f"{log.name}:\n" + _indented("\n".join(_read(log).splitlines()[-8:]))
        for log in sorted(place.glob("**/.arqon/logs/*.log"))
    ]
