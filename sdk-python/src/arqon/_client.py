"""The client, as an application sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Literal, overload

from . import _wire
from ._core import Core
from ._proto import envelope_pb2 as pb
from ._room import Payload, Room
from ._types import Overflow, PresenceMode, Receipt, Session, State
from .errors import ArqonError

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """A client of ArqonBus, made by :func:`arqon.connect`; belongs to the loop it was made in.

    It holds one session and opens another when that is lost: rooms are joined again, presence is
    restored, and a :class:`Gap` stands in each room where messages may have been missed.
    """

    def __init__(self, core: Core, queue: tuple[int, int, Overflow]) -> None:
        self._core = core
        self._queue = queue

    @property
    def url(self) -> str:
        """The address it connects to."""
        return self._core.dial.url

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._core.state

    @property
    def session(self) -> Session:
        """The session that is open, or was open last."""
        session = self._core.session
        assert session is not None  # nobody has the client before its first session
        return session

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms it is in, by name. A live, read-only view."""
        return MappingProxyType(self._core.rooms.by_name)

    @property
    def last_error(self) -> ArqonError | None:
        """Why the last connection was lost or could not be opened."""
        return self._core.last_error

    @property
    def reconnects(self) -> int:
        """How often a session was opened after the first one."""
        return self._core.reconnects

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

        Example::

            room = await bus.join("stage", meta={"name": "Ada"})
            print(room.joined, room.presence.mode)  # prints: True full

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
            TypeError: `meta` is no mapping of text to text.
        """
        _wire.check_room(room)
        if not isinstance(echo, bool):
            raise TypeError(f"echo is True or False, not {echo!r}")
        mode: PresenceMode = presence or ("full" if meta else "none")
        if mode not in _wire.MODES:
            raise ValueError("presence is 'none', 'count', 'full' or 'watch'")
        joining = Room(
            self._core.rooms,
            room,
            echo=echo,
            mode=mode,
            meta=_wire.check_meta(meta or {}),
            queue_messages=self._queue[0] if queue_messages is None else queue_messages,
            queue_bytes=self._queue[1] if queue_bytes is None else queue_bytes,
            overflow=self._queue[2] if overflow is None else overflow,
        )
        await self._core.rooms.join(joining)
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

    @overload
    async def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: bool,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None: ...

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

        Example::

            await bus.publish("lobby", b"hello", ack=True)
        """
        _wire.check_room(room)
        rooms = self._core.rooms
        return await rooms.publish(room, rooms.by_name.get(room), payload, ack, headers, twist_id)

    async def refresh(self) -> None:
        """Gets a token and swaps it in on the live session. Happens by itself before the token
        expires; call it to bring changed rights into force.

        Example::

            await bus.refresh()

        Raises:
            TokenSourceFailed, TokenSourceTimeout: there is no new token.
            TokenMismatch: it is of another tenant or user.
            ArqonError: the server refused it.
        """
        await self._core.refresh()

    async def ping(self) -> float:
        """The time to the server and back, in seconds.

        Example::

            print(f"{await bus.ping() * 1000:.1f} ms")

        Raises:
            NotConnected, ConnectionLost, RequestTimeout: there was none.
        """
        core = self._core
        link = await core.ready_link("PING")
        ref = link.ref()
        # Not the loop's clock: uvloop's counts milliseconds.
        started = time.perf_counter()
        link.send(_wire.ping(ref))
        request = core.requests.add(ref, "PING", (pb.OPCODE_PONG,))
        await request.answer()
        return time.perf_counter() - started

    async def wait_for(self, state: State, timeout: float | None = None) -> None:
        """Waits until the client is in a state.

        Example::

            await bus.wait_for(arqon.State.CONNECTED, timeout=30.0)

        Args:
            state: the state. One that passes quickly may be missed; use ``on_event`` for those.
            timeout: seconds; ``None``: as long as it takes.

        Raises:
            TimeoutError: it was not, in time.
            ArqonError: the client closed, by this error; :class:`ClientClosed` if by `close`.
            ValueError: there is no such state.
        """
        state = State(state)
        self._core.check_loop()
        deadline = None if timeout is None else self._core.loop.time() + timeout
        while self._core.state is not state:
            if self._core.state is State.CLOSED:
                raise self._core.why_closed()
            if not await self._core.changed(deadline):
                raise TimeoutError(f"the client is {self._core.state.value}, not {state.value}")

    async def wait_closed(self) -> None:
        """Waits until the client has closed, and says why.

        Raises:
            ArqonError: what closed it, if it was not `close`.
        """
        await self.wait_for(State.CLOSED)
        if self._core.fatal is not None:
            raise self._core.why_closed()

    async def close(self) -> None:
        """Sends what is queued, waits for acknowledgements that are under way (``close_timeout``
        seconds at most), and closes. When it returns nothing arrives any more: what was not read
        is gone, iterations end, no event comes. Twice is harmless.
        """
        await self._core.close()

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
        return f"<arqon.Client of {self._core.dial.url}, {self._core.state.value}>"
