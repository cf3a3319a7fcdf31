"""Where tokens come from: a text, or a function of the application, one call at a time."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import cast

from .errors import (
    ClientClosed,
    TokenMalformed,
    TokenMissing,
    TokenSourceFailed,
    TokenSourceTimeout,
)

_Function = Callable[[], str] | Callable[[], Awaitable[str]]
TokenSource = str | _Function

#: Characters of a token at most. Shield reads 16 KiB of a request's head, as servers do.
_MAX_TOKEN = 15_000


class Tokens:
    """Gives tokens. However many ask at once, the application's function runs once."""

    def __init__(self, source: TokenSource, timeout: float) -> None:
        if isinstance(source, str):
            _check_text(source)
        elif not callable(source):
            raise TypeError(f"token is a text, or a function that returns one, not {_what(source)}")
        self._source = source
        self._timeout = timeout
        self._flight: asyncio.Task[str] | None = None
        # The call of the function, which may outlive the patience of whoever asked for it.
        self._running: asyncio.Task[object] | None = None
        self._in_thread = False
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
        for task in (self._flight, self._running):
            if task is not None:
                task.cancel()

    async def _call(self, source: _Function) -> str:
        running = self._running
        left_over = running is not None and not running.done()
        if running is None or not left_over:
            running = self._running = asyncio.ensure_future(self._result_of(source))
            running.add_done_callback(_retrieved)
        # Not `wait_for`, which would wait for a function that does not let itself be cancelled.
        await asyncio.wait({running}, timeout=self._timeout)
        if not running.done():
            if not self._in_thread:
                running.cancel()
            raise TokenSourceTimeout(
                f"the token function did not return in {self._timeout:g} s"
                + (", nor did a call before" if left_over else "")
            )
        if running.cancelled():
            if left_over:
                return await self._call(source)  # It was given up, and ended at last.
            raise TokenSourceFailed("the token function raised CancelledError")
        error = running.exception()
        if error is not None:
            raise TokenSourceFailed(
                f"the token function raised {type(error).__name__}: {error}"
            ) from error
        return _checked(running.result())

    async def _result_of(self, source: _Function) -> object:
        try:
            return await self._call_once(source)
        except SystemExit as exit_:
            # A task that raises it ends the loop, and with it everybody's.
            raise RuntimeError(f"it asked for the end of the program: {exit_!r}") from exit_

    async def _call_once(self, source: _Function) -> object:
        if _is_async(source):
            return await cast(Callable[[], Awaitable[str]], source)()
        # A thread cannot be ended: one that hangs is waited for by the next call too, so that there
        # is never another beside it.
        self._in_thread = True
        try:
            result = await _in_thread(source)
        finally:
            self._in_thread = False
        # A plain function that returns an awaitable, a lambda over a coroutine for instance.
        return await result if inspect.isawaitable(result) else result


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
        except Exception as raised:
            error = raised
        except BaseException as raised:
            # In the loop, SystemExit and its like would end it.
            error = RuntimeError(repr(raised))
            error.__cause__ = raised
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
    if len(token) > _MAX_TOKEN:
        raise TokenSourceFailed(
            f"the token has {len(token)} characters; no server takes more than {_MAX_TOKEN}"
        )
    # Nothing but a JWT's characters may reach the header of the request.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenSourceFailed(
            "the token is empty"
            if not token
            else "the token begins with 'Bearer', which is not part of it"
            if token.lower().startswith("bearer ")
            else "the token holds characters that no JWT has"
        )
    return token


def _check_text(token: str) -> None:
    """Raises for a text that no server takes: there is no other to wait for."""
    try:
        _checked(token)
    except TokenSourceFailed as error:
        if not token.strip():
            raise TokenMissing("token= is empty") from None
        raise TokenMalformed(error.message) from None


def _what(source: object) -> str:
    if source is None:
        return "None; is the variable set that it should come from?"
    if inspect.iscoroutine(source):
        source.close()
        return "a coroutine; give the function itself, without calling it"
    return type(source).__name__


def _retrieved(task: asyncio.Task[str] | asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()
