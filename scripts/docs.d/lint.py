"""Links and anchors of pages, and the command lines of `arq` that they show."""

import re
import shlex
import subprocess
import urllib.parse
from pathlib import Path

import sandbox
from blocks import FENCE, SHELL, Block, Kind

ROOT = sandbox.ROOT
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
DEFINITION = re.compile(r"^\[[^\]]+\]:\s+(?P<target>\S+)$")
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.*?)\s*#*$")
CODE = re.compile(r"`+[^`]*`+")
INLINE = re.compile(r"(?<!`)`(?P<code>arq [a-z-][^`]*)`(?!`)")
CITATION = re.compile(r"`(?P<file>[\w./-]+\.(?:rs|exs|py))(?:::(?P<test>\w+))?`")
# Where a command may begin within a line of shell.
STARTS = re.compile(
    r"(?:^|[|;&(!]|\bthen\b|\bdo\b|\btime\b|\bwhile\b|\buntil\b|\bif\b)\s*(?P<command>arq\s[^|;&)<>]*)"
)
# What is put for a value that prose only names.
VARIABLE = re.compile(r"\$\{?\w+\}?|\$\(")
VALUES = {"URL": "http://host/path", "TIME": "1s", "N": "1"}
CONTINUED = re.compile(r"\\\n\s*")


def _without_fences(text: str) -> list[tuple[int, str]]:
    """The lines that are prose, with their numbers."""
    lines = []
    ticks = ""
    for number, line in enumerate(text.splitlines(), 1):
        if ticks:
            if line.strip().startswith(ticks) and not line.strip().strip(ticks[0]):
                ticks = ""
        elif fence := FENCE.match(line):
            ticks = fence["ticks"]
        else:
            lines.append((number, line))
    return lines


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings, and those written as HTML."""
    text = page.read_text(encoding="utf-8")
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for _, line in _without_fences(text):
        if heading := HEADING.match(line):
            words = (
                re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"])
                .replace("`", "")
                .replace("*", "")
            )
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            number = 0
            while (candidate := slug if not number else f"{slug}-{number}") in found:
                number += 1
            found.add(candidate)
    return found


def links(pages: list[Path]) -> list[str]:
    """Relative links that lead nowhere."""
    problems = []
    for page in pages:
        for number, line in _without_fences((ROOT / page).read_text(encoding="utf-8")):
            prose = CODE.sub(lambda code: "`" * len(code[0]), line)
            targets = [match["target"] for match in LINK.finditer(prose)]
            if definition := DEFINITION.match(prose):
                targets.append(definition["target"])
            problems += [f"{page}:{number}: {wrong}" for wrong in _wrong_citations(line)]
            problems += [
                f"{page}:{number}: {target} {wrong}"
                for target in targets
                if (wrong := _wrong(page, target))
            ]
    return problems


def _wrong(page: Path, target: str) -> str:
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return ""
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / urllib.parse.unquote(path) if path else ROOT / page
    if not file.exists():
        return "leads nowhere"
    if not file.resolve().is_relative_to(ROOT):
        return "leads out of this tree"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "names no heading of that page"
    return ""


def _wrong_citations(line: str) -> list[str]:
    """Tests that a line names and that are not there."""
    problems = []
    for match in CITATION.finditer(line):
        file, test = ROOT / match["file"], match["test"]
        if not test and not (ROOT / match["file"].partition("/")[0]).is_dir():
            # Named from another folder than the root.
            continue
        if not file.is_file():
            problems.append(f"{match['file']} is not there")
        elif test and not re.search(rf"\b(?:fn|def) {test}\b", file.read_text(encoding="utf-8")):
            problems.append(f"{match['file']} has no test {test}")
    return problems


def command_lines(pages: list[tuple[Path, list[Block]]]) -> list[str]:
    """Command lines of `arq` that it does not understand: in blocks, run or not, and in prose."""
    shown: dict[str, str] = {}
    for page, blocks in pages:
        for block in blocks:
            if block.language == SHELL and block.kind is not Kind.TEXT:
                for line in CONTINUED.sub(" ", block.text).splitlines():
                    for match in STARTS.finditer(_no_comment(line)):
                        shown.setdefault(match["command"].strip(), f"{page}:{block.line}")
        for number, line in _without_fences((ROOT / page).read_text(encoding="utf-8")):
            for match in INLINE.finditer(line):
                for command in _alternatives(match["code"]):
                    shown.setdefault(command, f"{page}:{number}")
    program = sandbox.LINKED["target"] / "debug/arq"
    if not program.exists():
        return [f"{program} is missing: cargo build --workspace --bins"]
    return [
        f"{where}: `{command}`: {wrong}"
        for command, where in shown.items()
        if (wrong := _misunderstood(program, command))
    ]


def _no_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line)


def _alternatives(code: str) -> list[str]:
    """`arq a b|c` is two commands; what follows `…` or a pipe with spaces is not looked at."""
    code = re.split(r" \| |…|\.\.\.| > | >> | && ", code)[0].strip()
    code = re.sub(r"\[[^\]]*\]", "", code)
    words = code.split(" ")
    for at, word in enumerate(words):
        if "|" in word and not word.startswith(("'", '"')):
            return [" ".join([*words[:at], other, *words[at + 1 :]]) for other in word.split("|")]
    return [code]


def _misunderstood(program: Path, command: str) -> str:
    """What arq says of a command line; nothing where it knows every word.

    `--help` keeps it from being carried out.
    """
    try:
        words = shlex.split(VARIABLE.sub("1", command))[1:]
    except ValueError:
        # A quote that ends beyond what was cut out: the block itself is run.
        return ""
    # What stands for a value in prose: TENANT, ROOM.
    words = [VALUES.get(word, word.lower()) if word.isupper() else word for word in words]
    if "-h" in words or "--help" in words or "--version" in words or "--" in words:
        return ""
    result = subprocess.run(
        [program, *words, "--help"], capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return ""
    return result.stderr.strip().splitlines()[0]
