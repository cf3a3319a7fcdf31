"""Waiting for what no event tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Seconds that anything may take; far more than it does.
LONG = 30.0


async def until(ready: Callable[[], bool]) -> None:
    """Looks again and again until it is so."""
    deadline = asyncio.get_running_loop().time() + LONG
    while not ready():
        assert asyncio.get_running_loop().time() < deadline, "it did not come"
        await asyncio.sleep(0.02)
