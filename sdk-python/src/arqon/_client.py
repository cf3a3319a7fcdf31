"""The client: one session at a time, opened again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _wire
from ._backoff import Backoff
from ._connection import Dial, Link, open_link
from ._dispatch import FIRE_AND_FORGET, Dispatch
from ._events import EventHandler, Events
from ._proto import envelope_pb2 as pb
from ._requests import Requests
from ._room import Payload, Room
from ._tokens import Tokens
from ._types import (
    Event,
    Member,
    Overflow,
    PresenceMode,
    Receipt,
    Reconnect,
    RoomLeft,
    Session,
    State,
    StateChanged,
    TokenRefreshed,
    TokenRefreshFailed,
)
from .errors import (
    AckUnknown,
    AlreadyJoined,
    ArqonError,
    ClientClosed,
    ConnectionLost,
    NotConnected,
    PublishUncertain,
    RequestTimeout,
    TokenSourceFailed,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("arqon")

#: A session that lived so long, in seconds, starts the waits of reconnecting from the shortest.
_STABLE = 5.0
#: Seconds between two tries to get another token than the one in force.
_REFRESH_AGAIN = 2.0
#: Seconds that acknowledgements are waited for before a connection is changed for another.
_SETTLE = 2.0


class Client:
    """A client of ArqonBus, made by :func:`arqon.connect`; belongs to the loop it was made in.

    It holds one session and opens another when that is lost: rooms are joined again, presence is
    restored, and a :class:`Gap` stands in each room where messages may have been missed.
    """

    def __init__(
        self,
        dial: Dial,
        tokens: Tokens,
        *,
        request_timeout: float,
        reconnect: Reconnect | None,
        queue_messages: int,
        queue_bytes: int,
        overflow: Overflow,
        on_event: EventHandler | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._tokens = tokens
        self._request_timeout = request_timeout
        self._reconnect = reconnect
        self._backoff = Backoff(reconnect or Reconnect(), renewable=tokens.renewable)
        self._queue = (queue_messages, queue_bytes, overflow)
        self._events = Events(on_event)
        self._requests = Requests(request_timeout)
        self._rooms: dict[str, Room] = {}
        self._dispatch = Dispatch(self)
        self._link: Link | None = None
        self._token = ""
        self._session: Session | None = None
        self._state = State.CONNECTING
        self._last_error: ArqonError | None = None
        self._fatal: ArqonError | None = None
        self._reconnects = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        # When GOAWAY wants the reconnect, by the loop's clock, and who waits for that.
        self._move_at: float | None = None
        self._move: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    # -- what an application sees

    @property
    def url(self) -> str:
        """The address it connects to."""
        return self._dial.url

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def session(self) -> Session | None:
        """The session that is open, or was open last."""
        return self._session

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms it is in, by name. A live, read-only view."""
        return MappingProxyType(self._rooms)

    @property
    def last_error(self) -> ArqonError | None:
        """Why the last connection was lost or could not be opened."""
        return self._last_error

    @property
    def reconnects(self) -> int:
        """How often a session was opened after the first one."""
        return self._reconnects

    async def join(
        self,
        room: str,
        *,
        echo: bool = True,
        presence: PresenceMode | None = None,
        meta: Mapping[str, str] | None = None,
        queue_messages: int | None = None,
        queue_bytes: int | None = None,
        overflow: Overflow | None = None,
    ) -> Room:
        """Joins a room; when it returns, the room's messages flow.

        Args:
            room: 1 to 4 tokens of ``A-Z a-z 0-9 _ -`` joined by dots, 200 bytes at most.
            echo: whether this client hears its own messages.
            presence: ``none``: neither seen nor told; ``count``: seen, told how many are there;
                ``full``: seen, told who; ``watch``: not seen, told who. Absent: ``full`` if there
                is a `meta`, else ``none``.
            meta: what others see of this session.
            queue_messages: as in :func:`arqon.connect`, for this room.
            queue_bytes: likewise.
            overflow: likewise.

        Raises:
            RoomNameInvalid: the name is none; nothing was sent.
            AlreadyJoined: this client is in the room.
            JoinForbidden: the token does not cover the room.
            RoomLimit: too many rooms.
            NotConnected, RequestTimeout: no connection, or no answer, in ``request_timeout``.
        """
        _wire.check_room(room)
        mode: PresenceMode = presence or ("full" if meta else "none")
        if mode not in _wire.MODES:
            raise ValueError("presence is 'none', 'count', 'full' or 'watch'")
        if room in self._rooms:
            raise AlreadyJoined(f"this client is in {room} already")
        joining = Room(
            self,
            room,
            echo=echo,
            mode=mode,
            meta=meta or {},
            queue_messages=self._queue[0] if queue_messages is None else queue_messages,
            queue_bytes=self._queue[1] if queue_bytes is None else queue_bytes,
            overflow=self._queue[2] if overflow is None else overflow,
        )
        self._check_open()
        self._rooms[room] = joining
        if self._link is not None:
            self._spawn(self._join_room(joining, self._link))
        try:
            await self._until(lambda: joining._joined, joining, f"JOIN of {room}")
        except BaseException as error:
            self._drop(joining, error if isinstance(error, ArqonError) else None)
            raise
        return joining

    @overload
    async def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    async def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    async def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """Publishes to a room by its name, also to one that this client is not in, which takes a
        token with role ``service``. Otherwise like :meth:`Room.publish`.
        """
        _wire.check_room(room)
        return await self._publish(room, self._rooms.get(room), payload, ack, headers, twist_id)

    async def refresh(self) -> None:
        """Gets a token and swaps it in on the live session. Happens by itself before the token
        expires; call it to bring changed rights into force.

        Raises:
            TokenSourceFailed, TokenSourceTimeout: there is no new token.
            TokenMismatch: it is of another tenant or user.
            ArqonError: the server refused it.
        """
        token = await self._tokens.get()
        await self._refresh_with(token)

    async def ping(self) -> float:
        """The time to the server and back, in seconds.

        Raises:
            NotConnected, ConnectionLost, RequestTimeout: there was none.
        """
        link = await self._ready_link()
        ref = link.ref()
        request = self._requests.add(ref, "PING", ConnectionLost)
        started = self._loop.time()
        link.send(_wire.ping(ref))
        await request.answer()
        return self._loop.time() - started

    async def wait_for(self, state: State, timeout: float | None = None) -> None:
        """Waits until the client is in a state.

        Args:
            state: the state. One that passes quickly may be missed; use ``on_event`` for those.
            timeout: seconds; ``None``: as long as it takes.

        Raises:
            TimeoutError: it was not, in time.
            ArqonError: the client closed, by this error; :class:`ClientClosed` if by `close`.
        """
        deadline = None if timeout is None else self._loop.time() + timeout
        while self._state is not state:
            if self._state is State.CLOSED:
                raise self._fatal or ClientClosed()
            if not await self._changed(deadline):
                raise TimeoutError(f"the client is {self._state.value}, not {state.value}")

    async def wait_closed(self) -> None:
        """Waits until the client has closed.

        Raises:
            ArqonError: what closed it, if it was not `close`.
        """
        await self.wait_for(State.CLOSED)
        if self._fatal is not None:
            raise self._fatal

    async def close(self) -> None:
        """Sends what is queued, waits for acknowledgements that are under way (``close_timeout``
        seconds at most), and closes. When it returns nothing arrives any more: what was not read
        is gone, iterations end, no event comes. Twice is harmless.
        """
        if self._closing is None:
            self._closing = self._loop.create_future()
            try:
                await self._close()
            finally:
                self._closing.set_result(None)
        else:
            await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<arqon.Client of {self._dial.url}, {self._state.value}>"

    # -- opening, watching, opening again

    async def _start(self) -> Self:
        try:
            if self._reconnect is not None and self._reconnect.first:
                link = await self._open_again(0.0)
            else:
                link = await self._open()
            self._attach(link)
        except BaseException as error:
            self._finish(error if isinstance(error, ArqonError) else None)
            self._tokens.stop()
            await self._events.close(self._dial.close_timeout)
            raise
        self._supervisor = asyncio.ensure_future(self._supervise(link))
        return self

    async def _supervise(self, link: Link) -> None:
        try:
            while True:
                opened_at = self._loop.time()
                error = await self._lost(link)
                self._detach(error)
                if self._reconnect is None:
                    raise error or ConnectionLost("the server asked for a reconnect, which is off")
                if self._loop.time() - opened_at >= _STABLE:
                    self._backoff.reset()
                wait = 0.0 if error is None else self._backoff.after(error, 0.0)
                if self._move_at is not None:
                    wait = max(wait, self._move_at - self._loop.time())
                    self._move_at = None
                link = await self._open_again(wait)
                self._reconnects += 1
                self._attach(link)
        except ArqonError as error:
            self._finish(error)

    async def _lost(self, link: Link) -> ArqonError | None:
        """Waits for the end of the connection: its error, or ``None`` where GOAWAY's time came and
        it was closed here.
        """
        self._move = self._loop.create_future()
        self._move_timer()
        try:
            ends: list[asyncio.Future[Any]] = [link.lost, self._move]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if link.lost.done():
                return link.lost.result() or ConnectionLost()
            self._change(State.RECONNECTING, None)
            await self._requests.settled(_SETTLE)
            await link.close()
            return None
        finally:
            self._move = None

    def _move_timer(self) -> None:
        move = self._move
        if move is not None and self._move_at is not None:
            self._loop.call_at(self._move_at, _settle, move)

    def _go_away(self, after: float) -> None:
        if self._move_at is None:
            self._move_at = self._loop.time() + after
            self._move_timer()

    async def _open(self) -> Link:
        self._token = await self._tokens.get()
        return await open_link(self._dial, self._token, self._dispatch.frame)

    async def _open_again(self, wait: float) -> Link:
        lost_at = self._loop.time()
        while True:
            await asyncio.sleep(wait)
            try:
                return await self._open()
            except ArqonError as error:
                self._last_error = error
                _log.info("no session: %s", error)
                wait = self._backoff.after(error, self._loop.time() - lost_at)

    def _attach(self, link: Link) -> None:
        self._link = link
        self._session = link.session
        for room in list(self._rooms.values()):
            self._spawn(self._join_room(room, link))
        self._change(State.CONNECTED, None)
        link.start()

    def _detach(self, error: ArqonError | None) -> None:
        self._link = None
        if error is not None:
            self._last_error = error
            _log.info("connection lost: %s", error)
        for room in self._rooms.values():
            room._disconnected()
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._requests.cut_all("the connection ended")
        self._change(State.RECONNECTING, error)

    def _finish(self, error: ArqonError | None) -> None:
        """Nothing follows: by an error, or by ``close``."""
        if self._state is State.CLOSED:
            return
        self._fatal = error
        self._link = None
        self._tokens.stop()
        for task in (self._refreshing, *self._tasks):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._requests.cut_all("the client closed")
        for room in list(self._rooms.values()):
            room._end(error, clear=error is None)
        self._rooms.clear()
        self._change(State.CLOSED, error)

    async def _close(self) -> None:
        deadline = self._loop.time() + self._dial.close_timeout
        link = self._link
        if link is not None and not link.lost.done():
            await self._requests.settled(self._dial.close_timeout)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        self._finish(None)
        # What the application did not read is not to arrive later.
        if link is not None:
            try:
                await asyncio.wait_for(link.close(), max(0.1, deadline - self._loop.time()))
            except (asyncio.TimeoutError, OSError):
                link.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._events.close(max(0.1, deadline - self._loop.time()))

    # -- rooms

    async def _join_room(self, room: Room, link: Link) -> None:
        """Sends JOIN until it is answered. A room that was joined before is joined again, however
        long that takes; the first answer to a new one is told to whoever joins.
        """
        backoff = Backoff(self._reconnect or Reconnect(), renewable=True)
        while self._link is link and self._rooms.get(room.name) is room:
            ref = link.ref()
            request = self._requests.add(ref, f"JOIN of {room.name}", ConnectionLost)
            try:
                link.send(room._join_frame(ref))
                await request.answer()
                return
            except ConnectionLost:
                return
            except AlreadyJoined:
                # An earlier JOIN was answered after its time.
                if not room._joined:
                    room._on_joined()
                    self._notify()
                return
            except ArqonError as error:
                if not (room._was_joined and error.retryable):
                    self._end_room(room, error)
                    return
                wait = backoff.after(error, 0.0)
            await asyncio.sleep(wait)

    def _end_room(self, room: Room, error: ArqonError) -> None:
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
            room._end(error, clear=False)
            if room._was_joined:
                self._emit(RoomLeft(room.name, error))
            self._notify()

    def _drop(self, room: Room, error: ArqonError | None) -> None:
        """Whoever joined it does not want it any more."""
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
        room._end(error, clear=True)
        link = self._link
        if link is not None:
            with contextlib.suppress(ConnectionLost):
                link.send(_wire.leave(room.name, 0))

    async def _leave(self, room: Room) -> None:
        if self._rooms.get(room.name) is not room:
            return
        del self._rooms[room.name]
        room._end(None, clear=True)
        link = self._link
        if link is None:
            return
        ref = link.ref()
        request = self._requests.add(ref, f"LEAVE of {room.name}", ConnectionLost)
        try:
            link.send(_wire.leave(room.name, ref))
            await request.answer()
        except ConnectionLost:
            pass  # The membership ended with the connection.

    async def _presence_get(self, room: str, *, count_only: bool) -> tuple[list[Member], int]:
        link = await self._ready_link()
        ref = link.ref()
        request = self._requests.add(ref, f"PRESENCE_GET of {room}", ConnectionLost)
        link.send(_wire.presence_get(room, ref, count_only=count_only))
        pages = await request.answer()
        members: dict[str, Member] = {}
        count = 0
        for page in pages:
            if page.op == pb.OPCODE_PRESENCE_COUNT:
                count = page.presence_count.count
            else:
                count = page.presence_state.count
                for told in page.presence_state.members:
                    members[told.user] = _wire.member_of(told)
        return list(members.values()), count

    async def _presence_set(self, room: Room, meta: Mapping[str, str]) -> None:
        link = await self._ready_link(room)
        ref, barrier = link.ref(), link.ref()
        refusal = self._requests.add(ref, f"PRESENCE_SET of {room.name}", ConnectionLost)
        request = self._requests.add(barrier, f"PRESENCE_SET of {room.name}", ConnectionLost)
        link.send(_wire.presence_set(room.name, ref, meta))
        # PRESENCE_SET is answered only if refused. Shield answers a session in order, so the PONG
        # says that there was no refusal.
        link.send(_wire.ping(barrier))
        try:
            await request.answer()
            if refusal.done.done():
                await refusal.answer()
        finally:
            self._requests.forget(ref)

    # -- publishing

    async def _publish(
        self,
        name: str,
        room: Room | None,
        payload: Payload,
        ack: bool,
        headers: Mapping[str, str] | None,
        twist_id: str | None,
    ) -> Receipt | None:
        data = payload if type(payload) is bytes else _as_bytes(payload)
        while True:
            link = self._link
            if link is None or self._closing is not None or not (room is None or room._joined):
                link = await self._ready_link(room)
            limits = link.session.limits
            _wire.check_payload(data, limits)
            if headers:
                _wire.check_headers(headers, limits)
            try:
                if link.congested:
                    await link.drain(self._request_timeout)
                if not ack:
                    link.send(
                        _wire.publish(
                            name,
                            data,
                            FIRE_AND_FORGET,
                            ack=False,
                            headers=headers,
                            twist_id=twist_id,
                        )
                    )
                    if link.should_yield:
                        await asyncio.sleep(0)
                    return None
                twist = twist_id or _wire.uuid7()
                ref = link.ref()
                frame = _wire.publish(name, data, ref, ack=True, headers=headers, twist_id=twist)
                link.send(frame)
            except ConnectionLost:
                # Nothing was sent: wait for the next connection. Its end is told in a moment.
                await asyncio.sleep(0)
                if self._link is link and not link.lost.done():
                    await asyncio.wait([link.lost], timeout=self._request_timeout)
                continue
            return await self._acknowledged(ref, name, twist)

    async def _acknowledged(self, ref: int, room: str, twist: str) -> Receipt:
        def uncertain(why: str) -> ArqonError:
            error = PublishUncertain(f"{why} before the acknowledgement of {twist} in {room} came")
            error.twist_id = twist
            return error

        request = self._requests.add(ref, f"PUBLISH to {room}", uncertain)
        try:
            pages = await request.answer()
        except AckUnknown as unknown:
            error = uncertain("the platform itself got no answer in time")
            raise error from unknown
        return Receipt(pages[0].ack.twist_id)

    # -- tokens

    def _refresh_soon(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._keep_fresh())

    async def _keep_fresh(self) -> None:
        """Tries until another token is in force; the end of the connection ends it too."""
        if not self._tokens.renewable:
            self._emit(
                TokenRefreshFailed(
                    TokenSourceFailed("the token is a text; give a function to renew it")
                )
            )
            return
        while True:
            try:
                token = await self._tokens.get()
                if token != self._token:
                    await self._refresh_with(token)
                    return
                error: ArqonError = TokenSourceFailed("the token function gave the same token")
            except ArqonError as failed:
                error = failed
            self._emit(TokenRefreshFailed(error))
            await asyncio.sleep(max(_REFRESH_AGAIN, error.retry_after or 0.0))

    async def _refresh_with(self, token: str) -> None:
        link = await self._ready_link()
        ref = link.ref()
        request = self._requests.add(ref, "REFRESH", ConnectionLost)
        link.send(_wire.refresh(token, ref))
        pages = await request.answer()
        self._token = token
        expires_at = _wire.expiry_of(pages[0].refreshed.expires_at)
        self._dispatch.expires(expires_at)
        self._emit(TokenRefreshed(expires_at))

    # -- states

    def _emit(self, event: Event) -> None:
        self._events.emit(event)

    def _change(self, state: State, error: ArqonError | None) -> None:
        previous, self._state = self._state, state
        if previous is not state:
            self._emit(StateChanged(state, previous, error))
        self._notify()

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self, deadline: float | None) -> bool:
        """Waits for anything to change. False where the time is over."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        timeout = None if deadline is None else max(0.0, deadline - self._loop.time())
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            self._waiters.discard(waiter)
        return waiter.done()

    async def _until(self, ready: Callable[[], bool], room: Room | None, what: str) -> None:
        deadline = self._loop.time() + self._request_timeout
        while not ready():
            self._check_open()
            if room is not None and room._ended:
                raise room._inbox.error or ClientClosed(f"{room.name} was left")
            if not await self._changed(deadline):
                if self._link is None:
                    raise NotConnected(
                        f"{what}: no connection in {self._request_timeout:g} s"
                        + (f"; {self._last_error}" if self._last_error else "")
                    )
                raise RequestTimeout(f"no answer to {what} in {self._request_timeout:g} s")

    async def _ready_link(self, room: Room | None = None) -> Link:
        """The connection, and the room joined on it."""
        self._check_open()
        await self._until(
            lambda: self._link is not None and (room is None or room._joined),
            room,
            "a publish" if room is None else f"a request in {room.name}",
        )
        self._check_open()
        assert self._link is not None  # `_until` said so, in this turn of the loop
        return self._link

    def _check_open(self) -> None:
        if self._state is State.CLOSED or self._closing is not None:
            raise self._fatal or ClientClosed()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _as_bytes(payload: Payload) -> bytes:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(
        f"a payload is bytes, not {type(payload).__name__}; see publish_text and publish_json"
    )
