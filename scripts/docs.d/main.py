"""What `scripts/docs` does: runs, lists and checks."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lint
import sandbox
import session
from blocks import PYTHON, SHELL, BadMarkError, Block, Kind, read

ROOT = sandbox.ROOT
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "docs/**/*.md",
    "brain/README.md",
    "sdk-python/README.md",
    "compose/**/*.md",
    "proto/docs/*.md",
]
# Blocks of Python that are run as they stand by a step of scripts/test, so that they bear no marks.
RUN_ELSEWHERE = {"sdk-python/README.md": "scripts/sdk test"}
CEILING = Path(__file__).with_name("ceiling")
WORKING = (Kind.RUN, Kind.HIDDEN, Kind.FILE)


def pages(wanted: list[str]) -> list[Path]:
    """Paths below the root, of all pages or of those."""
    if wanted:
        return [Path(name).resolve().relative_to(ROOT) for name in wanted]
    found = {path.relative_to(ROOT) for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(found)


def others() -> list[Path]:
    """Pages of this tree that are not followed."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "*.md"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    known = set(pages([]))
    return [Path(name) for name in names if name and Path(name) not in known]


def scripts_test() -> list[str]:
    """The steps of scripts/test: their names, without comments and what is not a step."""
    text = (ROOT / "scripts/test").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("step '")]


def blocks_of(page: Path) -> list[Block]:
    return read(ROOT / page, page, RUN_ELSEWHERE.get(str(page), ""))


def test(wanted: list[str]) -> int:
    """Each page in a process of its own, where it can be in a network of its own."""
    words = sandbox.namespace()
    failed = total = 0
    for page in pages(wanted):
        if not any(block.kind in WORKING for block in blocks_of(page)):
            continue
        start = time.monotonic()
        inside = [sys.executable, __file__, "inside", str(page)]
        status = subprocess.run(
            [*words, *inside],
            check=False,
            env=os.environ | {"DOCS_NAMESPACE": "yes" if words else ""},
        ).returncode
        print(
            f"{page!s:40} {'ok' if status == 0 else 'FAILED':6} {time.monotonic() - start:5.0f} s",
            flush=True,
        )
        failed += status != 0
        total += 1
    print(f"{total - failed} pages followed, {failed} failed")
    return int(failed != 0)


def inside(page: Path) -> int:
    """Follows one page, here."""
    if os.environ.get("DOCS_NAMESPACE"):
        sandbox.raise_loopback()
    else:
        sandbox.demand_ports()
    outcome = session.follow(page, blocks_of(page))
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    for skipped in outcome.skipped:
        print(f"not run: {skipped}", file=sys.stderr)
    return int(bool(outcome.problems))


def listing() -> int:
    """What is run and what is not, and whether more is marked than was agreed."""
    sums: Counter[str] = Counter()
    marked = []
    columns = [*(kind.value for kind in Kind if kind is not Kind.TEXT)]
    print(f"{'page':44}" + "".join(f"{name:>8}" for name in columns))
    for page in pages([]):
        counts = Counter(
            block.kind.value for block in blocks_of(page) if block.kind is not Kind.TEXT
        )
        marked += [block for block in blocks_of(page) if block.kind in (Kind.NO_RUN, Kind.RUN_BY)]
        sums += counts
        if counts:
            print(f"{page!s:44}" + "".join(f"{counts[name] or '':>8}" for name in columns))
    print(f"{'all':44}" + "".join(f"{sums[name]:>8}" for name in columns))
    for block in marked:
        print(f"{block.page}:{block.line}: {block.kind.value}: {block.reason}")
    return int(bool(report(marks())))


def marks() -> list[str]:
    """Marks without sense, marks of steps that are none, and more marks than there may be."""
    problems = [
        f"{page}: a block of commands where no page is followed: add it to PAGES"
        for page in others()
        if any(block.language in (SHELL, PYTHON) for block in blocks_of(page))
    ]
    steps = scripts_test()
    no_run = 0
    for page in pages([]):
        try:
            found = blocks_of(page)
        except BadMarkError as error:
            problems.append(str(error))
            continue
        no_run += sum(
            block.kind is Kind.NO_RUN for block in found if block.language in (SHELL, PYTHON)
        )
        problems += [
            f"{block.page}:{block.line}: scripts/test has no step `{block.reason}`"
            for block in found
            if block.kind is Kind.RUN_BY and not any(block.reason in step for step in steps)
        ]
    agreed = CEILING.relative_to(ROOT)
    ceiling = int(CEILING.read_text(encoding="utf-8"))
    if no_run > ceiling:
        problems.append(
            f"{no_run} blocks are marked no-run, where {agreed} allows {ceiling}: "
            "run them, or raise it on purpose"
        )
    elif no_run < ceiling:
        problems.append(f"only {no_run} blocks are marked no-run: lower {agreed} from {ceiling}")
    return problems


def report(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["test", *wanted]:
                return test(wanted)
            case ["inside", page]:
                return inside(Path(page))
            case ["list"]:
                return listing()
            case ["lint"]:
                return report(
                    [
                        *marks(),
                        *lint.links(pages([])),
                        *lint.command_lines([(page, blocks_of(page)) for page in pages([])]),
                    ]
                )
    except (BadMarkError, sandbox.NoPlaceError) as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    return 2


if __name__ == "__main__":
    # Who reads only the beginning of a list has seen what was wanted.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
