"""The inside of the gateway for tests, without a socket and with a clock of the test's own."""

from __future__ import annotations

import base64
import contextlib
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqon import _wire
from arqon._proto import envelope_pb2 as pb
from arqon.errors import RoomNameInvalid, ServerGarbage
from arqon.testing import Settings, _claims
from arqon.testing._claims import Identity, Refused, judge
from arqon.testing._frames import Fault, decode_client
from arqon.testing._hub import Hub
from arqon.testing._names import covers, is_pattern, is_room, is_tenant, is_user

NOW = 1_800_000_000.0


@dataclass(order=True)
class Timer:
    at: float
    number: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self._number = 0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self._number += 1
        timer = Timer(self.now + delay, self._number, callback)
        heapq.heappush(self.timers, timer)
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.timers and self.timers[0].at <= until:
            timer = heapq.heappop(self.timers)
            self.now = max(self.now, timer.at)
            if not timer.cancelled:
                timer.callback()
        self.now = until


class Client:
    """A session, and what it was sent."""

    def __init__(self, hub: Hub, user: str, ttl: int = 3600, tenant: str = "test") -> None:
        self.frames: list[pb.Envelope] = []
        self.closed: tuple[int, str] | None = None
        now = int(hub.clock.wall())
        identity = Identity(user, tenant, "user", None, None, now, now + ttl)
        self.session = hub.open(identity, self._write, self._close)
        assert self.take()[0].op == pb.OPCODE_WELCOME

    def _write(self, data: bytes) -> None:
        assert self.closed is None, "nothing follows a close"
        self.frames.append(_wire.decode(data))

    def _close(self, code: int, reason: str) -> None:
        assert self.closed is None
        self.closed = code, reason

    def ask(self, envelope: pb.Envelope) -> list[pb.Envelope]:
        self.session.on_binary(envelope.SerializeToString())
        return self.take()

    def take(self) -> list[pb.Envelope]:
        frames, self.frames = self.frames, []
        return frames

    def join(self, room: str, mode: pb.PresenceMode = pb.PRESENCE_MODE_NONE) -> list[pb.Envelope]:
        body = pb.Join(presence=mode)
        return self.ask(pb.Envelope(op=pb.OPCODE_JOIN, room=room, ref=1, join=body))


def hub(**settings: object) -> tuple[Hub, Clock]:
    clock = Clock()
    return Hub(Settings(**settings), clock, lambda: None), clock  # type: ignore[arg-type]


def ops(frames: list[pb.Envelope]) -> list[str]:
    return [pb.Opcode.Name(frame.op).removeprefix("OPCODE_") for frame in frames]


# ---- time


def test_the_end_of_a_token_is_told_and_kept() -> None:
    for ttl, warned in ((3600, 3570), (90, 60), (30, 20), (3, 2)):
        inside, clock = hub(grace=5.0)
        ada = Client(inside, "ada", ttl)
        clock.advance(warned - 0.01)
        assert not ada.frames
        clock.advance(0.02)
        assert ops(ada.take()) == ["TOKEN_EXPIRING"]
        clock.advance(ttl + 5 - warned - 0.1)
        assert ada.closed is None
        clock.advance(0.2)
        assert ada.closed == (4005, "TOKEN_EXPIRED_CLOSE")
        assert not inside.sessions
        assert all(timer.cancelled for timer in clock.timers)


def test_offences_are_forgiven_after_a_minute() -> None:
    inside, clock = hub(max_offences=3)
    ada = Client(inside, "ada")
    for _ in range(10):
        for _ in range(3):
            ada.session.on_text()
        clock.advance(60)
    assert ada.closed is None
    for _ in range(4):
        ada.session.on_text()
    assert ada.closed == (4502, "TOO_MANY_OFFENCES")
    assert ops(ada.take())[-1] == "ERROR"
    ada.session.on_text()
    assert ada.ask(pb.Envelope(op=pb.OPCODE_PING)) == [], "nothing is heard after a close"


