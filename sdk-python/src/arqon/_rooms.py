"""The rooms of a client: joining them, now and after each reconnect, publishing, presence."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import _trace, _wire
from ._backoff import Backoff
from ._connection import Link
from ._dispatch import FIRE_AND_FORGET
from ._proto import envelope_pb2 as pb
from ._room import Payload, Room
from ._types import Event, Member, Receipt, Reconnect, RoomLeft, State
from .errors import (
    AckUnknown,
    AlreadyJoined,
    ArqonError,
    ConnectionLost,
    MetaTooLarge,
    NotJoined,
    PayloadTooLarge,
    PublishUncertain,
)

if TYPE_CHECKING:
    from ._core import Core


#: What answers a request.
_JOINED = (pb.OPCODE_JOINED,)
_LEFT = (pb.OPCODE_LEFT,)
_ACK = (pb.OPCODE_ACK,)
_PONG = (pb.OPCODE_PONG,)
_PRESENCE = (pb.OPCODE_PRESENCE_STATE, pb.OPCODE_PRESENCE_COUNT)


class Rooms:
    """What a client does in rooms, on whatever connection there is."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: The rooms that the application is in, joined at the moment or not.
        self.by_name: dict[str, Room] = {}
        # Those the application may still hold, the ended ones too.
        self._all: weakref.WeakSet[Room] = weakref.WeakSet()

    @property
    def closed(self) -> bool:
        """Whether the client is."""
        return self._core.closing or self._core.state is State.CLOSED

    def check_loop(self) -> None:
        """Raises ``RuntimeError`` in another event loop than the client's."""
        self._core.check_loop()

    def emit(self, event: Event) -> None:
        """Tells the application."""
        self._core.events.emit(event)

    # -- membership

    async def join(self, room: Room) -> None:
        """Makes it one of the client's rooms, and is back when its messages flow."""
        core = self._core
        core.check_open()
        if room.name in self.by_name:
            raise AlreadyJoined(f"this client is in {room.name} already")
        self.by_name[room.name] = room
        self._all.add(room)
        if core.link is not None:
            core.spawn(self._join(room, core.link))
        try:
            await core.until(lambda: room.joined, room, f"JOIN of {room.name}")
        except BaseException as error:
            self._drop(room, error if isinstance(error, ArqonError) else None)
            raise

    def restore(self, link: Link) -> None:
        """A connection was opened."""
        for room in self.by_name.values():
            self._core.spawn(self._join(room, link))

    def disconnected(self) -> None:
        """The connection was lost."""
        for room in self.by_name.values():
            room._disconnected()

    def end(self, error: ArqonError | None) -> None:
        """The client has closed."""
        for room in self.by_name.values():
            room._end(error, clear=error is None)
        self.by_name.clear()

    def forget_unread(self) -> None:
        """What the application did not read is not to arrive later."""
        for room in self._all:
            room._end(None, clear=True)

    async def _join(self, room: Room, link: Link) -> None:
        """Sends JOIN until it is answered. A room that was joined before is joined again, however
        long that takes; the first answer to a new one is told to whoever joins.
        """
        backoff = Backoff(self._core.reconnect or Reconnect(), renewable=True)
        while self._core.link is link and self.by_name.get(room.name) is room:
            ref, meta = link.ref(), room._meta
            try:
                _send_meta(link, room._join_frame(ref))
                request = self._core.requests.add(ref, f"JOIN of {room.name}", _JOINED)
                await request.answer()
                room._taken = meta
                return
            except ConnectionLost:
                return
            except AlreadyJoined:
                # An earlier JOIN was answered after its time.
                if not room._joined and not room._ended:
                    room._on_joined()
                    self._core.notify()
                return
            except MetaTooLarge as error:
                if not room._was_joined or meta is room._taken:
                    self.end_room(room, error)
                    return
                # One that was set, and whose refusal nobody heard.
                if room._meta is meta:
                    room._meta = room._taken
                continue
            except ArqonError as error:
                if not (room._was_joined and error.retryable):
                    self.end_room(room, error)
                    return
                wait = backoff.after(error, 0.0)
            await asyncio.sleep(wait)

    def end_room(self, room: Room, error: ArqonError) -> None:
        """A failure ended a membership."""
        if self.by_name.get(room.name) is room:
            del self.by_name[room.name]
            room._end(error, clear=False)
            if room._was_joined:
                self.emit(RoomLeft(room.name, error))
            self._core.notify()

    def _drop(self, room: Room, error: ArqonError | None) -> None:
        """Whoever joined it does not want it any more."""
        room._end(error, clear=True)
        # One that was refused is not in the room, and the name may be another's by now.
        if self.by_name.get(room.name) is not room:
            return
        del self.by_name[room.name]
        link = self._core.link
        if link is not None:
            with contextlib.suppress(ArqonError):
                link.send(_wire.leave(room.name, link.ref()))

    async def leave(self, room: Room) -> None:
        """Sends LEAVE, and is back when it is confirmed."""
        self._core.check_loop()
        if self.by_name.get(room.name) is not room:
            return
        del self.by_name[room.name]
        room._end(None, clear=True)
        link = self._core.link
        if link is None:
            return
        ref = link.ref()
        try:
            link.send(_wire.leave(room.name, ref))
            request = self._core.requests.add(ref, f"LEAVE of {room.name}", _LEFT)
            await request.answer()
        except ConnectionLost:
            pass  # The membership ended with the connection.
        except NotJoined:
            pass  # It was not restored yet.

    async def presence_get(self, room: str, *, count_only: bool) -> tuple[list[Member], int]:
        """The members and how many there are, by the server."""
        link = await self._core.ready_link(f"PRESENCE_GET of {room}")
        ref = link.ref()
        link.send(_wire.presence_get(room, ref, count_only=count_only))
        request = self._core.requests.add(ref, f"PRESENCE_GET of {room}", _PRESENCE)
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

    async def presence_set(self, room: Room, meta: Mapping[str, str]) -> None:
        """Replaces the meta, and is back when the server would have refused it."""
        what = f"PRESENCE_SET of {room.name}"
        link = await self._core.ready_link(what, room)
        ref, barrier = link.ref(), link.ref()
        _send_meta(link, _wire.presence_set(room.name, ref, meta))
        # PRESENCE_SET is answered only if refused. Shield answers a session in order, so the PONG
        # says that there was no refusal.
        link.send(_wire.ping(barrier))
        refusal = self._core.requests.add(ref, what, ())
        request = self._core.requests.add(barrier, what, _PONG)
        try:
            await request.answer()
            if refusal.done.done():
                await refusal.answer()
        finally:
            self._core.requests.forget(ref)

    # -- publishing

    async def publish(
        self,
        name: str,
        room: Room | None,
        payload: Payload,
        ack: bool,
        headers: Mapping[str, str] | None,
        twist_id: str | None,
    ) -> Receipt | None:
        """See ``Room.publish``."""
        self._core.check_loop()
        data = payload if type(payload) is bytes else _as_bytes(payload)
        # Of now, however long it waits for a connection.
        trace = _trace.current()
        twist = None if twist_id is None else _wire.check_twist_id(twist_id)
        while True:
            link = self._core.link
            if link is None or self._core.closing or not (room is None or room._joined):
                link = await self._core.ready_link(f"PUBLISH to {name}", room)
            limits = link.session.limits
            _wire.check_payload(data, limits)
            if headers:
                _wire.check_headers(headers, limits)
            try:
                if link.congested:
                    await link.drain(self._core.request_timeout)
                if not ack:
                    link.send(
                        _wire.publish(
                            name,
                            data,
                            FIRE_AND_FORGET,
                            ack=False,
                            headers=headers,
                            twist_id=twist,
                            traceparent=trace,
                            limits=limits,
                        )
                    )
                    if link.should_yield:
                        await asyncio.sleep(0)
                    return None
                twist = twist or _wire.uuid7()
                ref = link.ref()
                frame = _wire.publish(
                    name,
                    data,
                    ref,
                    ack=True,
                    headers=headers,
                    twist_id=twist,
                    traceparent=trace,
                    limits=limits,
                )
                link.send(frame)
            except ConnectionLost:
                # Nothing was sent: wait until the end of the connection is told, and for the next.
                await self._core.gone(link)
                continue
            return await self._acknowledged(ref, name, twist)

    async def _acknowledged(self, ref: int, room: str, twist: str) -> Receipt:
        def uncertain(why: str) -> ArqonError:
            error = PublishUncertain(f"message {twist} to {room}: {why}")
            error.twist_id = twist
            return error

        request = self._core.requests.add(
            ref, f"PUBLISH to {room}", _ACK, uncertain, twist_id=twist
        )
        try:
            pages = await request.answer()
        except AckUnknown as unknown:
            error = uncertain("the platform itself could not tell in time whether it has it")
            raise error from unknown
        return Receipt(pages[0].ack.twist_id)


def _send_meta(link: Link, frame: bytes) -> None:
    """Sends a frame that is large only by its meta."""
    try:
        link.send(frame)
    except PayloadTooLarge as error:
        raise MetaTooLarge(error.message) from None


def _as_bytes(payload: Payload) -> bytes:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(
        f"a payload is bytes, not {type(payload).__name__}; see publish_text and publish_json"
    )
