from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Opcode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPCODE_UNSPECIFIED: _ClassVar[Opcode]
    OPCODE_JOIN: _ClassVar[Opcode]
    OPCODE_LEAVE: _ClassVar[Opcode]
    OPCODE_PUBLISH: _ClassVar[Opcode]
    OPCODE_PRESENCE_GET: _ClassVar[Opcode]
    OPCODE_PRESENCE_SET: _ClassVar[Opcode]
    OPCODE_REFRESH: _ClassVar[Opcode]
    OPCODE_PING: _ClassVar[Opcode]
    OPCODE_WELCOME: _ClassVar[Opcode]
    OPCODE_JOINED: _ClassVar[Opcode]
    OPCODE_LEFT: _ClassVar[Opcode]
    OPCODE_ACK: _ClassVar[Opcode]
    OPCODE_ERROR: _ClassVar[Opcode]
    OPCODE_MESSAGE: _ClassVar[Opcode]
    OPCODE_GAP: _ClassVar[Opcode]
    OPCODE_PRESENCE_STATE: _ClassVar[Opcode]
    OPCODE_PRESENCE_UPDATE: _ClassVar[Opcode]
    OPCODE_PRESENCE_LEAVE: _ClassVar[Opcode]
    OPCODE_PRESENCE_COUNT: _ClassVar[Opcode]
    OPCODE_TOKEN_EXPIRING: _ClassVar[Opcode]
    OPCODE_REFRESHED: _ClassVar[Opcode]
    OPCODE_GOAWAY: _ClassVar[Opcode]
    OPCODE_PONG: _ClassVar[Opcode]

class PresenceMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRESENCE_MODE_UNSPECIFIED: _ClassVar[PresenceMode]
    PRESENCE_MODE_NONE: _ClassVar[PresenceMode]
    PRESENCE_MODE_COUNT: _ClassVar[PresenceMode]
    PRESENCE_MODE_FULL: _ClassVar[PresenceMode]
    PRESENCE_MODE_WATCH: _ClassVar[PresenceMode]

class GapReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAP_REASON_UNSPECIFIED: _ClassVar[GapReason]
    GAP_REASON_SPINE_RECONNECTED: _ClassVar[GapReason]
    GAP_REASON_SEQUENCE: _ClassVar[GapReason]
    GAP_REASON_SLOW_READER: _ClassVar[GapReason]
    GAP_REASON_SHIELD_OVERLOADED: _ClassVar[GapReason]
    GAP_REASON_LATEST_ONLY: _ClassVar[GapReason]
OPCODE_UNSPECIFIED: Opcode
OPCODE_JOIN: Opcode
OPCODE_LEAVE: Opcode
OPCODE_PUBLISH: Opcode
OPCODE_PRESENCE_GET: Opcode
OPCODE_PRESENCE_SET: Opcode
OPCODE_REFRESH: Opcode
OPCODE_PING: Opcode
OPCODE_WELCOME: Opcode
OPCODE_JOINED: Opcode
OPCODE_LEFT: Opcode
OPCODE_ACK: Opcode
OPCODE_ERROR: Opcode
OPCODE_MESSAGE: Opcode
OPCODE_GAP: Opcode
OPCODE_PRESENCE_STATE: Opcode
OPCODE_PRESENCE_UPDATE: Opcode
OPCODE_PRESENCE_LEAVE: Opcode
OPCODE_PRESENCE_COUNT: Opcode
OPCODE_TOKEN_EXPIRING: Opcode
OPCODE_REFRESHED: Opcode
OPCODE_GOAWAY: Opcode
OPCODE_PONG: Opcode
PRESENCE_MODE_UNSPECIFIED: PresenceMode
PRESENCE_MODE_NONE: PresenceMode
PRESENCE_MODE_COUNT: PresenceMode
PRESENCE_MODE_FULL: PresenceMode
PRESENCE_MODE_WATCH: PresenceMode
GAP_REASON_UNSPECIFIED: GapReason
GAP_REASON_SPINE_RECONNECTED: GapReason
GAP_REASON_SEQUENCE: GapReason
GAP_REASON_SLOW_READER: GapReason
GAP_REASON_SHIELD_OVERLOADED: GapReason
GAP_REASON_LATEST_ONLY: GapReason