def test_presence_is_gathered_and_a_leave_waits() -> None:
    inside, clock = hub(presence_tick=0.1, leave_delay=1.0)
    eve, ada, ben = (Client(inside, user) for user in ("eve", "ada", "ben"))
    assert ops(eve.join("r", pb.PRESENCE_MODE_WATCH)) == ["JOINED", "PRESENCE_STATE"]
    ada.join("r", pb.PRESENCE_MODE_COUNT)
    ben.join("r", pb.PRESENCE_MODE_COUNT)
    assert not eve.frames
    clock.advance(0.1)
    [update] = eve.take()
    assert [member.user for member in update.presence_update.members] == ["ada", "ben"]
    assert update.presence_update.count == 2
    ada.session.end()
    clock.advance(1.0)
    assert not eve.frames, "the leave is not told yet"
    clock.advance(0.2)
    [leave] = eve.take()
    assert (list(leave.presence_leave.users), leave.presence_leave.count) == (["ada"], 1)
    ben.session.end()
    clock.advance(0.5)
    again = Client(inside, "ben")
    again.join("r", pb.PRESENCE_MODE_COUNT)
    clock.advance(5)
    assert ops(eve.take()) == ["PRESENCE_UPDATE"], "who is back in time was never gone"


def test_activity_is_told_with_the_next_change() -> None:
    inside, clock = hub()
    ada = Client(inside, "ada")
    ada.join("r", pb.PRESENCE_MODE_FULL)
    clock.advance(20)
    ada.ask(pb.Envelope(op=pb.OPCODE_PUBLISH, room="r"))
    ada.take()
    [state] = ada.ask(pb.Envelope(op=pb.OPCODE_PRESENCE_GET, room="r", ref=2))
    [member] = state.presence_state.members
    assert member.sessions[0].joined_at_ms == NOW * 1000
    assert member.sessions[0].last_active_at_ms == (NOW + 20) * 1000


def test_of_many_sessions_of_a_user_the_newest_are_listed() -> None:
    inside, _ = hub(sessions_listed=2)
    clients = [Client(inside, "ada") for _ in range(4)]
    for client in clients:
        client.join("r", pb.PRESENCE_MODE_COUNT)
    [state] = clients[0].ask(pb.Envelope(op=pb.OPCODE_PRESENCE_GET, room="r"))[-1:]
    [member] = state.presence_state.members
    assert member.session_count == 4
    ids = sorted(client.session.id for client in clients)
    assert [each.session for each in member.sessions] == [ids[3], ids[2]]


def test_nothing_is_kept_of_rooms_that_nobody_is_in() -> None:
    inside, clock = hub()
    for number in range(50):
        ada = Client(inside, "ada")
        ada.join(f"r{number}", pb.PRESENCE_MODE_FULL)
        ada.session.end()
        clock.advance(60)
    assert not inside.sessions
    assert not inside._members
    assert len(inside._presences) <= 1


# ---- whatever comes


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_fault(data: bytes) -> None:
    with contextlib.suppress(Fault):
        assert decode_client(data).op in range(1, 8)
    with contextlib.suppress(ServerGarbage, _wire.UnknownFrame):
        assert _wire.decode(data).op in range(64, 128)


texts = st.text(max_size=30)
rooms = st.one_of(texts, st.sampled_from(["a", "a.b", "_a", "r", "r", "r"]))
envelopes = st.builds(
    pb.Envelope,
    op=st.sampled_from(range(9)),
    room=st.one_of(st.just(""), rooms),
    ref=st.integers(1, 2**64 - 1),
    headers=st.dictionaries(texts, texts, max_size=2),
    payload=st.one_of(st.just(b""), st.binary(max_size=40)),
)
bodies = st.one_of(
    st.none(),
    st.builds(pb.Join, echo=st.booleans(), presence=st.sampled_from(range(6))),
    st.builds(pb.Publish, ack=st.booleans()),
    st.builds(pb.PresenceGet, count_only=st.booleans()),
    st.builds(pb.PresenceSet, meta=st.dictionaries(texts, texts, max_size=2)),
    st.builds(pb.Refresh, token=texts),
)
FIELDS: dict[str, str] = {
    "Join": "join",
    "Publish": "publish",
    "PresenceGet": "presence_get",
    "PresenceSet": "presence_set",
    "Refresh": "refresh",
}


