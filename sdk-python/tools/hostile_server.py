"""Servers that do not keep the rules, one connection at a time, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

import arqon
from arqon._proto import envelope_pb2 as pb

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: Seconds of one attempt. All that hangs here must be given up after it.
PATIENCE = 1.0
#: Seconds after which a test is hanging itself.
BOUND = 20.0

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass
class Peer:
    """One connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    async def request(self) -> None:
        """Reads the request."""
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        lines = self.head.decode().split("\r\n")[1:-2]
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }

    async def upgrade(self, subprotocol: str | None = "arqon.v1") -> None:
        """Reads the request and takes it."""
        await self.request()
        key = self.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        answer = (
            "HTTP/1.1 101 Switching Protocols\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n"
        )
        if subprotocol is not None:
            answer += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
        await self.say(f"{answer}\r\n".encode())

    async def say(self, data: bytes) -> None:
        """Sends bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, status: str, body: bytes = b"", *headers: str, read: bool = True
    ) -> None:
        """Reads the request and answers it."""
        if read:
            await self.request()
        lines = "".join(f"{header}\r\n" for header in headers)
        head = f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        await self.say(head.encode() + body)

    async def send(self, envelope: pb.Envelope) -> None:
        """Sends a frame of the protocol."""
        await self.say(frame(BINARY, envelope.SerializeToString()))

    async def silence(self) -> None:
        """Does nothing until the client has gone."""
        while await self.reader.read(4096):
            pass


def frame(opcode: int, payload: bytes, *, fin: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame of a server. `length`: what its head says, where that is a lie."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = bytes([first, size])
    elif size < 65_536:
        head = bytes([first, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 127]) + size.to_bytes(8, "big")
    return head + payload


def welcome(heartbeat: int = 25, version: int = 1) -> pb.Envelope:
    """A WELCOME as it should be."""
    return pb.Envelope(
        op=pb.OPCODE_WELCOME,
        welcome=pb.Welcome(
            session_id="018f0000-0000-7000-8000-000000000001",
            user="ada",
            tenant="test",
            protocol_version=version,
            limits=pb.Limits(max_payload_bytes=61_440, max_frame_bytes=65_536, max_rooms=100),
            heartbeat_secs=heartbeat,
            token_expires_at=4_000_000_000,
        ),
    )


@asynccontextmanager
async def serving(
    behave: Callable[[Peer], Awaitable[None]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Listens on the loopback interface; gives `host:port`. Connections are cut when it ends."""
    failures: list[BaseException] = []
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.add(writer)
        try:
            await behave(Peer(reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client went, which is what many of them shall.
        except RuntimeError as error:
            # What uvloop says of it.
            if not writer.transport.is_closing():
                failures.append(error)
        except Exception as error:
            failures.append(error)
        finally:
            writer.close()
            writers.discard(writer)
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        for writer in tuple(writers):
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
    assert not failures, failures


@asynccontextmanager
async def serving_bytes(data: bytes) -> AsyncIterator[str]:
    """Answers whatever is asked with these bytes, and ends."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)

    async with serving(behave) as address:
        yield address


async def refused(url: str, kind: type[arqon.ArqonError], **options: object) -> arqon.ArqonError:
    """The error that connecting raises: of this class, with its help, and within the time."""
    connecting = arqon.connect(
        url,
        token="a.b.c",
        open_timeout=PATIENCE,
        proxy=None,
        **options,  # type: ignore[arg-type]
    )
    with pytest.raises(kind) as raised:
        await asyncio.wait_for(enter(connecting), BOUND)
    error = raised.value
    assert type(error) is kind
    assert error.name in str(error)
    assert str(error.code) in str(error)
    assert error.help in str(error)
    assert len(error.help) > 10
    assert "a.b.c" not in str(error), "the token stays out of texts"
    return error


async def enter(connecting: AbstractAsyncContextManager[arqon.Client]) -> None:
    """Connects, and stays until the client closes."""
    async with connecting as bus:
        # A server that misbehaves after WELCOME may be noticed only here.
        await bus.wait_closed()


async def refused_by(
    behave: Callable[[Peer], Awaitable[None]], kind: type[arqon.ArqonError]
) -> arqon.ArqonError:
    """The error that connecting to such a server raises."""
    async with serving(behave) as address:
        return await refused(f"ws://{address}/v1/socket", kind, reconnect=None)
