"""The examples of the README and of docstrings, and how they are run.

An example is a ```python block of the README, or, in a docstring, the indented block after a line
that ends with two colons. Top-level `await` is allowed. The comment `# prints: TEXT` at the end of
a line promises that TEXT comes on stdout; an example with `await` that goes on after all of them
came is cancelled, every other one must end by itself. Functions `test_…` that it defines are
called.

Used by tests/live/test_readme.py and, on the installed package, by first_steps.py.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import inspect
import io
import pathlib
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping

# The addresses that examples show; the one of the ArqonBus that is there is put in their place.
ADDRESSES = ("wss://bus.example.com/v1/socket", "ws://127.0.0.1:8080/v1/socket")
_PRINTS = re.compile(r"#\s*prints:\s*(.+?)\s*$", re.MULTILINE)
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        name: the file and the line it begins at.
        source: its text.
    """

    name: str
    source: str

    @property
    def promised(self) -> list[str]:
        """What it promises to print."""
        return _PRINTS.findall(self.source)


def of_markdown(text: str, name: str) -> list[Example]:
    """The examples of a Markdown text."""
    return [
        Example(f"{name}:{text.count(chr(10), 0, match.start()) + 2}", match[1])
        for match in _FENCE.finditer(text)
    ]


def of_docstrings(path: pathlib.Path, name: str) -> list[Example]:
    """The examples in the docstrings of a module."""
    examples = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if (doc := ast.get_docstring(node)) is not None:
            at = node.body[0].lineno
            examples += [Example(f"{name}:{at + line}", source) for line, source in _blocks(doc)]
    return examples


def _blocks(doc: str) -> Iterator[tuple[int, str]]:
    lines = doc.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.rstrip().endswith("::"):
            continue
        margin = len(line) - len(line.lstrip())
        begin = at
        while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > margin):
            at += 1
        if block := textwrap.dedent("\n".join(lines[begin:at])).strip("\n"):
            yield begin + 1, block + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Output(io.StringIO):
    """What was printed so far; tells when there is more."""

    def __init__(self, told: Callable[[], object]) -> None:
        super().__init__()
        self._told = told

    def write(self, text: str) -> int:
        written = super().write(text)
        self._told()
        return written


async def run(example: Example, url: str, names: Mapping[str, object], timeout: float) -> str:
    """Runs an example.

    Args:
        example: which.
        url: what stands for each of `ADDRESSES`.
        names: what it finds already.
        timeout: seconds it may take.

    Returns:
        What it printed.

    Raises:
        AssertionError: it did not print what it promises, or did not end.
        Exception: what it raised.
    """
    loop = asyncio.get_running_loop()
    more = asyncio.Event()
    output = _Output(lambda: loop.call_soon_threadsafe(more.set))
    promised = example.promised
    code = _compiled(example, url)
    # A thread cannot be cancelled, so what blocks must end by itself.
    endless = bool(promised) and _is_async(code)

    def missing() -> list[str]:
        return [text for text in promised if text not in output.getvalue()]

    with contextlib.redirect_stdout(output):
        task = asyncio.ensure_future(_execute(code, names))
        deadline = loop.time() + timeout
        try:
            while not task.done() and (not endless or missing()):
                left = deadline - loop.time()
                if left <= 0:
                    raise AssertionError(
                        f"{example.name} did not end in {timeout} s; "
                        f"not printed: {missing()}, but {output.getvalue()!r}"
                    )
                more.clear()
                waiter = asyncio.ensure_future(more.wait())
                try:
                    await asyncio.wait(
                        {task, waiter}, timeout=left, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiter.cancel()
            if task.done():
                await task
        finally:
            # An example that has shown what it promises may go on forever, or just be ending.
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            await task
    if missing():
        raise AssertionError(f"{example.name} did not print {missing()}: {output.getvalue()!r}")
    return output.getvalue()


def _compiled(example: Example, url: str) -> types.CodeType:
    source = example.source
    for address in ADDRESSES:
        source = source.replace(address, url)
    code: types.CodeType = compile(
        source, example.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    return code


async def _execute(code: types.CodeType, names: Mapping[str, object]) -> None:
    space: dict[str, object] = {"__name__": "example", **names}
    body = types.FunctionType(code, space)
    if _is_async(code):
        await body()
    else:
        # It may block, as what uses arqon.sync does.
        await asyncio.to_thread(body)
    for name, value in list(space.items()):
        if name.startswith("test_") and inspect.isfunction(value):
            result = value()
            if inspect.isawaitable(result):
                await result


def _is_async(code: types.CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)