@given(st.lists(st.tuples(st.integers(0, 1), envelopes, bodies, st.floats(0, 0.2)), max_size=30))
def test_whatever_clients_send_each_request_has_one_answer(
    sent: list[tuple[int, pb.Envelope, object, float]],
) -> None:
    inside, clock = hub(max_offences=10_000, max_rooms=3, presence_tick=0.05, leave_delay=0.1)
    clients = [Client(inside, "ada"), Client(inside, "ben")]
    for which, envelope, body, pause in sent:
        if body is not None:
            getattr(envelope, FIELDS[type(body).__name__]).CopyFrom(body)
        client = clients[which]
        answers = [
            frame for frame in client.ask(envelope) if frame.ref == envelope.ref and frame.ref
        ]
        heads = [name for name in ops(answers) if name not in ("PRESENCE_STATE", "PRESENCE_COUNT")]
        if "ERROR" in heads:
            assert heads == ["ERROR"]
            assert len(answers) == 1
        elif envelope.op == pb.OPCODE_JOIN:
            assert heads == ["JOINED"]
        elif envelope.op == pb.OPCODE_PRESENCE_GET:
            assert len(answers) == 1
        elif envelope.op in (pb.OPCODE_LEAVE, pb.OPCODE_PING):
            assert len(heads) == 1
        elif envelope.op == pb.OPCODE_PUBLISH:
            assert heads == (["ACK"] if envelope.publish.ack else [])
        clock.advance(pause)
    for client in clients:
        assert client.closed is None
        client.session.end("KICKED")
        assert client.closed == (4006, "KICKED")
    assert not inside.sessions
    assert not inside._members
    clock.advance(10)


@given(st.text(max_size=80))
def test_both_sides_have_one_grammar_of_rooms(text: str) -> None:
    try:
        accepted = bool(_wire.check_room(text))
    except RoomNameInvalid:
        accepted = False
    assert is_room(text) == accepted
    if accepted:
        assert is_pattern(text)
        assert covers(text, text)
        assert covers(">", text)
        assert not covers(text, f"{text}.more")


@pytest.mark.parametrize(
    ("pattern", "room", "covered"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("*", "a", True),
        (">", "a.b.c.d", True),
        ("a", "ab", False),
    ],
)
def test_patterns(pattern: str, room: str, covered: bool) -> None:
    assert is_pattern(pattern)
    assert covers(pattern, room) is covered


@pytest.mark.parametrize("text", ["", "a.>.b", "a>", "_a", "a..b", "a.b.c.d.e", "a b", "a.", "ä"])
def test_texts_that_are_no_patterns(text: str) -> None:
    assert not is_pattern(text)


@pytest.mark.parametrize(
    ("text", "tenant", "user"),
    [
        ("acme", True, True),
        ("a", True, True),
        ("a-1", True, True),
        ("Acme", False, True),
        ("-a", False, True),
        ("a-", False, True),
        ("arqon", False, True),
        ("a.b", False, True),
        ("a" * 63, True, True),
        ("a" * 64, False, True),
        ("a" * 129, False, False),
        ("", False, False),
        ("Ünï 用户", False, True),
        (" a", False, False),
        ("a\u200b", False, False),
        ("a\u00a0b", False, False),
        ("a\ufffe", False, False),
        ("\ud800", False, False),
        ("a\n", False, False),
    ],
)
def test_tenants_and_users(text: str, tenant: bool, user: bool) -> None:
    assert is_tenant(text) is tenant
    assert is_user(text) is user


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
GOOD: dict[str, object] = {
    "iss": "i",
    "aud": "arqon",
    "sub": "ada",
    "tenant": "test",
    "iat": int(NOW),
    "exp": int(NOW) + 60,
}


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "nbf", "jti", "role", "rooms"]), json_values, max_size=3
    )
)
def test_any_claims_are_an_identity_or_refused(changes: dict[str, object]) -> None:
    raw = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "RS256"}, GOOD | changes)
    ]
    with contextlib.suppress(Refused):
        identity = judge(f"{raw[0]}.{raw[1]}.c2ln", Settings(), NOW)
        assert is_user(identity.user)
        assert is_tenant(identity.tenant)


@pytest.mark.parametrize("claim", ["sub", "jti", "iss", "tenant", "role"])
def test_half_a_surrogate_pair_is_no_text(claim: str) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"RS256"}').decode().rstrip("=")
    claims = json.dumps(GOOD | {claim: "\ud800"}).encode()
    token = f"{header}.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"
    with pytest.raises(Refused, match="TOKEN_MALFORMED"):
        judge(token, Settings(), NOW)


@given(st.text(max_size=60))
def test_any_text_is_no_token(text: str) -> None:
    with pytest.raises(Refused):
        judge(text, Settings(), NOW)


def test_a_good_token_is_taken() -> None:
    identity = judge(_claims.make(GOOD), Settings(), NOW)
    assert (identity.user, identity.tenant, identity.role) == ("ada", "test", "user")
    assert identity.may_join("any.room")
    assert identity.may_publish("any.room")
