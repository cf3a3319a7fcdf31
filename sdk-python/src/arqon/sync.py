"""ArqonBus without asyncio: for scripts, notebooks and threads.

Example::

    import arqon.sync

    with arqon.sync.connect("wss://bus.example.com/v1/socket", token=token) as bus:
        room = bus.join("lobby", meta={"name": "Ada"})
        room.publish_text("hello", ack=True)
        message = room.get(timeout=5.0)
        print(message.text())  # prints: hello

The same client works behind it, in a loop of its own in a daemon thread; whatever :mod:`arqon`
says of limits, errors and reconnecting holds, and no call waits longer than there. Every method
may be called from any thread, also from one whose event loop runs, as in a notebook. Ctrl-C ends
any wait. A process that is forked off connects anew; to it the client of its parent is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import ssl as tls
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from . import _client, _connect, _presence, _room
from ._events import EventHandler
from ._portal import Handler, Portal, Stream
from ._room import Payload
from ._tokens import TokenSource
from ._types import (
    Gap,
    Member,
    Message,
    Overflow,
    PresenceChange,
    PresenceMode,
    Receipt,
    Reconnect,
    Session,
    State,
)
from .errors import ArqonError, ClientClosed

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Client", "Presence", "Room", "Stream", "connect"]


def connect(
    url: str,
    *,
    token: TokenSource,
    open_timeout: float = 10.0,
    request_timeout: float = 10.0,
    token_timeout: float = 10.0,
    close_timeout: float = 5.0,
    reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - it is frozen
    queue_messages: int = 1024,
    queue_bytes: int = 8 * 1024 * 1024,
    overflow: Overflow = "drop_oldest",
    send_buffer: int = 1024 * 1024,
    ssl: tls.SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    on_event: EventHandler | None = None,
) -> Client:
    """Connects, and is back when there is a session. Use it in a ``with``, or close it; what is
    open when the program ends is closed then.

    Example::

        with arqon.sync.connect("wss://bus.example.com/v1/socket", token=token) as bus:
            room = bus.join("lobby")
            room.publish(b"hello")
            print(room.get(timeout=5.0).payload)  # prints: b'hello'

    Arguments and errors are those of :func:`arqon.connect`. `on_event` is called in a thread of
    its own and may use the client; :meth:`Client.close` does not wait there. An async one runs in
    the client's loop, where its methods raise ``RuntimeError`` since they would block it.
    """
    handler = None if on_event is None else Handler(on_event)
    portal = None
    try:
        connecting = _connect.connect(
            url,
            token=token,
            open_timeout=open_timeout,
            request_timeout=request_timeout,
            token_timeout=token_timeout,
            close_timeout=close_timeout,
            reconnect=reconnect,
            queue_messages=queue_messages,
            queue_bytes=queue_bytes,
            overflow=overflow,
            send_buffer=send_buffer,
            ssl=ssl,
            proxy=proxy,
            on_event=handler,
        )
        portal = Portal()
        return Client(portal, portal.run(_opened(connecting)), handler)
    except BaseException:
        if portal is not None:
            portal.stop()
        if handler is not None:
            handler.stop()
        raise


async def _opened(connecting: _connect.Connecting) -> _client.Client:
    return await connecting


class Client:
    """Like :class:`arqon.Client`, blocking. Made by :func:`connect`."""

    def __init__(self, portal: Portal, client: _client.Client, handler: Handler | None) -> None:
        self._portal = portal
        self._client = client
        self._handler = handler
        self._closing = False
        # Changed in the loop only, and by another dict.
        self._rooms: Mapping[str, Room] = {}
        # What was published last is sent, though nobody closed the client.
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """The address it connects to."""
        return self._client.url

    @property
    def state(self) -> State:
        """Where it stands."""
        return State.CLOSED if self._portal.over else self._client.state

    @property
    def session(self) -> Session:
        """The session that is open, or was open last."""
        return self._client.session

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms it is in at this moment, by name."""
        if self._portal.over:
            return {}
        core = self._client._core.rooms.by_name
        return {name: room for name, room in self._rooms.items() if core.get(name) is room._room}

    @property
    def last_error(self) -> ArqonError | None:
        """Why the last connection was lost or could not be opened."""
        return self._client.last_error

    @property
    def reconnects(self) -> int:
        """How often a session was opened after the first one."""
        return self._client.reconnects

    def join(
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
        """See :meth:`arqon.Client.join`."""

        async def joining() -> Room:
            joined = await self._client.join(
                room,
                echo=echo,
                presence=presence,
                meta=meta,
                queue_messages=queue_messages,
                queue_bytes=queue_bytes,
                overflow=overflow,
            )
            made = Room(self._portal, joined)
            self._rooms = {**self.rooms, room: made}
            return made

        return self._portal.run(joining())

    @overload
    def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    def publish(
        self,
        room: str,
        payload: Payload,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """See :meth:`arqon.Client.publish`."""
        return self._portal.run(
            self._client.publish(room, payload, ack=ack, headers=headers, twist_id=twist_id)
        )

    def refresh(self) -> None:
        """See :meth:`arqon.Client.refresh`."""
        self._portal.run(self._client.refresh())

    def ping(self) -> float:
        """The time to the server and back, in seconds."""
        return self._portal.run(self._client.ping())

    def wait_for(self, state: State, timeout: float | None = None) -> None:
        """See :meth:`arqon.Client.wait_for`."""
        self._portal.run(self._client.wait_for(state, timeout))

    def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the client has closed.

        Args:
            timeout: seconds; ``None``: as long as it takes.

        Raises:
            TimeoutError: it has not, in time.
            ArqonError: what closed it, if it was not `close`.
        """
        # Who closes it ends the loop, perhaps before this has seen it.
        with contextlib.suppress(ClientClosed):
            self._portal.run(self._client.wait_for(State.CLOSED, timeout))
        if self._client._core.fatal is not None:
            raise self._client._core.fatal

    def close(self) -> None:
        """See :meth:`arqon.Client.close`. Its threads end, too. Called by ``on_event`` it returns
        at once, and the client closes when the handler has returned.

        Raises:
            RuntimeError: an async ``on_event`` or token function called it, in the client's own
                loop. Nothing has changed.
        """
        if self._portal.forked:
            # All of it is the parent's. What was inherited is kept, as freeing it could run code
            # that closes something.
            return
        self._portal.check_thread()
        if self._handler is not None and self._handler.calling:
            # While the program ends there may be no new thread, and there is no need for one.
            if not self._closing:
                threading.Thread(target=self.close, name="arqon-close", daemon=True).start()
            return
        self._closing = True
        try:
            with contextlib.suppress(ClientClosed):
                self._portal.run(self._client.close())
        finally:
            # Also where Ctrl-C ended the waiting.
            self._portal.stop()
            if self._handler is not None:
                self._handler.stop()
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    if not TYPE_CHECKING:
        # Python's own words would not name the mistake.
        async def __aenter__(self) -> None:
            self.close()
            raise TypeError("arqon.sync is used with `with`; in asyncio, use arqon.connect")

        async def __aexit__(self, *error: object) -> None:
            pass

    def __repr__(self) -> str:
        return f"<arqon.sync.Client of {self.url}, {self.state.value}>"


class Room:
    """Like :class:`arqon.Room`, blocking. Made by :meth:`Client.join`."""

    def __init__(self, portal: Portal, room: _room.Room) -> None:
        self._portal = portal
        self._room = room
        self._presence = Presence(portal, room)
        # All readers share one, so that what one of them waited for is not lost to the others.
        self._events = Stream(portal, room, room.events())

    @property
    def name(self) -> str:
        """The room's name, without the tenant."""
        return self._room.name

    @property
    def joined(self) -> bool:
        """Whether messages flow now."""
        return self._room.joined and not self._portal.over

    @property
    def missed(self) -> int:
        """Messages known to be missing so far."""
        return self._room.missed

    @property
    def presence(self) -> Presence:
        """Who is in the room."""
        return self._presence

    @overload
    def publish(
        self,
        payload: Payload,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    def publish(
        self,
        payload: Payload,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    def publish(
        self,
        payload: Payload,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """See :meth:`arqon.Room.publish`."""
        return self._portal.run(
            self._room.publish(payload, ack=ack, headers=headers, twist_id=twist_id)
        )

    @overload
    def publish_text(
        self,
        text: str,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    def publish_text(
        self,
        text: str,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    def publish_text(
        self,
        text: str,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """See :meth:`arqon.Room.publish_text`."""
        return self._portal.run(
            self._room.publish_text(text, ack=ack, headers=headers, twist_id=twist_id)
        )

    @overload
    def publish_json(
        self,
        value: object,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    def publish_json(
        self,
        value: object,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    def publish_json(
        self,
        value: object,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """See :meth:`arqon.Room.publish_json`."""
        return self._portal.run(
            self._room.publish_json(value, ack=ack, headers=headers, twist_id=twist_id)
        )

    def get(self, timeout: float | None = None) -> Message:
        """The next message; gaps are left out.

        Args:
            timeout: seconds; ``None``: as long as it takes.

        Raises:
            TimeoutError: none came in time.
            NotJoined: the room was left.
            ClientClosed: the client closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            item = self._events.get(left)
            if isinstance(item, Message):
                return item

    def __iter__(self) -> Iterator[Message]:
        return (item for item in self._events if isinstance(item, Message))

    def events(self) -> Stream[Message | Gap]:
        """Messages, with a :class:`Gap` in the place where some may be missing. Reads the same
        queue as iterating the room itself.
        """
        return self._events

    def leave(self) -> None:
        """See :meth:`arqon.Room.leave`."""
        # A client that is closed has left.
        with contextlib.suppress(ClientClosed):
            self._portal.run(self._room.leave())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def __repr__(self) -> str:
        return repr(self._room)


class Presence:
    """Like :class:`arqon.Presence`, blocking. Read through ``room.presence``."""

    def __init__(self, portal: Portal, room: _room.Room) -> None:
        self._portal = portal
        self._room = room
        self._presence: _presence.Presence = room.presence

    @property
    def mode(self) -> PresenceMode:
        """How the room was joined."""
        return self._presence.mode

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by user, as far as they were told: those of this moment."""
        # The copy of a dict is one step to other threads; that of a view of it is not.
        return self._presence._members.copy()

    @property
    def count(self) -> int | None:
        """How many users are in the room; ``None``: not told yet."""
        return self._presence.count

    @property
    def truncated(self) -> bool:
        """Whether the room is too large to tell its members."""
        return self._presence.truncated

    @property
    def ready(self) -> bool:
        """Whether the server has told the room since it was joined on this connection."""
        return self._presence.ready

    def get(self) -> list[Member]:
        """See :meth:`arqon.Presence.get`."""
        return self._portal.run(self._presence.get())

    def get_count(self) -> int:
        """See :meth:`arqon.Presence.get_count`."""
        return self._portal.run(self._presence.get_count())

    def set(self, meta: Mapping[str, str]) -> None:
        """See :meth:`arqon.Presence.set`."""
        self._portal.run(self._presence.set(meta))

    def __iter__(self) -> Iterator[PresenceChange]:
        return self.changes()

    def changes(self) -> Stream[PresenceChange]:
        """Who comes, changes and leaves, beginning with a join for each member that is there.
        What iterating the presence itself gives, to be taken with time-outs.
        """
        return Stream(self._portal, self._room, self._presence.__aiter__())

    def counts(self) -> Stream[int]:
        """See :meth:`arqon.Presence.counts`."""
        return Stream(self._portal, self._room, self._presence.counts())
