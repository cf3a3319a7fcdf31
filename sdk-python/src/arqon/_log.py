"""What the WebSocket library may log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter


class NoHeaders(_LoggerAdapter):
    """The library logs the headers of a request at DEBUG, and the token is one of them. A level
    would not do: the application's configuration of logging resets it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - theirs
        """Whether it would be logged."""
        return level >= logging.WARNING and super().isEnabledFor(level)
