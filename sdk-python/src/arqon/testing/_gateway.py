"""The gateway that a test talks to."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal

from .. import _wire
from .._proto import envelope_pb2 as pb
from . import _checks, _claims, _frames
from ._claims import Identity
from ._faults import Refusal, Request
from ._hub import Hub
from ._names import is_pattern
from ._session import Published, Session
from ._settings import Settings
from ._socket import Listener, LoopClock

GapKind = Literal["spine_reconnected", "sequence", "slow_reader", "shield_overloaded", "unknown"]
Role = Literal["user", "observer", "service", "admin"]

_GAPS: Mapping[GapKind, pb.GapReason] = {
    "spine_reconnected": pb.GAP_REASON_SPINE_RECONNECTED,
    "sequence": pb.GAP_REASON_SEQUENCE,
    "slow_reader": pb.GAP_REASON_SLOW_READER,
    "shield_overloaded": pb.GAP_REASON_SHIELD_OVERLOADED,
    "unknown": pb.GAP_REASON_UNSPECIFIED,
}


#: Seconds between two looks at what no change of the gateway tells.
_LOOK = 0.02


class Gateway:
    """A gateway for tests, in the process and the loop of the test. Made by :func:`gateway`.

    Everything it is told to do happens in the order told, before anything that a client asks for
    later. Its methods belong to the loop that it was started in; only :meth:`token` may be called
    from elsewhere, and those that reach clients raise ``RuntimeError`` there.

    What can never be, as a name of no code, room or user, raises ``ValueError`` or ``TypeError`` at
    once, with the names that there are.

    Example::

        import arqon.testing

        async with arqon.testing.gateway() as gw:
            async with arqon.connect(gw.url, token=gw.token("ada")) as bus:
                room = await bus.join("lobby")
                await room.publish(b"hello", ack=True)
                print(gw.messages[0].payload)  # prints: b'hello'
    """

    def __init__(self, host: str, port: int, tenant: str, settings: Settings) -> None:
        self.settings = settings
        self._host = host
        self._port = port
        self._tenant = tenant
        self._hub = Hub(settings, LoopClock(), self._changed)
        self._listener: Listener | None = None
        self._thread: int | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    # -- life

    async def start(self) -> None:
        """Listens; after :meth:`stop`, on the same port.

        Raises:
            OSError: the port is not to be had.
        """
        if self._listener is None:
            self._listener = await Listener.open(self._hub, self._host, self._port)
            self._port = self._listener.port
            self._thread = threading.get_ident()

    async def stop(self, *, kill: bool = False) -> None:
        """Stops listening and ends every session, within about 4 seconds. What was published
        stays known; sessions, rooms and presence do not.

        Args:
            kill: cut connections as a crash would, instead of closing them with 4001.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._hub.end_all(None if kill else "GOING_AWAY")
        await listener.close(kill=kill)
        self._hub.clear()

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The address to connect to.

        Raises:
            RuntimeError: it was never started.
        """
        if not self._port:
            raise RuntimeError("the gateway was not started: use `async with`")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"ws://{host}:{self._port}/v1/socket"

    def token(
        self,
        user: str,
        *,
        tenant: str | None = None,
        role: Role = "user",
        rooms: Mapping[Literal["join", "publish"], Sequence[str]] | None = None,
        ttl: float = 3600.0,
        trusted: bool = True,
        claims: Mapping[str, object] | None = None,
    ) -> str:
        """A token in the shape of a JWT, without a signature: good for this gateway only.

        Args:
            user: the ``sub``. As with the tenant, a text that is no name makes a token that is
                refused.
            tenant: whose user; ``None``: the gateway's own tenant.
            role: ``user``, ``observer``, ``service`` or ``admin``.
            rooms: patterns of rooms that may be joined and published to; ``None``: all.
            ttl: seconds until it expires, cut to whole ones; negative: it has expired.
            trusted: ``False``: as if signed by a key that nobody trusts.
            claims: further claims, or others, checked by whoever is given the token only; a claim
                that is ``None`` is left out.

        Raises:
            ValueError: there is no such role, or a pattern is none.
            TypeError: user or tenant is no text, or ``rooms`` has no list.
        """
        _checks.text("user", user)
        if tenant is not None:
            _checks.text("tenant", tenant)
        _checks.one_of("role", role, _claims.ROLES)
        if not math.isfinite(ttl):
            raise ValueError(f"ttl must be a number of seconds, not {ttl!r}")
        for what, patterns in (rooms or {}).items():
            _checks.one_of("a key of rooms", what, ("join", "publish"))
            if isinstance(patterns, str):
                raise TypeError(f"rooms must have a list of patterns for {what}, not {patterns!r}")
            for pattern in patterns:
                if not is_pattern(_checks.text("a pattern of rooms", pattern)):
                    raise ValueError(f"{pattern!r} is no pattern of rooms: a.b, a.* or a.>")
        now = int(time.time())
        expires_at = now + math.floor(ttl)
        told: dict[str, object] = {
            "iss": "arqon.testing",
            "aud": self.settings.audience,
            "sub": user,
            "tenant": self._tenant if tenant is None else tenant,
            "iat": min(now, expires_at),
            "exp": expires_at,
            "jti": _wire.uuid7(),
            "role": role,
            "rooms": None if rooms is None else {key: list(value) for key, value in rooms.items()},
            **(claims or {}),
        }
        return _claims.make(told, trusted=trusted)

    # -- what happened

    @property
    def messages(self) -> deque[Published]:
        """What was published and not refused, the oldest first; :attr:`Settings.kept_messages` at
        most. The test may clear it.
        """
        return self._hub.messages

    @property
    def sessions(self) -> list[Session]:
        """The open sessions, the oldest first: ``id``, ``identity`` and ``rooms`` of each."""
        return list(self._hub.sessions.values())

    def members(self, room: str, *, tenant: str | None = None) -> list[str]:
        """The users with a session in a room, sorted, whatever their presence.

        Raises:
            ValueError: there can be no such room or tenant.
        """
        _checks.room(room)
        members = self._hub.members(self._tenant_of(tenant), room)
        return sorted({session.identity.user for session in members})

    async def wait_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Waits until something is so; asked whenever a session, a room or a message changes, and
        every now and then, since the condition may look at the application too.

        Args:
            condition: what shall be so, for instance ``lambda: len(gw.messages) == 2``.
            timeout: seconds.

        Raises:
            TimeoutError: it was not so in time.
            TypeError: the condition is no plain function.
        """
        self._check_thread()
        _checks.seconds("timeout", timeout, most=math.inf)

        def is_so() -> bool:
            answer: object = condition()
            if inspect.isawaitable(answer):
                # Which is true, whatever it would return.
                if inspect.iscoroutine(answer):
                    answer.close()
                raise TypeError("condition must be a plain function, not an async one")
            return bool(answer)

        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not is_so():
            waiter = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait([waiter], timeout=max(0.0, min(_LOOK, deadline - loop.time())))
            finally:
                self._waiters.discard(waiter)
            if loop.time() >= deadline and not is_so():
                raise TimeoutError(f"not so within {timeout:g} s")

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- what a server may do

    def publish(
        self,
        room: str,
        payload: bytes,
        *,
        user: str = "gateway",
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publishes as somebody who has no session here. Each member of the room receives it.

        It is refused as a client's message would be: what :meth:`fail_next` and :meth:`block`
        ordered holds for it, too, and is used up by it.

        Raises:
            ArqonError: it was refused, and nobody received it: the error that a client would get,
                ``PayloadTooLarge`` or ``PolicyBlocked`` for instance.
            ValueError: there can be no such room, user, tenant or headers.
            TypeError: the payload is no bytes.
            RuntimeError: the gateway is not running.
        """
        self._check_thread()
        if self._listener is None:
            raise RuntimeError("the gateway is not running: it was not started, or was stopped")
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
        _checks.room(room)
        _checks.user(user)
        told = dict(headers or {})
        for key, value in told.items():
            _checks.text("the name of a header", key)
            _checks.text(f"the value of header {key}", value)
        if code := _frames.check_headers(told, self.settings):
            raise ValueError(f"the headers {told!r} are refused: {_frames.CODES[code].help}")
        now = int(time.time())
        identity = Identity(user, self._tenant_of(tenant), "service", None, None, now, now)
        answers: list[bytes] = []
        deputy = Session(self._hub, identity, answers.append, lambda code, reason: None)
        message = pb.Envelope(op=pb.OPCODE_PUBLISH, room=room, headers=told, payload=bytes(payload))
        deputy.on_binary(message.SerializeToString())
        # No acknowledgement was asked for, so an answer is an ERROR.
        for answer in answers:
            raise _wire.error_of(pb.Envelope.FromString(answer))

    def gap(
        self,
        room: str,
        *,
        reason: GapKind = "sequence",
        missed: int | None = None,
        tenant: str | None = None,
    ) -> int:
        """Tells everybody in a room that messages may have been missed; how many were told.

        Args:
            room: the room.
            reason: ``spine_reconnected``, ``sequence``, ``slow_reader``, ``shield_overloaded`` or
                ``unknown``.
            missed: how many; ``None``: nobody knows.
            tenant: whose room; ``None``: the gateway's own tenant.

        Raises:
            ValueError: there can be no such room, reason, number or tenant.
        """
        self._check_thread()
        _checks.room(room)
        _checks.one_of("reason", reason, _GAPS)
        if missed is not None:
            _checks.whole("missed", missed, most=2**64 - 1)
        members = self._hub.members(self._tenant_of(tenant), room)
        for session in members:
            body = pb.Gap(reason=_GAPS[reason], missed=missed)
            session.send(pb.Envelope(op=pb.OPCODE_GAP, room=room, gap=body))
        return len(members)

    def goaway(
        self, *, retry_after: float = 0.0, spread: float = 0.0, deadline: float = 30.0
    ) -> int:
        """Asks every session to reconnect; how many were asked.

        Args:
            retry_after: seconds before they may.
            spread: seconds over which they shall.
            deadline: seconds after which those still there are closed with 4001.

        Raises:
            ValueError: a time is below 0, or more than the protocol can tell.
        """
        self._check_thread()
        _checks.seconds("retry_after", retry_after)
        _checks.seconds("spread", spread)
        _checks.seconds("deadline", deadline)
        body = pb.Goaway(
            retry_after_ms=round(retry_after * 1000),
            spread_ms=round(spread * 1000),
            deadline_ms=round(deadline * 1000),
        )
        sessions = self.sessions
        for session in sessions:
            session.send(pb.Envelope(op=pb.OPCODE_GOAWAY, goaway=body))
            session.end_later(deadline, "GOING_AWAY")
        return len(sessions)

    def kick(self, user: str, *, tenant: str | None = None) -> int:
        """Closes the sessions of a user with 4006; how many there were.

        Raises:
            ValueError: there can be no such user or tenant.
        """
        self._check_thread()
        _checks.user(user)
        sessions = self._hub.of(self._tenant_of(tenant), user)
        for session in sessions:
            session.end("KICKED")
        return len(sessions)

    def close_all(self, code: int | str = "GOING_AWAY") -> int:
        """Closes every session with a WebSocket close code, or with the name of one; how many
        there were. Those that send no close frame are cut after 2 seconds.

        Raises:
            ValueError: no server closes with that.
        """
        self._check_thread()
        _checks.close_code(code)
        return self._hub.end_all(code)

    def drop_all(self) -> int:
        """Cuts every connection without a word, as a broken network would; how many there were."""
        self._check_thread()
        return 0 if self._listener is None else self._listener.abort_all()

    def expire_tokens(self) -> int:
        """Tells every session that its token will expire soon; how many were told."""
        self._check_thread()
        for session in self.sessions:
            session.tell_expiring()
        return len(self.sessions)

    def suspend(self, tenant: str | None = None) -> int:
        """Suspends a tenant: its sessions are closed with 4501, and further ones refused with
        ``TENANT_SUSPENDED``. How many were closed.

        Raises:
            ValueError: there can be no such tenant.
        """
        self._check_thread()
        name = self._tenant_of(tenant)
        self._hub.suspended.add(name)
        sessions = self._hub.of(name)
        for session in sessions:
            session.end("TENANT_GONE")
        return len(sessions)

    def resume(self, tenant: str | None = None) -> None:
        """Ends what :meth:`suspend` began.

        Raises:
            ValueError: there can be no such tenant.
        """
        self._hub.suspended.discard(self._tenant_of(tenant))

    def _tenant_of(self, tenant: str | None) -> str:
        name = self._tenant if tenant is None else tenant
        _checks.tenant(name, self.settings.tenants)
        return name

    def _check_thread(self) -> None:
        # A loop that sleeps would not wake for what another thread does.
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError(
                "this gateway runs in another thread: use call_soon_threadsafe of its loop"
            )

    # -- what may go wrong

    def refuse_next(
        self,
        status: int = 503,
        code: str | None = "OVERLOADED",
        retry_after: float | None = None,
        *,
        times: int = 1,
    ) -> None:
        """Refuses the next connections.

        Args:
            status: of the HTTP answer, 200 to 599.
            code: name of the code in its body; ``None``: a page, as of a proxy.
            retry_after: seconds for its ``Retry-After``, rounded up to whole ones.
            times: how many.

        Raises:
            ValueError: there is no such status, code or time.
        """
        _checks.whole("status", status, least=200, most=599)
        if code is not None:
            _checks.error_code(code)
        if retry_after is not None:
            _checks.seconds("retry_after", retry_after)
        _checks.whole("times", times)
        self._hub.faults.refusals.extend([Refusal(status, code, retry_after)] * times)

    def fail_next(self, request: Request, code: str, retry_after: float | None = None) -> None:
        """Refuses the next request of this kind that would succeed, whoever makes it: with
        ``SPINE_UNAVAILABLE``, ``RATE_LIMITED``, ``PRESENCE_UNAVAILABLE`` and the like.

        Args:
            request: ``join``, ``publish``, ``presence_get``, ``presence_set`` or ``refresh``.
            code: name of the code.
            retry_after: seconds.

        Raises:
            ValueError: there is no such request, code or time.
        """
        self._hub.faults.fail(request, code, retry_after)

    def block(
        self,
        what: str | Callable[[Published], bool],
        *,
        code: str = "POLICY_BLOCKED",
        policy: str = "",
        reason: str = "",
    ) -> None:
        """Refuses messages as a policy would.

        Args:
            what: a text in the payload, or a function that says of each message whether.
            code: name of the code.
            policy: the binding that the publisher is told.
            reason: the reason that it is told.

        Raises:
            ValueError: there is no such code.
            TypeError: it is neither a text nor a function.
        """
        self._hub.faults.block(what, code, policy, reason)

    def unblock(self) -> None:
        """Ends all that :meth:`block` began."""
        self._hub.faults.unblock()

    def delay_acks(self, seconds: float) -> None:
        """Acknowledgements come so much later from here on; 0: at once. Of one session,
        :attr:`Settings.max_unconfirmed` are kept back at most.

        Raises:
            ValueError: it is below 0.
        """
        _checks.seconds("seconds", seconds, most=math.inf)
        self._hub.faults.ack_delay = seconds

    def lose_acks(self, count: int = 1) -> None:
        """The next acknowledged publishes are delivered, but answered with ``ACK_UNKNOWN``. The
        real gateway says so after 2 seconds, this one at once.

        Raises:
            ValueError: it is below 0.
        """
        _checks.whole("count", count)
        self._hub.faults.lost_acks = count
