"""Fixtures of the tests that need a real ArqonBus."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from live_stack import Stack

# Programs that tests start take this tree's arqon, whatever the environment has installed.
os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).resolve().parents[1] / "src")


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
