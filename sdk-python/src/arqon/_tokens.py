"""Where tokens come from: a text, or a function of the application, one call at a time."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import cast

from .errors import ArqonError, ClientClosed, TokenSourceFailed, TokenSourceTimeout

TokenSource = str | Callable[[], str] | Callable[[], Awaitable[str]]


class Tokens:
    """Gives tokens. However many ask at once, the application's function runs once."""

    def __init__(self, source: TokenSource, timeout: float) -> None:
        if not isinstance(source, str) and not callable(source):
            raise TypeError("token must be a text, or a function that returns one")
        self._source = source
        self._timeout = timeout
        self._flight: asyncio.Task[str] | None = None
        self._stopped = False

    @property
    def renewable(self) -> bool:
        """Whether another token may come when asked again."""
        return not isinstance(self._source, str)

    async def get(self) -> str:
        """A token.

        Raises:
            TokenSourceFailed: the function raised (``__cause__`` has it), or gave no token.
            TokenSourceTimeout: it did not return in time.
        """
        if isinstance(self._source, str):
            return _checked(self._source)
        if self._flight is None or self._flight.done():
            self._flight = asyncio.ensure_future(self._call(self._source))
            # Whoever asked may be gone when it fails.
            self._flight.add_done_callback(_retrieved)
        flight = self._flight
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            if self._stopped and flight.cancelled():
                raise ClientClosed("the client closed while a token was fetched") from None
            raise

    def stop(self) -> None:
        """Ends a call that is under way."""
        self._stopped = True
        if self._flight is not None:
            self._flight.cancel()

    async def _call(self, source: Callable[[], str] | Callable[[], Awaitable[str]]) -> str:
        try:
            token = await asyncio.wait_for(_result_of(source), self._timeout)
        except asyncio.CancelledError:
            raise
        except _SourceRaised as raised:
            raise TokenSourceFailed(
                f"the token function raised {type(raised.cause).__name__}: {raised.cause}"
            ) from raised.cause
        except asyncio.TimeoutError:
            raise TokenSourceTimeout(
                f"the token function did not return in {self._timeout:g} s"
            ) from None
        return _checked(token)


class _SourceRaised(Exception):
    """Keeps a ``TimeoutError`` of the application's apart from our own."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


async def _result_of(source: Callable[[], str] | Callable[[], Awaitable[str]]) -> object:
    try:
        if _is_async(source):
            return await cast(Callable[[], Awaitable[str]], source)()
        result: object = await _in_thread(source)
        # A plain function that returns an awaitable, a lambda over a coroutine for instance.
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if _cancelled_from_outside(task):
            raise
        raise _SourceRaised(error) from error
    except ArqonError as error:
        raise _SourceRaised(error) from error
    except Exception as error:
        raise _SourceRaised(error) from error


def _cancelled_from_outside(task: asyncio.Task[object] | None) -> bool:
    # Python 3.11 tells; before it, a cancellation is always taken for ours.
    cancelling = getattr(task, "cancelling", None)
    return cancelling is None or cancelling() > 0


def _is_async(source: object) -> bool:
    return inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(
        getattr(source, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


async def _in_thread(source: Callable[[], object]) -> object:
    """Runs it in a thread of its own. A daemon, unlike those of the loop's executor: a function
    that hangs must not keep the program from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: object, error: BaseException | None) -> None:
        if done.done():
            if inspect.iscoroutine(result):
                result.close()
        elif error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        result: object = None
        error: BaseException | None = None
        try:
            result = context.run(source)
        except StopIteration as stop:
            # A future takes no StopIteration.
            error = RuntimeError("the token function raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:  # it belongs to whoever waits
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits.
            if inspect.iscoroutine(result):
                result.close()

    threading.Thread(target=run, name="arqon-token", daemon=True).start()
    return await done


def _checked(token: object) -> str:
    if not isinstance(token, str):
        raise TokenSourceFailed(f"the token is no text but {type(token).__name__}")
    token = token.strip()
    # Nothing but a JWT's characters may reach the header of the request.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenSourceFailed(
            "the token is empty" if not token else "the token holds characters that no JWT has"
        )
    return token


def _retrieved(task: asyncio.Task[str]) -> None:
    if not task.cancelled():
        task.exception()
