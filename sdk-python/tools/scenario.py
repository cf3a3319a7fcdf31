"""Runs scenarios of `tests/scenario/scenarios.json` against whatever speaks the protocol.

A scenario is a list of steps. Each is an object whose first member says what is done:

    connect: NAME      opens a session and takes its WELCOME; `claims`, `welcome`: see below
    refused: NAME      the same is refused: `status`, `code` (its name), `headers`
    http: METHOD       asks for `path` with the headers `request`: `status`, `code`, `headers`
    send: NAME         sends the frame that the other members are
    text: NAME         sends the text frame `data`
    bytes: NAME        sends the binary frame `hex`
    expect: NAME       the next frame is the one that the other members are; or, with
                       `in_any_order`, the next frames are these
    skip: NAME         frames of opcode `op` come, the last of which is `until`
    quiet: NAME        no frame comes: the answer to a PING after `seconds` (0.3) is the next one
    deafen: NAME       reads nothing from the socket for `seconds`, not even pings
    close: NAME        closes the session
    closed: NAME       the server closes it: `close` (the code), `reason` (else: any)
    token: NAME        makes a token with `claims`, for ${NAME}
    order: WHAT        `suspend` or `resume` the tenant `tenant`; `drain` the gateway
    wait: SECONDS      does nothing

`claims` are those of the token: user NAME of tenant `acme` for an hour, unless said otherwise. A
claim that is null is left out; `"<now+60>"` is that many seconds from now; `trusted: false` is
another key, `alg` another algorithm, `bearer` another text than a token, or none.

Frames are in Protobuf's JSON, with names as in the `.proto`, the opcode without `OPCODE_`, and
`text` for a payload that is one. `${room}` is a room of the scenario's own, `${bytes:N}` and
`${chars:N}` stand for N of them, `${name}` for what was captured. What is expected may leave out
members of a body, but not `room` and `ref` where they are set; `<uuid7>`, `<timestamp>`, `<now_ms>`
and `<any>` stand for such values, `<as name>` captures one, `<absent>` is none.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf import json_format
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from arqon._proto import envelope_pb2 as pb

Json = Any  # of json.loads

#: Seconds that an answer may take.
PATIENCE = 10.0
#: Seconds within which an event that goes through other parts has come.
QUIET = 0.3


class Target(Protocol):
    """What scenarios are run against."""

    url: str

    def token(self, claims: Mapping[str, object], *, algorithm: str, trusted: bool) -> str:
        """A token with these claims, and with issuer and audience."""

    async def order(self, what: str, tenant: str) -> None:
        """Suspends or resumes a tenant, or drains the gateway."""


class Broken(AssertionError):
    """Something else happened than the scenario says."""


class Scenario:
    """One run of a scenario."""

    def __init__(self, target: Target, steps: Sequence[Mapping[str, Json]]) -> None:
        self._target = target
        self._steps = steps
        self._sessions: dict[str, _Session] = {}
        self._names: dict[str, str] = {"room": f"s{uuid.uuid4().hex[:12]}"}

    async def run(self) -> None:
        """Runs it.

        Raises:
            Broken: something else happened.
        """
        try:
            for number, step in enumerate(self._steps, 1):
                try:
                    await self._step(dict(step))
                except (OSError, asyncio.TimeoutError, ConnectionClosed, InvalidStatus) as error:
                    raise Broken(f"step {number}, {json.dumps(step)}:\n{error!r}") from error
                except Broken as broken:
                    raise Broken(f"step {number}, {json.dumps(step)}:\n{broken}") from None
        finally:
            for session in self._sessions.values():
                await session.close()

    async def _step(self, step: dict[str, Json]) -> None:
        verb, name = next(iter(step.items()))
        del step[verb]
        if verb == "wait":
            await asyncio.sleep(name)
        elif verb == "order":
            await self._target.order(name, step.get("tenant", ""))
        elif verb == "token":
            self._names[name] = self._token(name, step.get("claims", {}))
        elif verb == "connect":
            socket = await self._dial(name, step)
            session = self._sessions[name] = _Session(socket)
            welcome = {"op": "WELCOME", "welcome": step.get("welcome", {})}
            self._frame(await session.next(), welcome)
        elif verb == "refused":
            await self._refused(name, step)
        elif verb == "http":
            await self._http(name, step)
        elif verb == "send":
            frame = json_format.ParseDict(_to_proto(self._filled(step)), pb.Envelope())
            await self._sessions[name].socket.send(frame.SerializeToString())
        elif verb == "text":
            await self._sessions[name].socket.send(self._filled(step["data"]))
        elif verb == "bytes":
            await self._sessions[name].socket.send(bytes.fromhex(self._filled(step["hex"])))
        elif verb == "expect":
            await self._expect(self._sessions[name], step)
        elif verb == "skip":
            await self._skip(self._sessions[name], step["op"], step["until"])
        elif verb == "quiet":
            await self._sessions[name].quiet(step.get("seconds", QUIET))
        elif verb == "deafen":
            transport = self._sessions[name].socket.transport
            transport.pause_reading()
            await asyncio.sleep(step["seconds"])
            transport.resume_reading()
        elif verb == "close":
            await self._sessions[name].close()
        elif verb == "closed":
            await self._sessions[name].closed(step["close"], step.get("reason"))
        else:
            raise ValueError(f"there is no step {verb!r}")

    # -- opening

    def _token(self, name: str, claims: Mapping[str, Json]) -> str:
        told: dict[str, Json] = {
            "sub": name,
            "tenant": "acme",
            "iat": int(time.time()),
            "exp": int(time.time()) + 3600,
            **{key: _moment(value) for key, value in claims.items()},
        }
        trusted, algorithm = told.pop("trusted", True), told.pop("alg", "RS256")
        return self._target.token(told, algorithm=str(algorithm), trusted=bool(trusted))

    async def _dial(self, name: str, step: Mapping[str, Json]) -> ClientConnection:
        claims = dict(step.get("claims", {}))
        bearer = self._filled(claims["bearer"]) if "bearer" in claims else self._token(name, claims)
        offered = [Subprotocol(each) for each in step.get("subprotocols", ["arqon.v1"])]
        headers: list[tuple[str, str]] = []
        if step.get("by") == "subprotocol":
            offered.append(Subprotocol(f"arqon.bearer.{bearer}"))
        elif bearer is not None:
            headers += [("Authorization", f"{step.get('scheme', 'Bearer')} {bearer}")]
        headers += [(key, value) for key, value in step.get("request", {}).items()]
        return await connect(
            self._target.url.replace("/v1/socket", step.get("path", "/v1/socket")),
            additional_headers=headers,
            subprotocols=offered or None,
            compression=None,
            proxy=None,
            ping_interval=None,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            max_queue=None,
        )

    async def _refused(self, name: str, step: Mapping[str, Json]) -> None:
        try:
            socket = await self._dial(name, step)
        except InvalidStatus as error:
            answer = error.response
        else:
            await socket.close()
            raise Broken("it was not refused")
        self._answer(
            answer.status_code, dict(answer.headers.raw_items()), bytes(answer.body or b""), step
        )

    async def _http(self, method: str, step: Mapping[str, Json]) -> None:
        def ask() -> tuple[int, dict[str, str], bytes]:
            address = self._target.url.removeprefix("ws://").partition("/")[0]
            connection = http.client.HTTPConnection(address, timeout=PATIENCE)
            try:
                path = step.get("path", "/v1/socket")
                connection.request(method, path, headers=step.get("request", {}))
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        self._answer(*await asyncio.to_thread(ask), step)

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, step: Mapping[str, Json]
    ) -> None:
        if status != step["status"]:
            raise Broken(f"HTTP {status}: {body!r}")
        told = {name.lower(): value for name, value in headers.items()}
        if "code" in step:
            content = json.loads(body or b"null")
            if set(content) != {"code", "name", "message"} or content["name"] != step["code"]:
                raise Broken(f"the body is {content}")
            if told.get("content-type") != "application/json":
                raise Broken(f"the headers are {headers}")
        for name, value in step.get("headers", {}).items():
            self._compare(told.get(name.lower()), value, f"{name}.")

    # -- comparing

    async def _expect(self, session: _Session, step: dict[str, Json]) -> None:
        if "in_any_order" not in step:
            self._frame(await session.next(), step)
            return
        left: list[Json] = list(step["in_any_order"])
        while left:
            frame = await session.next()
            for wanted in left:
                try:
                    self._frame(frame, wanted)
                except Broken:
                    continue
                left.remove(wanted)
                break
            else:
                raise Broken(f"came: {json.dumps(frame)}\nstill expected: {json.dumps(left)}")

    async def _skip(self, session: _Session, op: str, until: Mapping[str, Json]) -> None:
        while True:
            frame = await session.next()
            self._frame(frame, {"op": op, "room": "<any>"})
            with contextlib.suppress(Broken):
                self._frame(frame, {"room": "<any>", **until})
                return

    def _frame(self, found: Json, wanted: Mapping[str, Json]) -> None:
        try:
            self._compare(found, {"room": "", "ref": "0", **wanted})
        except Broken as broken:
            raise Broken(f"{broken}\nin {json.dumps(found)}") from None

    def _compare(self, found: Json, wanted: Json, path: str = "") -> None:
        if isinstance(wanted, dict):
            if not isinstance(found, dict):
                raise Broken(f"{path or 'it'} is {found!r}, expected {wanted!r}")
            for key, value in wanted.items():
                if value == "<absent>":
                    if key in found:
                        raise Broken(f"{path}{key} is there: {found[key]!r}")
                elif key not in found:
                    raise Broken(f"{path}{key} is not there")
                else:
                    self._compare(found[key], value, f"{path}{key}.")
        elif isinstance(wanted, list):
            if not isinstance(found, list) or len(found) != len(wanted):
                raise Broken(f"{path} is {found!r}, expected {wanted!r}")
            for index, value in enumerate(wanted):
                self._compare(found[index], value, f"{path}{index}.")
        elif isinstance(wanted, str) and wanted.startswith("<"):
            self._compare_kind(found, wanted, path)
        elif found != self._filled(wanted):
            raise Broken(f"{path.rstrip('.')} is {found!r}, expected {self._filled(wanted)!r}")

    def _compare_kind(self, found: Json, kind: str, path: str) -> None:
        if kind.startswith("<as "):
            self._names[kind[4:-1]] = str(found)
        elif not _KINDS[kind](found):
            raise Broken(f"{path.rstrip('.')} is {found!r}, expected {kind}")

    def _filled(self, value: Json) -> Json:
        if isinstance(value, dict):
            return {self._filled(key): self._filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if isinstance(value, str):
            return re.sub(r"\$\{([a-z0-9_]+)(?::(\d+))?\}", self._name, value)
        return value

    def _name(self, match: re.Match[str]) -> str:
        name, count = match[1], int(match[2] or 0)
        if name == "bytes":
            return base64.b64encode(bytes(count)).decode()
        return "c" * count if name == "chars" else self._names[name]


class _Session:
    """One WebSocket, and what came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._frames: deque[Json] = deque()
        self._came = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())
        self._pings = 9_000_000

    async def _read(self) -> None:
        try:
            async for data in self.socket:
                assert isinstance(data, bytes), "a text frame came"
                self._frames.append(_from_proto(pb.Envelope.FromString(data)))
                self._came.set()
        except ConnectionClosed:
            pass
        finally:
            self._came.set()

    async def next(self) -> Json:
        async def wait() -> None:
            while not self._frames and not self._reader.done():
                self._came.clear()
                await self._came.wait()

        try:
            await asyncio.wait_for(wait(), PATIENCE)
        except asyncio.TimeoutError:
            raise Broken(f"no frame came within {PATIENCE:g} s") from None
        if not self._frames:
            raise Broken(f"no frame came; closed with {self.socket.close_code}")
        return self._frames.popleft()

    async def quiet(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._pings += 1
        ping = pb.Envelope(op=pb.OPCODE_PING, ref=self._pings)
        await self.socket.send(ping.SerializeToString())
        frame = await self.next()
        if frame["op"] != "PONG" or frame["ref"] != str(self._pings):
            raise Broken(f"came: {json.dumps(frame)}")

    async def closed(self, code: int, reason: str | None) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(self._reader), PATIENCE)
        except asyncio.TimeoutError:
            raise Broken(f"it was not closed within {PATIENCE:g} s") from None
        if self._frames:
            raise Broken(f"came before: {json.dumps(list(self._frames))}")
        told = self.socket.close_code, self.socket.close_reason
        if told[0] != code or reason not in (None, told[1]):
            raise Broken(f"closed with {told}")

    async def close(self) -> None:
        await self.socket.close()
        await asyncio.wait([self._reader])


