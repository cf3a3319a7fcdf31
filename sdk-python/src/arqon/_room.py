"""A joined room."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from . import _wire
from ._inbox import Inbox
from ._presence import Presence
from ._types import Gap, GapReason, Message, Overflow, PresenceMode, Receipt
from .errors import ArqonError, ClientClosed, NotJoined

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._rooms import Rooms

Payload = bytes | bytearray | memoryview


class Room:
    """A room that this client is in. Made by :meth:`Client.join`.

    Messages wait in a queue of the room, bounded by ``queue_messages`` and ``queue_bytes``, until
    they are read::

        await room.publish(b"hello")
        async for message in room:
            print(message.sender.user, message.payload)  # prints: ada b'hello'

    Iterating ends when the room is left or the client closed, and raises the error where one
    ended it. Several readers share the queue: each message goes to one of them.
    """

    def __init__(
        self,
        rooms: Rooms,
        name: str,
        *,
        echo: bool,
        mode: PresenceMode,
        meta: Mapping[str, str],
        queue_messages: int,
        queue_bytes: int,
        overflow: Overflow,
    ) -> None:
        self._rooms = rooms
        self._name = name
        self._echo = echo
        self._meta = dict(meta)
        # The last one that the server took.
        self._taken = self._meta
        self._inbox = Inbox(name, queue_messages, queue_bytes, overflow, rooms.check_loop)
        self._presence = Presence(self, mode)
        self._joined = False
        #: Correlation ids of what this room sent as JOIN on this connection.
        self._join_refs: set[int] = set()
        self._was_joined = False
        self._ended = False

    @property
    def name(self) -> str:
        """The room's name, without the tenant."""
        return self._name

    @property
    def joined(self) -> bool:
        """Whether messages flow now. False while reconnecting, and after leaving."""
        return self._joined

    @property
    def missed(self) -> int:
        """Messages known to be missing so far, by the server's word or by this room's full queue.
        Those lost while there was no connection are not counted: nobody knows their number.
        """
        return self._inbox.missed

    @property
    def presence(self) -> Presence:
        """Who is in the room."""
        return self._presence

    # -- publishing

    @overload
    async def publish(
        self,
        payload: Payload,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    async def publish(
        self,
        payload: Payload,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    @overload
    async def publish(
        self,
        payload: Payload,
        *,
        ack: bool,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None: ...

    async def publish(
        self,
        payload: Payload,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """Publishes a message to the room.

        Example::

            receipt = await room.publish(b"hello", ack=True, headers={"lang": "en"})
            print(len(receipt.twist_id))  # prints: 36

        While there is no connection it waits for one, ``request_timeout`` seconds at most. A
        fire-and-forget publish is back when the message is queued for the network; a refusal comes
        as event :class:`PublishFailed`. An acknowledged one is back when the platform has it.

        Args:
            payload: at most ``session.limits.max_payload_bytes`` (61,440 unless set otherwise).
            ack: wait for the acknowledgement.
            headers: passed on to receivers; names that begin with ``X-`` belong to the platform.
                Without a ``traceparent`` among them, the OpenTelemetry span that is current now
                is told in one, if there is one.
            twist_id: the message's id, a UUIDv7, of :func:`arqon.new_twist_id` for instance;
                absent: given here or by the platform.

        Raises:
            PublishUncertain: acknowledged only: the connection ended, or no acknowledgement came in
                ``request_timeout``; the message may or may not have been delivered. It is never
                repeated silently.
            PolicyBlocked: acknowledged only: a policy of the platform blocked it.
            PayloadTooLarge: nothing was sent. Likewise the errors of headers.
            NotConnected: nothing was sent, there was no connection in time.
            SendQueueFull: nothing was sent, the network takes less than is published.
            ClientClosed: the client is closed.
        """
        return await self._rooms.publish(self._name, self, payload, ack, headers, twist_id)

    @overload
    async def publish_text(
        self,
        text: str,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    async def publish_text(
        self,
        text: str,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    @overload
    async def publish_text(
        self,
        text: str,
        *,
        ack: bool,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None: ...

    async def publish_text(
        self,
        text: str,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """Like :meth:`publish`, for text: UTF-8, and the header ``content-type: text/plain``.

        Example::

        await room.publish_text("hello")
        print((await room.get()).text())  # prints: hello
        """
        if not isinstance(text, str):
            raise TypeError(f"publish_text takes text, not {type(text).__name__}; see publish")
        typed = _with_type(headers, "text/plain; charset=utf-8")
        return await self._rooms.publish(self._name, self, text.encode(), ack, typed, twist_id)

    @overload
    async def publish_json(
        self,
        value: object,
        *,
        ack: Literal[False] = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> None: ...

    @overload
    async def publish_json(
        self,
        value: object,
        *,
        ack: Literal[True],
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt: ...

    @overload
    async def publish_json(
        self,
        value: object,
        *,
        ack: bool,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None: ...

    async def publish_json(
        self,
        value: object,
        *,
        ack: bool = False,
        headers: Mapping[str, str] | None = None,
        twist_id: str | None = None,
    ) -> Receipt | None:
        """Like :meth:`publish`, for a value as JSON, with ``content-type: application/json``.

        Example::

            await room.publish_json({"n": 1})
            print((await room.get()).json())  # prints: {'n': 1}

        Raises:
            TypeError: the value has no JSON; ``ValueError`` for NaN and infinities.
        """
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        typed = _with_type(headers, "application/json")
        return await self._rooms.publish(self._name, self, text.encode(), ack, typed, twist_id)

    # -- reading

    async def get(self) -> Message:
        """The next message; gaps are left out.

        Example::

            await room.publish(b"hello")
            print((await room.get()).payload)  # prints: b'hello'

        Raises:
            NotJoined: the room was left.
            ClientClosed: the client closed.
            ArqonError: the error that ended the room or the client.
        """
        try:
            return await _Messages(self).__anext__()
        except StopAsyncIteration:
            raise self._why_ended() from None

    def __aiter__(self) -> AsyncIterator[Message]:
        return _Messages(self)

    def events(self) -> AsyncIterator[Message | Gap]:
        """Messages, with a :class:`Gap` in the place where some may be missing. Reads the same
        queue as iterating the room itself.

        Example::

            await room.publish(b"hello")
            async for item in room.events():
                if isinstance(item, arqon.Gap):
                    print("missed", item.missed, item.reason)
                else:
                    print("heard", item.text())  # prints: heard hello
        """
        return _Events(self)

    # -- leaving

    async def leave(self) -> None:
        """Leaves; nothing of the room arrives after it returns. Twice is harmless.

        Example::

            async with await bus.join("side-room") as side:
                await side.publish(b"hello")
            print(side.joined)  # prints: False

        Raises:
            RequestTimeout: the server did not confirm it in time; the room is left here.
        """
        await self._rooms.leave(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "joined" if self._joined else "not joined"
        return f"<Room {self._name!r}, {state}>"

    # -- for the client

    def _why_ended(self) -> ArqonError:
        """The error for who still wants something of a room that has ended."""
        if self._inbox.error is not None:
            return self._inbox.error._again()
        if self._rooms.closed:
            return ClientClosed()
        return NotJoined(f"{self._name} was left")

    def _join_frame(self, ref: int) -> bytes:
        self._join_refs.add(ref)
        return _wire.join(
            self._name, ref, echo=self._echo, mode=self._presence.mode, meta=self._meta
        )

    def _on_joined(self) -> None:
        self._joined = True
        if self._was_joined:
            gap = Gap(self._name, GapReason.RECONNECTED, None)
            self._inbox.put_gap(gap)
            self._rooms.emit(gap)
        self._was_joined = True

    async def _set_meta(self, meta: dict[str, str]) -> None:
        self._meta = meta
        try:
            await self._rooms.presence_set(self, meta)
        except Exception as error:
            # What did not reach the server for want of a connection goes with the next JOIN.
            kept = isinstance(error, ArqonError) and error.retryable
            if not kept and self._meta is meta:
                self._meta = self._taken
            raise
        self._taken = meta

    def _disconnected(self) -> None:
        self._joined = False
        self._join_refs.clear()
        self._presence._disconnected()

    def _end(self, error: ArqonError | None, *, clear: bool) -> None:
        self._ended = True
        self._joined = False
        self._inbox.close(error, clear=clear)
        self._presence._end(error)


# Both hold the room, since `close` empties those that somebody holds.


class _Messages(AsyncIterator[Message]):
    def __init__(self, room: Room) -> None:
        self._room = room

    async def __anext__(self) -> Message:
        while True:
            item = await self._room._inbox.get()
            if isinstance(item, Message):
                return item


class _Events(AsyncIterator[Message | Gap]):
    def __init__(self, room: Room) -> None:
        self._room = room

    async def __anext__(self) -> Message | Gap:
        return await self._room._inbox.get()


def _with_type(headers: Mapping[str, str] | None, kind: str) -> dict[str, str]:
    """The headers, with a content type unless the application gave one."""
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers is a mapping of text to text, not {type(headers).__name__}")
    given = dict(headers or {})
    if not any(name.lower() == "content-type" for name in given):
        given["content-type"] = kind
    return given
