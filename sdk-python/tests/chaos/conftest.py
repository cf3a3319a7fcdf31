"""How long the chaos goes on."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        default="4,1",
        metavar="SHIELD,NATS",
        help="how often Shield and nats-server are killed; the whole test is 20,5 [default: 4,1]",
    )
