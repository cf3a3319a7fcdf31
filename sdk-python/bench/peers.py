"""The three clients, behind one face, and what floods each of their servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

ROOM = "bench"


class Peer(Protocol):
    """A client of one kind, connected and in the room."""

    async def open(self, on_message: Callable[[bytes], None] | None) -> None:
        """Connects; with a handler it is in the room and hears it."""

    async def publish(self, payload: bytes) -> None:
        """Publishes the quickest way there is: without waiting for the server, if that exists."""

    async def confirmed(self, payload: bytes) -> None:
        """Publishes, and is back when the server has the message."""

    async def settle(self) -> None:
        """Back when the server has all that was published."""

    async def close(self) -> None:
        """Ends the connection."""


class Arqon:
    """arqon-sdk on Shield."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._task: asyncio.Task[None] | None = None

    async def open(self, on_message: Callable[[bytes], None] | None) -> None:
        import arqon

        self._bus = await arqon.connect(self._url, token=self._token, queue_messages=100_000)
        self._room = await self._bus.join(ROOM, echo=on_message is not None)
        if on_message is not None:

            async def read() -> None:
                async for message in self._room:
                    on_message(message.payload)

            self._task = asyncio.ensure_future(read())

    async def publish(self, payload: bytes) -> None:
        await self._room.publish(payload)

    async def confirmed(self, payload: bytes) -> None:
        await self._room.publish(payload, ack=True)

    async def settle(self) -> None:
        await self._room.publish(b"", ack=True)

    async def close(self) -> None:
        await self._bus.close()
        if self._task is not None:
            await self._task


class Nats:
    """nats-py on nats-server: TCP with ``nats://``, WebSocket with ``ws://``."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url

    async def open(self, on_message: Callable[[bytes], None] | None) -> None:
        import nats

        self._nc = await nats.connect(
            self._url, pending_size=8 * 1024 * 1024, allow_reconnect=False
        )
        if on_message is not None:

            async def heard(message: Any) -> None:  # noqa: ANN401 - theirs is untyped
                on_message(message.data)

            await self._nc.subscribe(ROOM, cb=heard)
        await self._nc.flush()

    async def publish(self, payload: bytes) -> None:
        await self._nc.publish(ROOM, payload)

    async def confirmed(self, payload: bytes) -> None:
        await self._nc.publish(ROOM, payload)
        await self._nc.flush()

    async def settle(self) -> None:
        await self._nc.flush(timeout=60)

    async def close(self) -> None:
        await self._nc.close()


class Centrifuge:
    """centrifuge-python, with its Protobuf form, on a server of the centrifuge library. Each of
    its publishes waits for an answer; `publish` keeps 256 of them under way.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self, on_message: Callable[[bytes], None] | None) -> None:
        import centrifuge  # type: ignore[import-untyped]

        class Heard(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]
            async def on_publication(self, ctx: Any) -> None:  # noqa: ANN401 - likewise
                assert on_message is not None
                on_message(ctx.pub.data)

        self._client = centrifuge.Client(self._url, token=self._token, use_protobuf=True)
        self._sub = self._client.new_subscription(ROOM, Heard())
        await self._client.connect()
        await self._client.ready()
        if on_message is not None:
            await self._sub.subscribe()
            await self._sub.ready()

    async def publish(self, payload: bytes) -> None:
        while len(self._under_way) >= 256:
            _, self._under_way = await asyncio.wait(
                self._under_way, return_when=asyncio.FIRST_COMPLETED
            )
        self._under_way.add(asyncio.ensure_future(self._client.publish(ROOM, payload)))

    async def confirmed(self, payload: bytes) -> None:
        await self._client.publish(ROOM, payload)

    async def settle(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
            self._under_way = set()

    async def close(self) -> None:
        await self._client.disconnect()


PEERS: dict[str, Callable[[str, str], Peer]] = {
    "arqon": Arqon,
    "nats": Nats,
    "nats-ws": Nats,
    "centrifuge": Centrifuge,
}


# ---- flooding: frames made beforehand, written to a plain socket


class Flood:
    """Publishes as many messages as it is told, as fast as the server takes them."""

    #: Messages in one write.
    BATCH = 100

    def __init__(self, peer: str, url: str, token: str, size: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        payload = os.urandom(size)
        if peer == "arqon":
            one = self._arqon(parts.path, token, payload)
        elif peer == "centrifuge":
            one = self._centrifuge(parts.path, token, payload)
        else:
            # However the receiver is connected, NATS routes the same message to it.
            self._socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
            while b"PONG" not in self._socket.recv(65536):
                pass
            one = b"PUB %s %d\r\n%s\r\n" % (ROOM.encode(), size, payload)
        self._batch = one * self.BATCH
        # Answers are thrown away, or the server would stop.
        threading.Thread(target=self._drain, daemon=True).start()

    def send(self, batches: int) -> None:
        """So many times BATCH messages."""
        for _ in range(batches):
            self._socket.sendall(self._batch)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 20):
                pass

    def _upgrade(self, path: str, *headers: str) -> None:
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._socket.recv(1)
        assert b" 101 " in answer, answer

    def _arqon(self, path: str, token: str, payload: bytes) -> bytes:
        from arqon._proto import envelope_pb2 as pb

        self._upgrade(path, "Sec-WebSocket-Protocol: arqon.v1", f"Authorization: Bearer {token}")
        join = pb.Envelope(op=pb.OPCODE_JOIN, room=ROOM, join=pb.Join(echo=False))
        self._socket.sendall(frame(join.SerializeToString()))
        seen = b""
        while ROOM.encode() not in seen:  # JOINED names the room
            seen += self._socket.recv(65536)
        publish = pb.Envelope(op=pb.OPCODE_PUBLISH, room=ROOM, payload=payload)
        return frame(publish.SerializeToString())

    def _centrifuge(self, path: str, token: str, payload: bytes) -> bytes:
        from centrifuge.protocol import client_pb2  # type: ignore[import-untyped]

        def message(command: Any) -> bytes:  # noqa: ANN401 - likewise
            data: bytes = command.SerializeToString()
            assert len(data) < 1 << 14
            length = (
                bytes([len(data)])
                if len(data) < 128
                else bytes([len(data) & 127 | 128, len(data) >> 7])
            )
            return frame(length + data)

        self._upgrade(path, "Sec-WebSocket-Protocol: centrifuge-protobuf")
        connect = client_pb2.Command(id=1, connect=client_pb2.ConnectRequest(token=token))
        self._socket.sendall(message(connect))
        assert self._socket.recv(65536)
        request = client_pb2.PublishRequest(channel=ROOM, data=payload)
        return message(client_pb2.Command(id=2, publish=request))


def frame(payload: bytes) -> bytes:
    """A binary WebSocket frame of a client, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x82, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x82, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x82, 0xFF, size)
    return head + bytes(4) + payload


__all__ = ["PEERS", "ROOM", "Flood", "Peer", "frame"]
