"""Names as the gateway takes them: rooms, patterns of rooms, users and tenants."""

from __future__ import annotations

import re
import unicodedata

_ROOM = re.compile(r"(?!_)[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}", flags=re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", flags=re.ASCII)
_ROOM_BYTES = 200
_ROOM_TOKENS = 4
_USER_BYTES = 128
#: Tenants whose subjects would be taken for the platform's.
_RESERVED = frozenset({"arqon", "sys", "control", "brain"})

#: What hides or reorders text, first and last code point.
_INVISIBLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xE000, 0xF8FF),
    (0xFDD0, 0xFDEF),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFC),
    (0x1D173, 0x1D17A),
    (0xE0000, 0x10FFFF),
)


def is_room(text: str) -> bool:
    """Whether it is a room: 1 to 4 tokens joined by dots, 200 bytes, not beginning with ``_``."""
    return len(text) <= _ROOM_BYTES and _ROOM.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether it is a pattern of rooms: ``*`` stands for a token, a last ``>`` for one or more."""
    if not 1 <= len(text.encode()) <= _ROOM_BYTES or text.startswith("_"):
        return False
    tokens = text.split(".")
    if len(tokens) > _ROOM_TOKENS or ">" in tokens[:-1]:
        return False
    return all(
        token in ("*", ">") or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", token, flags=re.ASCII)
        for token in tokens
    )


def covers(pattern: str, room: str) -> bool:
    """Whether a room is one of a pattern's."""
    wanted, tokens = pattern.split("."), room.split(".")
    for at, part in enumerate(wanted):
        if at >= len(tokens):
            return False
        if part == ">":
            return True
        if part not in ("*", tokens[at]):
            return False
    return len(wanted) == len(tokens)


def is_tenant(text: str) -> bool:
    """Whether a tenant can have this name."""
    return _LABEL.fullmatch(text) is not None and text not in _RESERVED


def is_user(text: str) -> bool:
    """Whether it is a user: 1 to 128 bytes of printable UTF-8, single blanks only inside."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return (
        1 <= size <= _USER_BYTES
        and text == text.strip(" ")
        and all(char == " " or _printable(char) for char in text)
    )


def _printable(char: str) -> bool:
    number = ord(char)
    hidden = any(low <= number <= high for low, high in _INVISIBLE)
    # The last two code points of each plane are no characters.
    noncharacter = number & 0xFFFE == 0xFFFE
    blank = char.isspace() or unicodedata.category(char) == "Cc"
    return not (hidden or noncharacter or blank)
