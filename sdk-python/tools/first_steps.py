"""Runs the first example of the README on the installed package; `scripts/sdk package` calls it.

The README is read from the metadata that was installed: this is what a user of the registry sees.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import pathlib
import sys

import doc_examples

import arqon


async def first_example(url: str, token: str) -> None:
    """Runs it, and shows what it printed."""

    async def get_token() -> str:
        return token

    readme = importlib.metadata.metadata("arqon-sdk").json["description"]
    assert isinstance(readme, str)
    example = doc_examples.of_markdown(readme, "README.md")[0]
    assert doc_examples.ADDRESSES[0] in example.source, example.source
    assert example.promised, "the first example promises nothing"
    printed = await doc_examples.run(example, url, {"get_token": get_token}, timeout=30)
    print(f"{example.name} printed: {printed.strip()}")


def main() -> None:
    """Checks that it is the installed package that is used, and uses it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--installed-below", type=pathlib.Path, required=True)
    given = parser.parse_args()
    at = pathlib.Path(arqon.__file__).resolve()
    if not at.is_relative_to(given.installed_below.resolve()):
        sys.exit(f"first_steps: arqon is {at}, not what was installed")
    assert importlib.metadata.version("arqon-sdk") == arqon.__version__
    asyncio.run(first_example(given.url, given.token))


if __name__ == "__main__":
    main()
