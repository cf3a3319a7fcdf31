"""Fixtures of the tests that need a real ArqonBus."""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
from live_stack import Stack

# Programs that tests start take this tree's arqon, whatever the environment has installed.
os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).resolve().parents[1] / "src")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=sorted(_loops()),
        default="default",
        help="the event loop that tests run in",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    return {name: _loops()[name]}


def _loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "default": asyncio.new_event_loop,
        "selector": asyncio.SelectorEventLoop,
    }
    if sys.platform == "win32":
        loops["proactor"] = asyncio.ProactorEventLoop
    else:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A real ArqonBus that all tests share: none may kill its parts."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def own_stack(tmp_path: pathlib.Path) -> Iterator[Stack]:
    """A real ArqonBus of the test's own, to kill, freeze and restart."""
    with Stack(tmp_path, {"session": {"heartbeat_secs": 1}, "tokens": {"grace_secs": 1}}) as own:
        yield own
