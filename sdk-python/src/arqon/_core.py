"""The inside of a client: one session at a time, opened again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from . import _trace, _wire
from ._backoff import Backoff
from ._connection import Link
from ._dial import Dial, open_link
from ._dispatch import Dispatch
from ._events import EventHandler, Events
from ._proto import envelope_pb2 as pb
from ._requests import Requests
from ._room import Room
from ._rooms import Rooms
from ._tokens import Tokens
from ._types import (
    Reconnect,
    Session,
    State,
    StateChanged,
    TokenRefreshed,
    TokenRefreshFailed,
)
from .errors import (
    ArqonError,
    ClientClosed,
    ConnectionLost,
    GoingAway,
    NotConnected,
    ReconnectGivenUp,
    RequestTimeout,
    TokenSourceFailed,
)

_log = logging.getLogger("arqon")

#: A session that lived so long, in seconds, starts the waits of reconnecting from the shortest.
_STABLE = 5.0
#: Seconds between two tries to get another token than the one in force.
_REFRESH_AGAIN = 2.0
#: Seconds that acknowledgements are waited for before a connection is changed for another.
_SETTLE = 2.0


OTHER_LOOP = (
    "this client belongs to another event loop than the one that runs here; "
    "from another thread use asyncio.run_coroutine_threadsafe, or arqon.sync"
)


class Core:
    """The state of a client and its tasks. One task supervises the connection; each frame of the
    server is handled where it is read, by `dispatch`, and never waits for the application.
    """

    def __init__(
        self,
        dial: Dial,
        tokens: Tokens,
        *,
        request_timeout: float,
        reconnect: Reconnect | None,
        on_event: EventHandler | None,
    ) -> None:
        self.dial = dial
        self.request_timeout = request_timeout
        self.reconnect = reconnect
        self.loop = asyncio.get_running_loop()
        self.events = Events(on_event)
        self.requests = Requests(request_timeout)
        self.rooms = Rooms(self)
        #: The connection to send on; ``None`` while there is none.
        self.link: Link | None = None
        #: The connection whose frames are taken. One that is about to be changed for another still
        #: gets its answers.
        self.hearing: Link | None = None
        self.session: Session | None = None
        self.state = State.CONNECTING
        self.last_error: ArqonError | None = None
        #: What ended the client, if it was a failure.
        self.fatal: ArqonError | None = None
        self.reconnects = 0
        self._tokens = tokens
        self._token = ""
        self._backoff = Backoff(reconnect or Reconnect(), renewable=tokens.renewable)
        self._dispatch = Dispatch(self)
        # In the order they came: publishes that waited for a connection leave in that order.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        #: Tokens that the server took in place of another; counted where the frame is read, so
        #: that it is known whether another frame came before or after it.
        self.refreshes = 0
        # How many there were when it said that the token expires.
        self._expiring = -1
        self._refreshed_at = -math.inf
        # When GOAWAY wants the reconnect, by the loop's clock, and who waits for that.
        self._move_at: float | None = None
        self._move: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    # -- opening, watching, opening again

    async def start(self) -> None:
        """Opens the first session.

        Raises:
            ArqonError: there is none.
        """
        try:
            if self.reconnect is not None and self.reconnect.first:
                link = await self._open_again(0.0, None)
            else:
                link = await self._open()
            self._attach(link)
        except BaseException as error:
            self.finish(error if isinstance(error, ArqonError) else None)
            await self.events.close(self.dial.close_timeout)
            raise
        self._supervisor = asyncio.ensure_future(self._supervise(link))

    async def _supervise(self, link: Link) -> None:
        _trace.leave()
        try:
            while True:
                opened_at = self.loop.time()
                error = await self._lost(link)
                self._detach(error)
                if self.reconnect is None:
                    raise error or ConnectionLost("the server asked for a reconnect, which is off")
                short = self.loop.time() - opened_at < _STABLE
                if not short:
                    self._backoff.reset()
                wait = 0.0
                if error is not None or short:
                    # A server that wants each session to go on is not to be asked in a loop.
                    wait = self._backoff.after(error or GoingAway(), 0.0)
                if self._move_at is not None:
                    wait = max(wait, self._move_at - self.loop.time())
                    self._move_at = None
                link = await self._open_again(wait, error)
                self.reconnects += 1
                self._attach(link)
        except ArqonError as error:
            self.finish(error)
        except Exception as fault:
            self._broken(fault)

    def _broken(self, fault: BaseException) -> None:
        # Without this the application would wait for ever.
        _log.error("a fault of arqon-sdk", exc_info=fault)
        error = ConnectionLost(f"a fault of arqon-sdk itself: {fault!r}")
        error.__cause__ = fault
        if self.hearing is not None:
            self.hearing.abort()
        self.finish(error)

    async def _lost(self, link: Link) -> ArqonError | None:
        """Waits for the end of the connection: its error, or ``None`` where GOAWAY's time came and
        it was closed here.
        """
        self._move = self.loop.create_future()
        self._move_timer()
        try:
            ends: list[asyncio.Future[Any]] = [link.lost, self._move]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if link.lost.done():
                return link.lost.result() or ConnectionLost()
            self.link = None
            self.change(State.RECONNECTING, None)
            await self.requests.settled(_SETTLE)
            await link.close_within(self.dial.close_timeout)
            return None
        finally:
            self._move = None

    def _move_timer(self) -> None:
        move = self._move
        if move is not None and self._move_at is not None:
            self.loop.call_at(self._move_at, _settle, move)

    def go_away(self, after: float) -> None:
        """The server wants this client to reconnect, so many seconds from now."""
        if self._move_at is None:
            self._move_at = self.loop.time() + after
            self._move_timer()

    async def _open(self) -> Link:
        self._token = await self._tokens.get()
        return await open_link(self.dial, self._token, self._dispatch.frame)

    async def _open_again(self, wait: float, why: ArqonError | None) -> Link:
        lost_at = self.loop.time()
        give_up = None if self.reconnect is None else self.reconnect.give_up_after
        if give_up is not None and wait > give_up:
            # The server asked for a longer wait than the application has patience.
            await asyncio.sleep(give_up)
            raise ReconnectGivenUp(f"no session within {give_up:g} s") from why
        while True:
            await asyncio.sleep(wait)
            try:
                return await self._open()
            except ArqonError as error:
                self.last_error = error
                _log.info("no session: %s", error)
                wait = self._backoff.after(error, self.loop.time() - lost_at)

    def _attach(self, link: Link) -> None:
        self.link = self.hearing = link
        self.session = link.session
        self.rooms.restore(link)
        self.change(State.CONNECTED, None)
        link.start()

    def _detach(self, error: ArqonError | None) -> None:
        self.link = self.hearing = None
        if error is not None:
            self.last_error = error
            _log.info("connection lost: %s", error)
        self.rooms.disconnected()
        if self._refreshing is not None:
            self._refreshing.cancel()
        self.requests.cut_all("the connection ended")
        self.change(State.RECONNECTING, error)

    def finish(self, error: ArqonError | None) -> None:
        """Nothing follows: by an error, or by ``close``."""
        if self.state is State.CLOSED:
            return
        self.fatal = error
        self.link = self.hearing = None
        self._tokens.stop()
        for task in (self._supervisor, self._refreshing, *self._tasks):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self.requests.cut_all("the client closed")
        self.rooms.end(error)
        self.change(State.CLOSED, error)
        self.events.end()

    async def _close_all(self) -> None:
        deadline = self.loop.time() + self.dial.close_timeout
        link = self.hearing
        try:
            if link is not None and not link.lost.done():
                await self.requests.settled(self.dial.close_timeout)
        finally:
            # Also where waiting was cancelled: a client that was told to close is closed.
            if self._supervisor is not None:
                self._supervisor.cancel()
            self.finish(None)
            self.rooms.forget_unread()
            if link is not None:
                await link.close_within(max(0.1, deadline - self.loop.time()))
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.events.close(max(0.1, deadline - self.loop.time()))

    async def close(self) -> None:
        """See ``Client.close``."""
        self.check_loop()
        if self._closing is None:
            self._closing = self.loop.create_future()
            try:
                await self._close_all()
            finally:
                self._closing.set_result(None)
        elif not self.events.calling:
            await asyncio.shield(self._closing)
            # Where the handler closed it, there may be events after that one.
            await self.events.close(self.dial.close_timeout)

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing is not None

    # -- tokens

    async def refresh(self) -> None:
        """See ``Client.refresh``."""
        self.check_open()
        await self._refresh_with(await self._tokens.get())

    def refresh_soon(self) -> None:
        """The token will expire."""
        self._expiring = self.refreshes
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._keep_fresh())

    async def _keep_fresh(self) -> None:
        """Tries until another token is in force; the end of the connection ends it too."""
        _trace.leave()
        if not self._tokens.renewable:
            self.events.emit(
                TokenRefreshFailed(
                    TokenSourceFailed("the token is a text; give a function to renew it")
                )
            )
            return
        while self._expiring == self.refreshes:
            # A server that says so again and again is not to keep the token function busy.
            await asyncio.sleep(self._refreshed_at + _REFRESH_AGAIN - self.loop.time())
            try:
                token = await self._tokens.get()
                if self._expiring != self.refreshes:
                    return  # The application did it meanwhile.
                if token != self._token:
                    await self._refresh_with(token)
                    continue
                error: ArqonError = TokenSourceFailed("the token function gave the same token")
            except ArqonError as failed:
                error = failed
            self.events.emit(TokenRefreshFailed(error))
            await asyncio.sleep(max(_REFRESH_AGAIN, error.retry_after or 0.0))

    async def _refresh_with(self, token: str) -> None:
        link = await self.ready_link("REFRESH")
        ref = link.ref()
        link.send(_wire.refresh(token, ref))
        request = self.requests.add(ref, "REFRESH", (pb.OPCODE_REFRESHED,))
        pages = await request.answer()
        self._token = token
        self._refreshed_at = self.loop.time()
        expires_at = _wire.expiry_of(pages[0].refreshed.expires_at)
        self._dispatch.expires(expires_at)
        self.events.emit(TokenRefreshed(expires_at))

    # -- states

    def change(self, state: State, error: ArqonError | None) -> None:
        """Goes to another state."""
        previous, self.state = self.state, state
        if previous is not state:
            self.events.emit(StateChanged(state, previous, error))
        self.notify()

    def notify(self) -> None:
        """Lets those look who wait in `changed`."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, deadline: float | None) -> bool:
        """Waits for anything to change. False where the time is over."""
        waiter = self.loop.create_future()
        self._waiters[waiter] = None
        timeout = None if deadline is None else max(0.0, deadline - self.loop.time())
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            self._waiters.pop(waiter, None)
        return waiter.done()

    async def until(self, ready: Callable[[], bool], room: Room | None, what: str) -> None:
        """Waits for something, as long as a request may take.

        Args:
            ready: whether it is there.
            room: whose end ends the waiting too.
            what: for the text of errors.
        """
        deadline = self.loop.time() + self.request_timeout
        while not ready():
            self.check_open()
            if room is not None and room._ended:
                raise room._why_ended()
            if not await self.changed(deadline):
                if self.link is None:
                    raise NotConnected(
                        f"{what}: no connection in {self.request_timeout:g} s"
                        + (f"; {self.last_error}" if self.last_error else "")
                    )
                raise RequestTimeout(f"no answer to {what} in {self.request_timeout:g} s")

    async def gone(self, link: Link) -> None:
        """Waits until a connection that takes nothing any more is out of use."""
        await self.until(lambda: self.link is not link, None, "PUBLISH")

    async def ready_link(self, what: str, room: Room | None = None) -> Link:
        """The connection, and the room joined on it. `what` wants it, for the text of errors."""
        self.check_open()
        await self.until(
            lambda: self.link is not None and (room is None or room._joined), room, what
        )
        self.check_open()
        assert self.link is not None  # `_until` said so, in this turn of the loop
        return self.link

    def check_loop(self) -> None:
        """Raises ``RuntimeError`` in another event loop than the client's."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(OTHER_LOOP)

    def check_open(self) -> None:
        """Raises if the client is closed, or used in another event loop."""
        self.check_loop()
        if self.state is State.CLOSED or self._closing is not None:
            raise self.why_closed()

    def why_closed(self) -> ArqonError:
        """The error for who still wants something of a closed client."""
        return ClientClosed() if self.fatal is None else self.fatal._again()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Runs it beside everything else, until the client closes."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._broken(fault)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
