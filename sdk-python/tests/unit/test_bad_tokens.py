"""Token functions that raise, hang or give nonsense, and tokens that are refused."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn

import leaks
import pytest
from hostile_server import BOUND, serving
from waiting import until

import arqon
import arqon.testing
from arqon import errors
from arqon._backoff import MAX_REFUSALS

TOKEN_TIMEOUT = 0.3


@pytest.fixture(autouse=True)
async def _leaves_nothing() -> AsyncIterator[None]:
    async with leaks.none_left():
        yield


@pytest.fixture
async def gw() -> AsyncIterator[arqon.testing.Gateway]:
    async with arqon.testing.gateway() as gateway:
        yield gateway


async def refused(
    url: str, token: object, kind: type[arqon.ArqonError] = errors.TokenSourceFailed
) -> arqon.ArqonError:
    with pytest.raises(kind) as raised:
        await asyncio.wait_for(
            arqon.connect(
                url,
                token=token,  # type: ignore[arg-type]
                token_timeout=TOKEN_TIMEOUT,
                proxy=None,
            ),
            BOUND,
        )
    assert type(raised.value) is kind
    assert raised.value.help in str(raised.value)
    return raised.value


class Refusal(RuntimeError):
    """What an application raises."""


def _raises(error: BaseException) -> Callable[[], str]:
    def source() -> NoReturn:
        raise error

    return source


def _raises_later(error: BaseException) -> Callable[[], Awaitable[str]]:
    async def source() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    return source


ERRORS: list[BaseException] = [
    Refusal("no token today"),
    TimeoutError("the identity provider is slow"),
    OSError(5, "input/output error"),
    KeyError("token"),
    errors.TokenExpired("of another client"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("make", [_raises, _raises_later], ids=["sync", "async"])
async def test_a_source_that_raises(
    gw: arqon.testing.Gateway,
    error: BaseException,
    make: Callable[[BaseException], object],
) -> None:
    told = await refused(gw.url, make(error))
    assert told.__cause__ is error
    assert type(error).__name__ in str(told)
    assert told.retryable


@pytest.mark.parametrize("make", [_raises, _raises_later], ids=["sync", "async"])
async def test_a_source_that_ends_the_program_ends_no_loop(
    gw: arqon.testing.Gateway, make: Callable[[BaseException], object]
) -> None:
    told = await refused(gw.url, make(SystemExit(3)))
    assert "SystemExit(3)" in str(told)


async def test_a_source_in_a_thread_cannot_interrupt_the_loop(gw: arqon.testing.Gateway) -> None:
    told = await refused(gw.url, _raises(KeyboardInterrupt()))
    assert "KeyboardInterrupt" in str(told)


async def test_a_source_that_stops_an_iteration(gw: arqon.testing.Gateway) -> None:
    told = await refused(gw.url, _raises(StopIteration()))
    assert isinstance(told.__cause__, RuntimeError)


VALUES: list[object] = [
    None,
    "",
    "  ",
    b"a.b.c",
    7,
    ["a.b.c"],
    "a b",
    "a\r\nX-A: b",
    "tök.en.é",
    "\0",
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("kind", ["sync", "async", "text"])
async def test_a_source_that_gives_no_token(
    gw: arqon.testing.Gateway, value: object, kind: str
) -> None:
    async def later() -> object:
        return value

    if kind == "text":
        if not isinstance(value, str):
            with pytest.raises(TypeError):
                arqon.connect(gw.url, token=value)  # type: ignore[arg-type]
            return
        await refused(
            gw.url, value, errors.TokenMalformed if value.strip() else errors.TokenMissing
        )
    else:
        await refused(gw.url, later if kind == "async" else lambda: value)
    assert not gw.sessions


async def test_an_async_source_that_hangs(gw: arqon.testing.Gateway) -> None:
    cancelled = asyncio.Event()

    async def source() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    error = await refused(gw.url, source, errors.TokenSourceTimeout)
    assert isinstance(error, TimeoutError)
    assert cancelled.is_set(), "it is not left running"


async def test_a_sync_source_that_hangs(gw: arqon.testing.Gateway) -> None:
    release = threading.Event()
    try:
        await refused(gw.url, lambda: str(release.wait(BOUND)), errors.TokenSourceTimeout)
        assert any(each.name == "arqon-token" and each.daemon for each in threading.enumerate()), (
            "what cannot be ended does not keep the program from ending"
        )
    finally:
        release.set()


async def test_a_sync_source_that_hangs_is_never_called_twice_at_once(
    gw: arqon.testing.Gateway,
) -> None:
    release = threading.Event()
    calls = running = most = 0

    def source() -> str:
        nonlocal calls, running, most
        calls += 1
        running += 1
        most = max(most, running)
        try:
            if calls > 1:
                release.wait(BOUND)
            return gw.token("ada")
        finally:
            running -= 1

    failures: list[arqon.ArqonError] = []
    async with arqon.connect(
        gw.url,
        token=source,
        token_timeout=0.05,
        reconnect=arqon.Reconnect(base=0.01, cap=0.01),
        proxy=None,
    ) as bus:
        gw.drop_all()
        for _ in range(5):
            with pytest.raises(errors.TokenSourceTimeout) as raised:
                await bus.refresh()
            failures.append(raised.value)
        assert (calls, most) == (2, 1)
        assert "nor did a call before" in str(failures[-1])
        release.set()
        await until(lambda: bus.reconnects == 1)
        assert most == 1


async def test_an_async_source_that_does_not_let_itself_be_cancelled(
    gw: arqon.testing.Gateway,
) -> None:
    release = asyncio.Event()

    async def source() -> str:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return "a.b.c"

    try:
        await refused(gw.url, source, errors.TokenSourceTimeout)
    finally:
        release.set()


async def test_an_async_source_that_hung_is_called_again(gw: arqon.testing.Gateway) -> None:
    calls = 0

    async def source() -> str:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.Event().wait()
        return gw.token("ada")

    async with arqon.connect(
        gw.url,
        token=source,
        token_timeout=0.05,
        reconnect=arqon.Reconnect(base=0.01, cap=0.01),
        proxy=None,
    ) as bus:
        gw.drop_all()
        await until(lambda: bus.reconnects == 1)
        assert calls == 3


async def test_a_token_that_no_server_takes(gw: arqon.testing.Gateway) -> None:
    long = "a" * 15_001
    assert "15001 characters" in str(await refused(gw.url, long, errors.TokenMalformed))
    assert "15001 characters" in str(await refused(gw.url, lambda: long))


async def test_a_source_that_takes_the_loop_hostage_only_in_its_thread(
    gw: arqon.testing.Gateway,
) -> None:
    turns = 0
    token = gw.token("ada")
    release = threading.Event()

    async def turn() -> None:
        nonlocal turns
        while turns < 20:
            turns += 1
            await asyncio.sleep(0)
        release.set()

    def source() -> str:
        release.wait(BOUND)
        return token

    ticking = asyncio.ensure_future(turn())
    async with arqon.connect(gw.url, token=source, proxy=None):
        assert turns == 20
    await ticking


async def test_a_source_that_is_cancelled_from_inside(gw: arqon.testing.Gateway) -> None:
    async def source() -> str:
        inner = asyncio.ensure_future(asyncio.sleep(BOUND))
        inner.cancel()
        await inner
        return "a.b.c"

    # Python 3.10 cannot tell this from a cancellation by the caller.
    with pytest.raises((errors.TokenSourceFailed, asyncio.CancelledError)):
        await asyncio.wait_for(arqon.connect(gw.url, token=source, proxy=None), BOUND)


async def test_a_caller_who_gives_up_ends_the_source(gw: arqon.testing.Gateway) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def source() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    async def enter() -> None:
        async with arqon.connect(gw.url, token=source, proxy=None):
            pass

    task = asyncio.ensure_future(enter())
    await asyncio.wait_for(begun.wait(), BOUND)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(cancelled.wait(), BOUND)


async def test_a_lambda_over_a_coroutine_is_a_source(gw: arqon.testing.Gateway) -> None:
    async def get(user: str) -> str:
        return gw.token(user)

    async with arqon.connect(gw.url, token=lambda: get("ada"), proxy=None) as bus:
        assert bus.session.user == "ada"


async def test_no_request_is_made_before_there_is_a_token() -> None:
    connections = 0

    async def behave(peer: object) -> None:
        nonlocal connections
        connections += 1

    async with serving(behave) as address:
        await refused(f"ws://{address}/", _raises(Refusal()))
    assert connections == 0


# ---- tokens that the gateway does not take


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"ttl": -60.0}, errors.TokenExpired),
        ({"trusted": False}, errors.TokenUntrusted),
        ({"claims": {"aud": "another"}}, errors.TokenUntrusted),
        ({"tenant": "Not A Tenant"}, errors.TokenUntrusted),
        ({"claims": {"nbf": 9_000_000_000}}, errors.TokenNotYetValid),
        ({"ttl": 90_000.0}, errors.TokenLifetimeTooLong),
        ({"claims": {"sub": None}}, errors.TokenMalformed),
        ({"claims": {"role": "king"}}, errors.TokenMalformed),
        ({"claims": {"exp": "soon"}}, errors.TokenMalformed),
    ],
)
async def test_a_token_that_is_refused(
    gw: arqon.testing.Gateway, options: dict[str, object], kind: type[arqon.ArqonError]
) -> None:
    token = gw.token("ada", **options)  # type: ignore[arg-type]
    error = await refused(gw.url, token, kind)
    assert isinstance(error, errors.AuthError)
    assert token not in str(error)
    assert error.retry == "new_token"


async def test_a_new_token_is_asked_for_after_a_refusal_of_the_old_one(
    gw: arqon.testing.Gateway,
) -> None:
    given: list[str] = []

    def source() -> str:
        given.append(gw.token("ada", ttl=-60.0 if len(given) == 1 else 60.0))
        return given[-1]

    fast = arqon.Reconnect(base=0.01, cap=0.05)
    async with arqon.connect(gw.url, token=source, reconnect=fast, proxy=None) as bus:
        gw.drop_all()
        await gw.wait_until(lambda: len(given) == 3 and len(gw.sessions) == 1)
        await bus.wait_for(arqon.State.CONNECTED, BOUND)
        assert isinstance(bus.last_error, errors.TokenExpired)


async def test_a_text_that_has_expired_closes_the_client(gw: arqon.testing.Gateway) -> None:
    fast = arqon.Reconnect(base=0.01, cap=0.05)
    async with arqon.connect(gw.url, token=gw.token("ada"), reconnect=fast, proxy=None) as bus:
        gw.refuse_next(401, "TOKEN_EXPIRED", times=50)
        gw.drop_all()
        with pytest.raises(errors.ArqonError) as raised:
            await asyncio.wait_for(bus.wait_closed(), BOUND)
    assert isinstance(raised.value, (errors.TokenExpired, errors.ReconnectGivenUp))


async def test_a_text_that_was_revoked_is_tried_once_and_no_more(
    gw: arqon.testing.Gateway,
) -> None:
    fast = arqon.Reconnect(base=0.01, cap=0.05)
    async with arqon.connect(gw.url, token=gw.token("ada"), reconnect=fast, proxy=None) as bus:
        gw.refuse_next(401, "TOKEN_REVOKED", times=50)
        gw.drop_all()
        with pytest.raises(errors.TokenRevoked):
            await asyncio.wait_for(bus.wait_closed(), BOUND)
    # A second try would have taken one more of the refusals.
    assert len(gw._hub.faults.refusals) == 49


async def test_a_source_that_gives_revoked_tokens_only_is_given_up(
    gw: arqon.testing.Gateway,
) -> None:
    given: list[str] = []

    def source() -> str:
        given.append(gw.token("ada"))
        return given[-1]

    fast = arqon.Reconnect(base=0.001, cap=0.002)
    async with arqon.connect(gw.url, token=source, reconnect=fast, proxy=None) as bus:
        gw.refuse_next(401, "TOKEN_REVOKED", times=1_000)
        gw.drop_all()
        with pytest.raises(errors.ReconnectGivenUp) as raised:
            await asyncio.wait_for(bus.wait_closed(), BOUND)
    assert isinstance(raised.value.__cause__, errors.TokenRevoked)
    assert len(given) == 1 + MAX_REFUSALS, "each try had a token of its own"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4501, errors.TenantGone), (4503, errors.TokenRevokedClose)],
)
async def test_who_is_told_to_stay_away_stays_away(
    gw: arqon.testing.Gateway, code: int, kind: type[errors.ArqonError]
) -> None:
    given: list[str] = []

    def source() -> str:
        given.append(gw.token("ada"))
        return given[-1]

    fast = arqon.Reconnect(base=0.01, cap=0.05)
    async with arqon.connect(gw.url, token=source, reconnect=fast, proxy=None) as bus:
        gw.close_all(code)
        with pytest.raises(kind):
            await asyncio.wait_for(bus.wait_closed(), BOUND)
    assert len(given) == 1, "no token was fetched for another try"


async def test_who_is_kicked_comes_back(gw: arqon.testing.Gateway) -> None:
    fast = arqon.Reconnect(base=0.01, cap=0.05)
    async with arqon.connect(gw.url, token=gw.token("ada"), reconnect=fast, proxy=None) as bus:
        gw.close_all(4006)
        await gw.wait_until(lambda: bus.reconnects == 1)
        assert isinstance(bus.last_error, errors.Kicked)
        await bus.ping()
