"""Tokens: made without a signature, and judged by their claims."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ._names import covers, is_pattern, is_tenant, is_user
from ._settings import Settings

ROLES: Final = ("user", "observer", "service", "admin")

_TOKEN_BYTES = 16 * 1024
_PATTERNS = 128
_JTI_BYTES = 128
_BASE64 = re.compile(r"[A-Za-z0-9_-]*", flags=re.ASCII)
#: The one thing that stands in for a signature that does not hold.
_UNTRUSTED = "dW50cnVzdGVk"
_REQUIRED = ("iss", "aud", "sub", "tenant", "iat", "exp")


class Refused(Exception):
    """A token that is not taken; ``code`` is the name of a code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Identity:
    """Who a session speaks for. Times in seconds since the Unix epoch."""

    user: str
    tenant: str
    role: str
    join: tuple[str, ...] | None
    publish: tuple[str, ...] | None
    issued_at: int
    expires_at: int

    def may_join(self, room: str) -> bool:
        """Whether the token covers joining the room."""
        return self.join is None or any(covers(pattern, room) for pattern in self.join)

    def may_publish(self, room: str) -> bool:
        """Whether role and token allow publishing to the room."""
        if self.role == "observer":
            return False
        return self.publish is None or any(covers(pattern, room) for pattern in self.publish)


def make(claims: Mapping[str, object], *, algorithm: str = "RS256", trusted: bool = True) -> str:
    """A text in the shape of a JWT. A claim that is ``None`` is left out."""
    header = {"alg": algorithm, "typ": "JWT", "kid": "test"}
    told = {name: value for name, value in claims.items() if value is not None}
    signature = "dGVzdA" if trusted else _UNTRUSTED
    return f"{_encode(header)}.{_encode(told)}.{signature}"


def judge(token: str, settings: Settings, now: float) -> Identity:
    """Who a token is for.

    Raises:
        Refused: as the real gateway would, but for what a signature tells.
    """
    if len(token.encode(errors="replace")) > _TOKEN_BYTES:
        raise Refused("TOKEN_MALFORMED")
    parts = token.split(".")
    if len(parts) != 3:
        raise Refused("TOKEN_MALFORMED")
    header = _object(parts[0])
    if not isinstance(header.get("alg"), str) or not _optional_text(header, "kid", null=True):
        raise Refused("TOKEN_MALFORMED")
    if header["alg"] != "RS256":
        raise Refused("TOKEN_UNTRUSTED")
    if header.get("crit") is not None:
        raise Refused("TOKEN_MALFORMED")
    claims = _object(parts[1])
    identity = _identity(claims)
    not_before = _time(claims, "nbf") if "nbf" in claims else 0
    unknown = settings.tenants is not None and identity.tenant not in settings.tenants
    if unknown or not is_tenant(identity.tenant) or parts[2] == _UNTRUSTED:
        raise Refused("TOKEN_UNTRUSTED")
    audience = claims["aud"]
    if settings.audience not in ([audience] if isinstance(audience, str) else _texts(audience)):
        raise Refused("TOKEN_UNTRUSTED")
    if identity.expires_at < identity.issued_at:
        raise Refused("TOKEN_MALFORMED")
    if int(now) >= identity.expires_at + settings.leeway:
        raise Refused("TOKEN_EXPIRED")
    if max(identity.issued_at, not_before) > int(now) + settings.leeway:
        raise Refused("TOKEN_NOT_YET_VALID")
    if identity.expires_at - identity.issued_at > settings.max_ttl:
        raise Refused("TOKEN_LIFETIME_TOO_LONG")
    return identity


def _identity(claims: Mapping[str, object]) -> Identity:
    if any(name not in claims for name in _REQUIRED):
        raise Refused("TOKEN_MALFORMED")
    user, tenant, role = claims["sub"], claims["tenant"], claims.get("role", "user")
    if not isinstance(claims["iss"], str) or not isinstance(tenant, str):
        raise Refused("TOKEN_MALFORMED")
    if not isinstance(claims["aud"], str):
        _texts(claims["aud"])
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if "nbf" in claims:
        _time(claims, "nbf")
    if not isinstance(user, str) or not is_user(user) or role not in ROLES:
        raise Refused("TOKEN_MALFORMED")
    if not _optional_text(claims, "jti") or len(str(claims.get("jti", "")).encode()) > _JTI_BYTES:
        raise Refused("TOKEN_MALFORMED")
    join = publish = None
    if "rooms" in claims:
        rooms = claims["rooms"]
        if not isinstance(rooms, dict) or set(rooms) - {"join", "publish"}:
            raise Refused("TOKEN_MALFORMED")
        join = _patterns(rooms.get("join", []))
        publish = _patterns(rooms.get("publish", []))
    return Identity(user, tenant, str(role), join, publish, issued_at, expires_at)


def _patterns(value: object) -> tuple[str, ...]:
    patterns = _texts(value)
    if len(patterns) > _PATTERNS or not all(map(is_pattern, patterns)):
        raise Refused("TOKEN_MALFORMED")
    return tuple(patterns)


def _texts(value: object) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused("TOKEN_MALFORMED")
    return value


def _time(claims: Mapping[str, object], name: str) -> int:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("TOKEN_MALFORMED")
    # Above 2^53 a number with a fraction is no longer exact.
    last = 2**64 if isinstance(value, int) else 2**53
    if not 0 <= value < last:
        raise Refused("TOKEN_MALFORMED")
    return int(value)


def _optional_text(claims: Mapping[str, object], name: str, *, null: bool = False) -> bool:
    if name not in claims or (null and claims[name] is None):
        return True
    return isinstance(claims[name], str)


def _object(part: str) -> dict[str, object]:
    try:
        if not _BASE64.fullmatch(part):
            raise ValueError(part)
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        # Half of a surrogate pair is no text.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused("TOKEN_MALFORMED") from None
    if not isinstance(value, dict):
        raise Refused("TOKEN_MALFORMED")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member stands there twice")
    return value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _encode(value: object) -> str:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
