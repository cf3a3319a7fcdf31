"""What a test gateway is set to."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass

from . import _checks

#: Settings that make no sense at 0.
_AT_LEAST_ONE = frozenset({"page_members", "queue_bytes", "queue_messages", "sessions_listed"})
#: What WELCOME tells.
_TOLD = frozenset(
    {
        "heartbeat",
        "max_frame_bytes",
        "max_header_bytes",
        "max_headers",
        "max_payload_bytes",
        "max_rooms",
    }
)


@dataclass(frozen=True)
class Settings:
    """Limits and times of a test gateway. Most defaults are those of the real one. What can be none
    raises ``TypeError`` or ``ValueError``.

    Attributes:
        heartbeat: seconds between its pings; a client silent for two of them is closed with 4003.
            Whole seconds, as WELCOME tells them.
        max_frame_bytes: largest WebSocket message; a larger one closes with 1009.
        max_payload_bytes: largest payload of a publish.
        max_rooms: rooms of one session.
        max_headers: headers of one message.
        max_header_bytes: bytes of their names and values.
        max_meta_bytes: bytes of keys and values of a session's meta.
        max_offences: breaches of the protocol in a minute that are answered; one more closes
            with 4502.
        max_sessions: sessions at once; one more is refused with ``SESSION_LIMIT``.
        max_unconfirmed: acknowledgements of one session that :meth:`Gateway.delay_acks` keeps
            back; for one more, the oldest is sent.
        queue_messages: frames that wait for one client; one more closes with 4002.
        queue_bytes: bytes of them.
        kept_messages: messages that :attr:`Gateway.messages` keeps; for one more, the oldest goes.
        presence_tick: seconds within which changes of presence are told together.
        leave_delay: seconds from a user's last session to their leave. The real gateway waits 1.
        full_limit: users up to which members are told; above, only the count is.
        page_members: members on one page.
        sessions_listed: sessions of one user that are listed.
        leeway: seconds by which the clocks of issuer and gateway may differ.
        grace: seconds from a token's expiry to the close with 4005.
        max_ttl: longest life of a token, seconds.
        audience: the ``aud`` that a token must hold.
        tenants: the tenants there are; ``None``: any.
    """

    heartbeat: float = 25.0
    max_frame_bytes: int = 65_536
    max_payload_bytes: int = 61_440
    max_rooms: int = 100
    max_headers: int = 32
    max_header_bytes: int = 4096
    max_meta_bytes: int = 1024
    max_offences: int = 20
    max_sessions: int = 10_000
    max_unconfirmed: int = 1024
    queue_messages: int = 4096
    queue_bytes: int = 1_048_576
    kept_messages: int = 10_000
    presence_tick: float = 0.02
    leave_delay: float = 0.05
    full_limit: int = 500
    page_members: int = 100
    sessions_listed: int = 16
    leeway: float = 5.0
    grace: float = 5.0
    max_ttl: float = 86_400.0
    audience: str = "arqon"
    tenants: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(field.default, int):
                most = _checks.MOST if name in _TOLD else sys.maxsize
                _checks.whole(name, value, least=int(name in _AT_LEAST_ONE), most=most)
            elif isinstance(field.default, float):
                _checks.seconds(name, value, most=_checks.MOST if name in _TOLD else math.inf)
        if not self.heartbeat:
            raise ValueError("heartbeat must be above 0")
        _checks.text("audience", self.audience)
        if isinstance(self.tenants, str):
            raise TypeError(f"tenants must be a set of texts, not {self.tenants!r}")
        for tenant in self.tenants or ():
            _checks.tenant(tenant, None)
