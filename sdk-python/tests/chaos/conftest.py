"""How long the chaos goes on."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        default="20,5",
        metavar="SHIELD,NATS",
        help="how often Shield and nats-server are killed; [default: 20,5]",
    )