class Envelope(_message.Message):
    __slots__ = ("op", "room", "ref", "headers", "payload", "join", "publish", "presence_get", "presence_set", "refresh", "welcome", "joined", "left", "ack", "error", "message", "gap", "presence_state", "presence_update", "presence_leave", "presence_count", "token_expiring", "refreshed", "goaway")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OP_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_GET_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_SET_FIELD_NUMBER: _ClassVar[int]
    REFRESH_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_STATE_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_UPDATE_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_LEAVE_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRING_FIELD_NUMBER: _ClassVar[int]
    REFRESHED_FIELD_NUMBER: _ClassVar[int]
    GOAWAY_FIELD_NUMBER: _ClassVar[int]
    op: Opcode
    room: str
    ref: int
    headers: _containers.ScalarMap[str, str]
    payload: bytes
    join: Join
    publish: Publish
    presence_get: PresenceGet
    presence_set: PresenceSet
    refresh: Refresh
    welcome: Welcome
    joined: Joined
    left: Left
    ack: Ack
    error: Error
    message: Message
    gap: Gap
    presence_state: PresenceState
    presence_update: PresenceUpdate
    presence_leave: PresenceLeave
    presence_count: PresenceCount
    token_expiring: TokenExpiring
    refreshed: Refreshed
    goaway: Goaway
    def __init__(self, op: _Optional[_Union[Opcode, str]] = ..., room: _Optional[str] = ..., ref: _Optional[int] = ..., headers: _Optional[_Mapping[str, str]] = ..., payload: _Optional[bytes] = ..., join: _Optional[_Union[Join, _Mapping]] = ..., publish: _Optional[_Union[Publish, _Mapping]] = ..., presence_get: _Optional[_Union[PresenceGet, _Mapping]] = ..., presence_set: _Optional[_Union[PresenceSet, _Mapping]] = ..., refresh: _Optional[_Union[Refresh, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., joined: _Optional[_Union[Joined, _Mapping]] = ..., left: _Optional[_Union[Left, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., presence_state: _Optional[_Union[PresenceState, _Mapping]] = ..., presence_update: _Optional[_Union[PresenceUpdate, _Mapping]] = ..., presence_leave: _Optional[_Union[PresenceLeave, _Mapping]] = ..., presence_count: _Optional[_Union[PresenceCount, _Mapping]] = ..., token_expiring: _Optional[_Union[TokenExpiring, _Mapping]] = ..., refreshed: _Optional[_Union[Refreshed, _Mapping]] = ..., goaway: _Optional[_Union[Goaway, _Mapping]] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("echo", "presence", "meta")
    class MetaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ECHO_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    echo: bool
    presence: PresenceMode
    meta: _containers.ScalarMap[str, str]
    def __init__(self, echo: bool = ..., presence: _Optional[_Union[PresenceMode, str]] = ..., meta: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Publish(_message.Message):
    __slots__ = ("ack",)
    ACK_FIELD_NUMBER: _ClassVar[int]
    ack: bool
    def __init__(self, ack: bool = ...) -> None: ...

class PresenceGet(_message.Message):
    __slots__ = ("count_only",)
    COUNT_ONLY_FIELD_NUMBER: _ClassVar[int]
    count_only: bool
    def __init__(self, count_only: bool = ...) -> None: ...

class PresenceSet(_message.Message):
    __slots__ = ("meta",)
    class MetaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    META_FIELD_NUMBER: _ClassVar[int]
    meta: _containers.ScalarMap[str, str]
    def __init__(self, meta: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Refresh(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "user", "tenant", "protocol_version", "limits", "heartbeat_secs", "server_time_ms", "token_expires_at", "features", "shield_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SHIELD_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    user: str
    tenant: str
    protocol_version: int
    limits: Limits
    heartbeat_secs: int
    server_time_ms: int
    token_expires_at: int
    features: _containers.RepeatedScalarFieldContainer[str]
    shield_id: str
    def __init__(self, session_id: _Optional[str] = ..., user: _Optional[str] = ..., tenant: _Optional[str] = ..., protocol_version: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., heartbeat_secs: _Optional[int] = ..., server_time_ms: _Optional[int] = ..., token_expires_at: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., shield_id: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_payload_bytes", "max_frame_bytes", "max_rooms", "max_headers", "max_header_bytes")
    MAX_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ROOMS_FIELD_NUMBER: _ClassVar[int]
    MAX_HEADERS_FIELD_NUMBER: _ClassVar[int]
    MAX_HEADER_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_payload_bytes: int
    max_frame_bytes: int
    max_rooms: int
    max_headers: int
    max_header_bytes: int
    def __init__(self, max_payload_bytes: _Optional[int] = ..., max_frame_bytes: _Optional[int] = ..., max_rooms: _Optional[int] = ..., max_headers: _Optional[int] = ..., max_header_bytes: _Optional[int] = ...) -> None: ...

class Joined(_message.Message):
    __slots__ = ("echo", "presence")
    ECHO_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    echo: bool
    presence: PresenceMode
    def __init__(self, echo: bool = ..., presence: _Optional[_Union[PresenceMode, str]] = ...) -> None: ...

class Left(_message.Message):
    __slots__ = ("code", "name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    code: int
    name: str
    def __init__(self, code: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("twist_id",)
    TWIST_ID_FIELD_NUMBER: _ClassVar[int]
    twist_id: str
    def __init__(self, twist_id: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "name", "message", "retryable", "retry_after_ms", "policy", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    name: str
    message: str
    retryable: bool
    retry_after_ms: int
    policy: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., name: _Optional[str] = ..., message: _Optional[str] = ..., retryable: bool = ..., retry_after_ms: _Optional[int] = ..., policy: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Sender(_message.Message):
    __slots__ = ("user", "session")
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    user: str
    session: str
    def __init__(self, user: _Optional[str] = ..., session: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("sender",)
    SENDER_FIELD_NUMBER: _ClassVar[int]
    sender: Sender
    def __init__(self, sender: _Optional[_Union[Sender, _Mapping]] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("reason", "missed")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    reason: GapReason
    missed: int
    def __init__(self, reason: _Optional[_Union[GapReason, str]] = ..., missed: _Optional[int] = ...) -> None: ...

class PresenceMeta(_message.Message):
    __slots__ = ("session", "meta", "joined_at_ms", "last_active_at_ms")
    class MetaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    JOINED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIVE_AT_MS_FIELD_NUMBER: _ClassVar[int]
    session: str
    meta: _containers.ScalarMap[str, str]
    joined_at_ms: int
    last_active_at_ms: int
    def __init__(self, session: _Optional[str] = ..., meta: _Optional[_Mapping[str, str]] = ..., joined_at_ms: _Optional[int] = ..., last_active_at_ms: _Optional[int] = ...) -> None: ...

class PresenceMember(_message.Message):
    __slots__ = ("user", "sessions", "session_count")
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    user: str
    sessions: _containers.RepeatedCompositeFieldContainer[PresenceMeta]
    session_count: int
    def __init__(self, user: _Optional[str] = ..., sessions: _Optional[_Iterable[_Union[PresenceMeta, _Mapping]]] = ..., session_count: _Optional[int] = ...) -> None: ...

class PresenceState(_message.Message):
    __slots__ = ("members", "count", "last_page", "truncated")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_PAGE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[PresenceMember]
    count: int
    last_page: bool
    truncated: bool
    def __init__(self, members: _Optional[_Iterable[_Union[PresenceMember, _Mapping]]] = ..., count: _Optional[int] = ..., last_page: bool = ..., truncated: bool = ...) -> None: ...

class PresenceUpdate(_message.Message):
    __slots__ = ("members", "count")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[PresenceMember]
    count: int
    def __init__(self, members: _Optional[_Iterable[_Union[PresenceMember, _Mapping]]] = ..., count: _Optional[int] = ...) -> None: ...

class PresenceLeave(_message.Message):
    __slots__ = ("users", "count")
    USERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedScalarFieldContainer[str]
    count: int
    def __init__(self, users: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ...) -> None: ...

class PresenceCount(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class TokenExpiring(_message.Message):
    __slots__ = ("expires_at",)
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    expires_at: int
    def __init__(self, expires_at: _Optional[int] = ...) -> None: ...

class Refreshed(_message.Message):
    __slots__ = ("expires_at",)
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    expires_at: int
    def __init__(self, expires_at: _Optional[int] = ...) -> None: ...

class Goaway(_message.Message):
    __slots__ = ("retry_after_ms", "spread_ms", "deadline_ms")
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    retry_after_ms: int
    spread_ms: int
    deadline_ms: int
    def __init__(self, retry_after_ms: _Optional[int] = ..., spread_ms: _Optional[int] = ..., deadline_ms: _Optional[int] = ...) -> None: ...
