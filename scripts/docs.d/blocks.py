"""What stands in fences on a page, and what its marks say of it.

A mark is what follows the language on the opening line of a fence; several are parted by `; `.
"""

import dataclasses
import enum
import re
from collections.abc import Callable
from pathlib import Path

SHELL = "sh"
PYTHON = "python"
# Written so elsewhere; here every block of commands is `sh`.
OTHER_SHELLS = {
    "bash",
    "bat",
    "command",
    "console",
    "fish",
    "ksh",
    "powershell",
    "sh-session",
    "shell",
    "shell-session",
    "shellscript",
    "shellsession",
    "terminal",
    "zsh",
}


class Kind(enum.Enum):
    """What becomes of a block."""

    RUN = "run"
    HIDDEN = "hidden"
    FILE = "file"
    OUTPUT = "output"
    RUN_BY = "run-by"
    NO_RUN = "no-run"
    TEXT = "text"


class BadMarkError(Exception):
    """A mark that says nothing, or nothing that is understood."""


@dataclasses.dataclass
class Block:
    """One fence, or one comment with commands that readers do not see."""

    page: Path
    line: int
    language: str
    text: str
    kind: Kind
    reason: str = ""
    background: bool = False
    until: str = ""
    fails: str | None = None
    needs: str = ""
    file: str = ""
    name: str = ""


FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
HIDDEN = re.compile(r"^<!-- sh\b(?P<marks>.*)$")
# What looks like a block to who reads or writes, and would be none here.
UNSEEN = re.compile(r"^\s*(?:(?:>|[-*+]|\d+[.)])\s*)*(?:`{3}|~{3})")
UNSEEN_HIDDEN = re.compile(r"^\s*<!--\s*sh\b")


def read(path: Path, shown: Path, python_by: str = "") -> list[Block]:
    """All blocks of a page, in its order. `python_by` is the step that runs its Python."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        start = at
        at += 1
        if hidden := HIDDEN.match(lines[start]):
            at = _until(lines, at, lambda line: line == "-->", shown, start)
            text = "\n".join(lines[start + 1 : at - 1])
            block = _block(shown, start + 1, SHELL, hidden["marks"].strip(), text)
            if block.kind is Kind.RUN:
                block.kind = Kind.HIDDEN
            blocks.append(block)
        elif fence := FENCE.match(lines[start]):
            ticks = fence["ticks"]

            def closes(line: str, ticks: str = ticks) -> bool:
                return line.strip().startswith(ticks) and not line.strip().strip(ticks[0])

            at = _until(lines, at, closes, shown, start)
            indent = len(fence["indent"])
            body = [
                line[indent:] if line[:indent].isspace() else line
                for line in lines[start + 1 : at - 1]
            ]
            language, _, marks = fence["info"].strip().partition(" ")
            if language == PYTHON and python_by:
                marks = f"run-by: {python_by}"
            blocks.append(_block(shown, start + 1, language, marks.strip(), "\n".join(body)))
        elif UNSEEN.match(lines[start]):
            raise BadMarkError(
                f"{shown}:{start + 1}: a fence stands on a line of its own, below the item of a "
                "list and outside of quotes; no backticks after its opening"
            )
        elif UNSEEN_HIDDEN.match(lines[start]):
            raise BadMarkError(f"{shown}:{start + 1}: hidden commands begin with `<!-- sh`")
    return blocks


def _until(lines: list[str], at: int, ends: Callable[[str], bool], page: Path, start: int) -> int:
    while at < len(lines):
        at += 1
        if ends(lines[at - 1]):
            return at
    raise BadMarkError(f"{page}:{start + 1}: this block has no end")


def _block(page: Path, line: int, language: str, marks: str, text: str) -> Block:
    where = f"{page}:{line}"
    if not language:
        raise BadMarkError(f"{where}: a block without a language: `sh`, or `text`")
    if language in OTHER_SHELLS or (language != SHELL and language.lower() == SHELL):
        raise BadMarkError(f"{where}: a block of commands is `sh`, not `{language}`")
    block = Block(page, line, language, text, Kind.RUN if language == SHELL else Kind.TEXT)
    for name, kind in (("no-run", Kind.NO_RUN), ("run-by", Kind.RUN_BY)):
        if marks == name or marks.startswith(f"{name}:"):
            block.kind = kind
            block.reason = marks.removeprefix(name).removeprefix(":").strip()
            if not block.reason:
                raise BadMarkError(f"{where}: `{name}` without a reason")
            return block
    for mark in filter(None, (mark.strip() for mark in marks.split(";"))):
        name, colon, value = (part.strip() for part in mark.partition(":"))
        match name:
            case "background" if language in (SHELL, PYTHON) and not colon:
                block.background = True
            case "until" if value:
                block.until = value
            case "fails" if language == SHELL:
                block.fails = value
            case "as" if re.fullmatch(r"[a-z0-9-]+", value):
                block.name = value
            case "needs" if value:
                block.needs = value
            case "file" if (
                value and not Path(value).is_absolute() and ".." not in Path(value).parts
            ):
                block.file, block.kind = value, Kind.FILE
            case "output" if language == "text" and not colon:
                block.kind = Kind.OUTPUT
            case "run" if language == PYTHON and not colon:
                block.kind = Kind.RUN
            case _:
                raise BadMarkError(f"{where}: `{mark}` is no mark of a block of `{language}`")
    if language == PYTHON and block.kind is Kind.TEXT:
        raise BadMarkError(
            f"{where}: Python is marked `run`, `file: NAME`, `run-by: STEP` or `no-run: REASON`"
        )
    if block.name and not block.background:
        raise BadMarkError(f"{where}: `as` names what runs in the background")
    if block.until and not block.background:
        raise BadMarkError(f"{where}: `until` is for what runs in the background")
    return block