def _to_proto(frame: Mapping[str, Json]) -> dict[str, Json]:
    told = dict(frame)
    if isinstance(told.get("op"), str):
        told["op"] = f"OPCODE_{told['op']}"
    if "text" in told:
        told["payload"] = base64.b64encode(told.pop("text").encode()).decode()
    return told


def _from_proto(envelope: pb.Envelope) -> Json:
    told = json_format.MessageToDict(
        envelope, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    told["op"] = str(told["op"]).removeprefix("OPCODE_")
    with contextlib.suppress(UnicodeDecodeError):
        told["text"] = envelope.payload.decode()
    return told


def _moment(value: Json) -> Json:
    match = re.fullmatch(r"<now([+-]\d+)>", value) if isinstance(value, str) else None
    return int(time.time()) + int(match[1]) if match else value


def _is_uuid7(value: Json) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(_UUID7, value))


def _is_timestamp(value: Json) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(value)))


_UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_KINDS: Mapping[str, Callable[[Json], bool]] = {
    "<any>": lambda value: value is not None,
    "<uuid7>": _is_uuid7,
    "<timestamp>": _is_timestamp,
    # An hour: clocks are not what is tested.
    "<now_ms>": lambda value: abs(int(value) - time.time() * 1000) < 3_600_000,
}
