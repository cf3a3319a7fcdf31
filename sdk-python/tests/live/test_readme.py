"""Every example of the documentation is run as it stands, against a real ArqonBus."""

from __future__ import annotations

import asyncio
import pathlib

import doc_examples
import pytest
from doc_examples import Example
from live_stack import Stack

import arqon

SDK = pathlib.Path(__file__).resolve().parents[2]
# Seconds that an example may take; far more than any does.
TIMEOUT = 20.0


def examples() -> list[Example]:
    # The programs of the other pages are run, with the shell around them, by scripts/docs.
    text = (SDK / "README.md").read_text(encoding="utf-8")
    found = doc_examples.of_markdown(text, "sdk-python/README.md")
    for module in sorted((SDK / "src/arqon").rglob("*.py")):
        found += doc_examples.of_docstrings(module, module.relative_to(SDK / "src").as_posix())
    return found


EXAMPLES = examples()


def test_there_are_examples() -> None:
    names = {example.name.split(":")[0] for example in EXAMPLES}
    assert {"sdk-python/README.md", "arqon/__init__.py", "arqon/errors.py"} <= names


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
async def test_an_example_does_what_it_says(example: Example, stack: Stack) -> None:
    token = stack.token(user="ada")

    async def get_token() -> str:
        return token

    # An example may print what another client in its room would.
    async with arqon.connect(stack.url, token=token) as bus:
        room = await bus.join("lobby", presence="full")
        names = {
            "arqon": arqon,
            "asyncio": asyncio,
            "bus": bus,
            "get_token": get_token,
            "room": room,
            "token": token,
        }
        await doc_examples.run(example, stack.url, names, TIMEOUT)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("print(1)  # prints: 2\n", AssertionError, "did not print"),
        ("await asyncio.sleep(1000)  # prints: 2\n", AssertionError, "did not end"),
        ("await asyncio.sleep(1000)\n", AssertionError, "did not end"),
        ("print(1)\n1 / 0  # prints: 1\n", ZeroDivisionError, "division"),
        ("await asyncio.sleep(0)\nprint(1)\n1 / 0  # prints: 1\n", ZeroDivisionError, "division"),
        ("1 / 0\n", ZeroDivisionError, "division"),
        ("async def test_it():\n    1 / 0\n", ZeroDivisionError, "division"),
        ("def test_it():\n    1 / 0\n", ZeroDivisionError, "division"),
    ],
)
async def test_a_broken_promise_is_seen(source: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await doc_examples.run(Example("broken", source), "", {"asyncio": asyncio}, 0.3)
