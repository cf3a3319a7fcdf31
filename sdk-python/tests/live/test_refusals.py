"""Each way in which a real Shield refuses a token."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable

import pytest
from leaks import none_left
from live_stack import Stack, parts_of

import arqon


def _hours(count: int) -> int:
    return int(time.time()) + 3600 * count


def _of_another_key(stack: Stack) -> str:
    head, body, signature = stack.token().split(".")
    flipped = "A" if signature[10] != "A" else "B"
    return ".".join((head, body, signature[:10] + flipped + signature[11:]))


REFUSED: list[tuple[str, Callable[[Stack], str], type[arqon.AuthError]]] = [
    ("no JWT", lambda stack: "nonsense", arqon.TokenMalformed),
    ("no tenant", lambda stack: stack.signed({"tenant": None}), arqon.TokenMalformed),
    ("no exp", lambda stack: stack.signed({"exp": None}), arqon.TokenMalformed),
    ("expired", lambda stack: stack.token(ttl="-5m"), arqon.TokenExpired),
    (
        "not yet valid",
        lambda stack: stack.signed({"nbf": _hours(1), "exp": _hours(2)}),
        arqon.TokenNotYetValid,
    ),
    (
        "lives too long",
        lambda stack: stack.signed({"exp": _hours(1000)}),
        arqon.TokenLifetimeTooLong,
    ),
    ("wrong key", _of_another_key, arqon.TokenUntrusted),
    ("wrong audience", lambda stack: stack.token(audience="other"), arqon.TokenUntrusted),
    ("wrong issuer", lambda stack: stack.token(issuer="https://x.example"), arqon.TokenUntrusted),
    ("unknown tenant", lambda stack: stack.token(tenant="nobody"), arqon.TokenUntrusted),
]


@pytest.mark.parametrize(
    ("make", "error"),
    [case[1:] for case in REFUSED],
    ids=[case[0].replace(" ", "-") for case in REFUSED],
)
async def test_a_token_is_refused(
    stack: Stack, make: Callable[[Stack], str], error: type[arqon.AuthError]
) -> None:
    token = make(stack)
    async with none_left():
        with pytest.raises(error) as refused:
            await arqon.connect(stack.url, token=token)
    assert refused.value.retry == "new_token"
    assert refused.value.help in str(refused.value)
    assert token not in str(refused.value)


async def test_a_suspended_tenant_is_told(tmp_path: pathlib.Path, stack: Stack) -> None:
    stack.arq("tenant", "create", "paused")
    token = stack.token(tenant="paused")
    events: list[arqon.Event] = []
    async with arqon.connect(stack.url, token=token, on_event=events.append) as bus:
        stack.arq("tenant", "suspend", "paused")
        with pytest.raises(arqon.TenantGone):
            await asyncio.wait_for(bus.wait_closed(), 20)
    with pytest.raises(arqon.TenantSuspended) as refused:
        await arqon.connect(stack.url, token=token)
    assert refused.value.retryable
    stack.arq("tenant", "resume", "paused")
    async with arqon.connect(
        stack.url, token=token, reconnect=arqon.Reconnect(first=True, give_up_after=20)
    ) as bus:
        assert bus.state is arqon.State.CONNECTED


def test_tokens_of_this_file_are_what_they_say(stack: Stack) -> None:
    _, claims = parts_of(stack.signed({"tenant": None, "extra": 1}))
    assert "tenant" not in claims
    assert claims["extra"] == 1
