"""What a test orders, checked when it does: later there is nobody to tell. Every error names what
would have been right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .._codes import ENTRIES
from ._names import is_room, is_tenant, is_user

#: Most of what the protocol's fields of 32 bits hold.
MOST = 2**32 - 1
#: Seconds that it holds, in milliseconds.
_MOST_SECONDS = MOST / 1000


def seconds(what: str, value: object, *, most: float = _MOST_SECONDS) -> None:
    """Raises where it is no time from 0 to the most that can be told."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, not {value!r}")
    if not 0 <= value <= most:
        until = "or more" if math.isinf(most) else f"to {most:.0f}"
        raise ValueError(f"{what} must be 0 {until}, not {value!r}")


def whole(what: str, value: object, *, least: int = 0, most: int = MOST) -> None:
    """Raises where it is no whole number from the least to the most."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{what} must be {least} to {most}, not {value!r}")


def text(what: str, value: object) -> str:
    """The text, or raises where it is none."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {value!r}")
    return value


def one_of(what: str, value: object, valid: Iterable[str]) -> None:
    """Raises where it is none of these."""
    names = list(valid)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{what} must be one of {', '.join(names)}, not {value!r}")


def error_code(code: object) -> None:
    """Raises where it is not the name of an error that a server tells."""
    one_of("code", code, _names_of("error"))


def close_code(code: object) -> None:
    """Raises where no server could close with it."""
    if isinstance(code, str):
        one_of("code", code, _names_of("close"))
        return
    whole("code", code, most=4999)
    # RFC 6455, and what was registered since; others are never in a frame.
    assert isinstance(code, int)
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or code >= 3000):
        raise ValueError(f"code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999, not {code!r}")


def room(value: object) -> None:
    """Raises where it is no room."""
    if not is_room(text("room", value)):
        raise ValueError(f"{value!r} is no room: 1 to 4 tokens of A-Z a-z 0-9 _ - joined by dots")


def user(value: object) -> None:
    """Raises where nobody can have this name."""
    if not is_user(text("user", value)):
        raise ValueError(f"{value!r} is no user: 1 to 128 bytes of printable text")


def tenant(value: object, known: frozenset[str] | None) -> None:
    """Raises where there is no such tenant."""
    if not is_tenant(text("tenant", value)):
        raise ValueError(
            f"{value!r} is no tenant: 1 to 63 of a-z 0-9 -, and none of the platform's"
        )
    if known is not None and value not in known:
        raise ValueError(
            f"{value!r} is not among the tenants of Settings: {', '.join(sorted(known))}"
        )


def _names_of(kind: str) -> list[str]:
    return [entry.name for entry in ENTRIES if entry.kind == kind]
