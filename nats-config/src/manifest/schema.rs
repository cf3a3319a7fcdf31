//! Every key of the manifest, declared once: name, kind, default, meaning.
//!
//! Reading, `arq config init`, `arq config docs` and the report of unknown keys
//! all walk this table, so none of them can disagree with another.

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A node or pool name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    Name,
    /// `address:port`, IPv4 or `[IPv6]:port`.
    Address,
    /// A file; relative paths start at the manifest's folder.
    File,
    /// A folder, made if it is missing; relative paths start at the manifest's folder.
    Folder,
    /// A file that holds a secret: it must not be readable by others.
    SecretFile,
    /// A whole number within bounds, both inclusive.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    TextList,
}

/// What stands where the key is absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    /// The key must be given.
    Required,
    /// Nothing: the feature is off.
    Absent,
    /// This TOML value.
    Value(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What stands if it is absent.
    pub default: Default,
    /// Meaning, unit and reason of the default, in whole sentences.
    pub doc: &'static str,
    /// A value for `arq config init`, as TOML.
    pub example: &'static str,
}

/// One section, in the order of the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
}

/// All sections.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "node",
        doc: "Who this node is.",
    },
    Section {
        name: "listen",
        doc: "Where it listens, and how connections are opened.",
    },
    Section {
        name: "tls",
        doc: "TLS of the public listener. Without this section it speaks plain text.",
    },
    Section {
        name: "spine",
        doc: "The NATS servers and this node's credentials there.",
    },
    Section {
        name: "tokens",
        doc: "What tokens of users are accepted.",
    },
    Section {
        name: "session",
        doc: "One WebSocket session and its limits.",
    },
    Section {
        name: "rooms",
        doc: "Rooms on this node.",
    },
    Section {
        name: "quotas",
        doc: "What a tenant may use where its record says nothing (`arq tenant limits`). 0 is no limit. docs/limits.md says how they hold over all Shields.",
    },
    Section {
        name: "presence",
        doc: "Presence as this Shield's sessions take part in it.",
    },
    Section {
        name: "policy",
        doc: "Where policies run on this Shield. docs/policies.md says what they are.",
    },
    Section {
        name: "drain",
        doc: "How the node stops.",
    },
    Section {
        name: "brain",
        doc: "A Brain. A manifest with this section is a Brain's: it has this section, `node.id`, `spine.servers`, `spine.control_creds_file`, `[telemetry]` and `[log]`, and nothing else.",
    },
    Section {
        name: "telemetry",
        doc: "OpenTelemetry: where traces and metrics are sent to by OTLP. Without endpoints nothing is sent, and nothing is recorded for it. docs/observability.md says what there is to see.",
    },
    Section {
        name: "log",
        doc: "What is logged, to standard error.",
    },
];

/// Whose manifest a key belongs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A Shield's.
    Shield,
    /// A Brain's.
    Brain,
}

/// Keys of Shields that Brains have too.
const SHARED: [&str; 5] = [
    "node.id",
    "spine.servers",
    "spine.control_creds_file",
    "log.format",
    "log.level",
];

/// What only Brains have.
const BRAIN_ONLY: [&str; 2] = ["brain.", "telemetry.nats_monitors"];
/// What Brains have beside what is shared. Sampling and labels of tenants are Shields'.
const BRAIN: [&str; 9] = [
    "brain.",
    "telemetry.traces_endpoint",
    "telemetry.traces_protocol",
    "telemetry.metrics_endpoint",
    "telemetry.metrics_protocol",
    "telemetry.metrics_interval_secs",
    "telemetry.headers_file",
    "telemetry.timeout_ms",
    "telemetry.nats_monitors",
];

impl Key {
    /// Whether the key belongs in a manifest of this role.
    #[must_use]
    pub fn is_for(&self, role: Role) -> bool {
        SHARED.contains(&self.path)
            || match role {
                Role::Shield => !BRAIN_ONLY.iter().any(|path| self.path.starts_with(path)),
                Role::Brain => BRAIN.iter().any(|path| self.path.starts_with(path)),
            }
    }
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Default,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        doc,
        example,
    }
}

const fn integer(
    path: &'static str,
    min: u64,
    max: u64,
    default: &'static str,
    doc: &'static str,
) -> Key {
    key(
        path,
        Kind::Integer { min, max },
        Default::Value(default),
        default,
        doc,
    )
}

/// NATS ends a connection that sends more than its account takes, for all its
/// users, so no Shield may read larger frames than accounts are made for.
const ACCOUNT_FRAME_BYTES: u64 = crate::accounts::DEFAULT_MAX_FRAME_BYTES as u64;

/// All keys, section by section.
pub const KEYS: &[Key] = &[
    key(
        "node.id",
        Kind::Name,
        Default::Required,
        "\"shield-1\"",
        "Name of this node, unique in the fleet. It is a token of the node's subjects and must match its CONTROL credentials.",
    ),
    key(
        "node.pool",
        Kind::Name,
        Default::Value("\"default\""),
        "\"default\"",
        "The pool this node serves. Only tenants of this pool are accepted.",
    ),
    key(
        "listen.public",
        Kind::Address,
        Default::Value("\"127.0.0.1:8080\""),
        "\"127.0.0.1:8080\"",
        "Address of /v1/socket, /healthz and /readyz. Port 0 takes a free one.",
    ),
    key(
        "listen.admin",
        Kind::Address,
        Default::Value("\"127.0.0.1:8081\""),
        "\"127.0.0.1:8081\"",
        "Address of /metrics and /status. Keep it off public networks: it has no authentication.",
    ),
    integer(
        "listen.backlog",
        128,
        65_535,
        "1024",
        "Connections the kernel holds before they are accepted. At 128 a storm resends SYNs and waits a second.",
    ),
    integer(
        "listen.max_handshakes",
        1,
        100_000,
        "512",
        "Handshakes (TLS, HTTP, token) under way at once. Eight times as many wait in turn; past those the answer is 503 with Retry-After.",
    ),
    integer(
        "listen.accept_rate",
        1,
        1_000_000,
        "2500",
        "Handshakes begun a second, so that clients that come back all at once leave CPU for those that are here. Who comes faster waits in turn for half of `listen.handshake_timeout_secs` at most; past that the answer is 503 with a Retry-After as long as the line.",
    ),
    integer(
        "listen.accept_burst",
        1,
        1_000_000,
        "1000",
        "Of those, how many may begin at once after a quiet time.",
    ),
    integer(
        "listen.handshake_timeout_secs",
        1,
        60,
        "10",
        "A connection that has not become a session by then is closed.",
    ),
    integer(
        "listen.max_request_header_bytes",
        8_192,
        65_536,
        "16384",
        "Bytes of HTTP request headers that are read before authentication.",
    ),
    key(
        "listen.allowed_origins",
        Kind::TextList,
        Default::Value("[]"),
        "[]",
        "Origin headers accepted from browsers, for instance `https://app.example`. Empty: all. A request without Origin is always accepted.",
    ),
    key(
        "tls.certificate_file",
        Kind::File,
        Default::Absent,
        "\"tls/cert.pem\"",
        "Certificate chain, PEM, the node's own first.",
    ),
    key(
        "tls.key_file",
        Kind::SecretFile,
        Default::Absent,
        "\"tls/key.pem\"",
        "Private key of the certificate, PEM.",
    ),
    key(
        "spine.servers",
        Kind::TextList,
        Default::Value("[\"nats://127.0.0.1:4222\"]"),
        "[\"nats://127.0.0.1:4222\"]",
        "URLs of the NATS servers, `nats://HOST:PORT`, or `tls://HOST:PORT` where they have TLS, tried in any order.",
    ),
    key(
        "spine.control_creds_file",
        Kind::SecretFile,
        Default::Required,
        "\"creds/shield-1.creds\"",
        "Credentials of this node in the CONTROL account, made by `arq spine creds shield <id>`.",
    ),
    key(
        "spine.fleet_key_file",
        Kind::SecretFile,
        Default::Required,
        "\"keys/fleet.nk\"",
        "Seed of the pool's fleet signing key, with which credentials of tenants are minted. Read again when a rotation is ordered.",
    ),
    integer(
        "spine.user_ttl_secs",
        10,
        86_400,
        "3600",
        "Life of minted NATS user credentials. They rotate at 80 % of it, with a tenth of jitter.",
    ),
    integer(
        "spine.idle_close_secs",
        1,
        86_400,
        "60",
        "A tenant's NATS connection without sessions is closed after this long.",
    ),
    integer(
        "spine.ack_timeout_ms",
        100,
        30_000,
        "2000",
        "A publish not confirmed by then gets ACK_UNKNOWN.",
    ),
    integer(
        "spine.pump_capacity",
        256,
        1_048_576,
        "16384",
        "Messages of one room that wait for this node, also while credentials rotate, before they are dropped and a GAP is declared.",
    ),
    key(
        "tokens.audience",
        Kind::Text,
        Default::Value("\"arqon\""),
        "\"arqon\"",
        "The aud claim a token must hold, unless the tenant's issuer names others.",
    ),
    integer(
        "tokens.max_ttl_secs",
        60,
        super::MAX_TOKEN_TTL_SECS,
        "86400",
        "Largest exp minus iat.",
    ),
    integer(
        "tokens.leeway_secs",
        0,
        300,
        "5",
        "Clock difference to the issuer that is tolerated for exp, nbf and iat.",
    ),
    integer(
        "tokens.grace_secs",
        0,
        300,
        "5",
        "An expired session is closed this long after exp.",
    ),
    key(
        "tokens.allow_development",
        Kind::Boolean,
        Default::Value("false"),
        "false",
        "Accept issuers marked as development (`arq dev` makes one). Never in production.",
    ),
    integer(
        "tokens.jwks_refresh_secs",
        10,
        86_400,
        "300",
        "JWKS documents are fetched again at this pace while they are used.",
    ),
    integer(
        "tokens.jwks_min_interval_secs",
        1,
        3_600,
        "10",
        "An unknown kid fetches the document again at most this often.",
    ),
    integer(
        "session.heartbeat_secs",
        1,
        300,
        "25",
        "Pace of server pings. A client silent for two of them is closed.",
    ),
    integer(
        "session.first_frame_timeout_secs",
        1,
        300,
        "10",
        "A session of which no frame came by then, not even the answer to the ping that follows WELCOME, is closed.",
    ),
    key(
        "session.json",
        Kind::Boolean,
        Default::Value("false"),
        "false",
        "Whether clients may speak JSON, by the subprotocol `arqon.v1+json`. It is for people with wscat or a browser's console: it costs a Shield more than the binary form.",
    ),
    integer(
        "session.max_frame_bytes",
        1_024,
        ACCOUNT_FRAME_BYTES,
        "65536",
        "Largest WebSocket frame or message read. A larger one closes with 1009 before it is buffered; text of `arqon.v1+json` may be twice as long, since a payload is a third longer in base64. Every tenant's account in NATS takes the largest value there is plus 16 KiB, so that no message can cut the tenant's connection.",
    ),
    integer(
        "session.max_payload_bytes",
        1,
        ACCOUNT_FRAME_BYTES,
        "61440",
        "Largest payload of PUBLISH.",
    ),
    integer(
        "session.max_rooms",
        1,
        10_000,
        "100",
        "Rooms one session may be in.",
    ),
    integer(
        "session.max_headers",
        0,
        256,
        "32",
        "Application headers on one message.",
    ),
    integer(
        "session.max_header_bytes",
        0,
        crate::accounts::MAX_HEADER_BYTES as u64,
        "4096",
        "Bytes of all header names and values of one message.",
    ),
    integer(
        "session.queue_max_bytes",
        65_536,
        1_073_741_824,
        "1048576",
        "Bytes waiting for one session before the overflow rule applies.",
    ),
    integer(
        "session.queue_max_messages",
        16,
        1_000_000,
        "4096",
        "Frames waiting for one session before the overflow rule applies.",
    ),
    integer(
        "session.tenant_queue_max_bytes",
        1_048_576,
        1_099_511_627_776,
        "268435456",
        "Bytes waiting for all sessions of one tenant on this node, messages only. One queue may grow to what is still free of it, so that readers that keep up find room while fewer queues are stalled than this holds 16 KiB: 16,384 by default, 64 at the least. Past that messages longer than what is free for each queue, the first 4 KiB, find none. A tenant with many sessions needs more.",
    ),
    key(
        "session.overflow",
        Kind::Choice(&["close_and_reconnect", "drop_oldest", "latest_only"]),
        Default::Value("\"close_and_reconnect\""),
        "\"close_and_reconnect\"",
        "What happens to a session that reads too slowly, in rooms for which its tenant says nothing else (`arq tenant overflow`): close it with 4002, drop its oldest messages and tell it by GAP, or keep of each room only the latest message that waits.",
    ),
    integer(
        "session.write_timeout_secs",
        1,
        300,
        "20",
        "A session whose socket takes no byte for this long is closed.",
    ),
    integer(
        "session.farewell_secs",
        2,
        600,
        "90",
        "A session closed as a slow reader is over at once; its socket stays for this long, so that a client which reads again learns why. 2,048 may wait so, 512 of one tenant; the next is cut off at once.",
    ),
    integer(
        "session.send_buffer_bytes",
        4_096,
        8_388_608,
        "131072",
        "SO_SNDBUF of each connection. The kernel otherwise holds megabytes for each stalled reader.",
    ),
    integer(
        "session.max_offences",
        1,
        10_000,
        "20",
        "Protocol errors within a minute after which a session is closed with 4502.",
    ),
    integer(
        "session.max_unconfirmed",
        1,
        100_000,
        "1024",
        "Acknowledged publishes under way per session. At the limit reading pauses.",
    ),
    integer(
        "session.max_sessions",
        1,
        10_000_000,
        "100000",
        "Sessions on this node.",
    ),
    integer(
        "rooms.max_per_tenant",
        1,
        10_000,
        "10000",
        "Rooms of one tenant with members on this node. NATS's own limit of subscriptions lies above it and fails silently.",
    ),
    integer(
        "rooms.linger_secs",
        0,
        3_600,
        "5",
        "A room's subscription is kept this long after the last member left.",
    ),
    integer(
        "rooms.joins_per_sec",
        1,
        1_000_000,
        "5000",
        "JOINs of one tenant a second on this node; as many may come at once. Who comes faster waits in turn for five seconds at most; past that the answer is RATE_LIMITED with a retry_after_ms as long as the line.",
    ),
    integer(
        "rooms.beacon_after_ms",
        100,
        60_000,
        "5000",
        "After this long without a message a room's publisher tells its last sequence number, so that a lost last message is noticed.",
    ),
    integer(
        "quotas.max_connections",
        0,
        10_000_000,
        "0",
        "Sessions of one tenant, over all Shields of the pool. Beyond: SESSION_LIMIT.",
    ),
    integer(
        "quotas.max_rooms",
        0,
        1_000_000,
        "0",
        "Rooms of one tenant with members, over all Shields of the pool. Beyond: ROOM_LIMIT.",
    ),
    integer(
        "quotas.max_members_per_room",
        0,
        10_000_000,
        "0",
        "Members of one room on this node. Beyond: ROOM_FULL.",
    ),
    integer(
        "quotas.messages_per_sec",
        0,
        4_000_000_000,
        "0",
        "PUBLISHes of one tenant a second, over all Shields of the pool; as many may come at once. Beyond: RATE_LIMITED.",
    ),
    integer(
        "quotas.bytes_per_sec",
        0,
        4_000_000_000,
        "0",
        "Bytes of their payloads and headers a second.",
    ),
    integer(
        "quotas.session_messages_per_sec",
        0,
        4_000_000_000,
        "0",
        "PUBLISHes of one session a second; as many may come at once. Beyond: RATE_LIMITED.",
    ),
    integer(
        "quotas.session_bytes_per_sec",
        0,
        4_000_000_000,
        "0",
        "Bytes of their payloads and headers a second.",
    ),
    integer(
        "presence.leave_delay_ms",
        0,
        60_000,
        "1000",
        "PRESENCE_LEAVE is told this long after a user's last session left, and not at all if the user is back by then. 0 tells it at once.",
    ),
    integer(
        "presence.max_meta_bytes",
        0,
        4_096,
        "1024",
        "Bytes of all keys and values of a session's meta in a room. Beyond: META_TOO_LARGE.",
    ),
    integer(
        "presence.flush_ms",
        1,
        1_000,
        "20",
        "Changes of presence are gathered for at most this long before they are sent.",
    ),
    integer(
        "presence.query_timeout_ms",
        100,
        30_000,
        "2000",
        "A question about a room that no Brain has answered by then gets PRESENCE_UNAVAILABLE.",
    ),
    integer(
        "presence.page_members",
        1,
        10_000,
        "100",
        "Members on one page of PRESENCE_STATE.",
    ),
    key(
        "policy.memory",
        Kind::Choice(&["dynamic", "guarded"]),
        Default::Value("\"dynamic\""),
        "\"dynamic\"",
        "How addresses of policies are checked. `dynamic`: by compiled bounds checks, so that no message costs a system call. `guarded`: by guard pages and with Cranelift's protection against Spectre; an address space of 4 GiB for each slot.",
    ),
    integer(
        "policy.slots",
        8,
        4_096,
        "256",
        "Instances of policies alive at once. Idle ones are a cache; the least recently used is dropped for one that is needed.",
    ),
    key(
        "policy.cache_dir",
        Kind::Folder,
        Default::Absent,
        "\"cache/policies\"",
        "Folder for compiled policies, made if it is missing, for this node only. Absent: a private temporary folder, so that each start compiles anew.",
    ),
    integer(
        "policy.tenant_cpu_percent",
        1,
        10_000,
        "10",
        "CPU that policies may use for the messages of one tenant, percent of one core. Beyond: RATE_LIMITED.",
    ),
    integer(
        "policy.compile_timeout_secs",
        1,
        600,
        "20",
        "A policy that is not compiled by then is refused. The compiling process has half of it as CPU time.",
    ),
    integer(
        "drain.timeout_secs",
        1,
        600,
        "30",
        "A drain is cut short after this long.",
    ),
    integer(
        "drain.spread_secs",
        0,
        600,
        "10",
        "Clients are asked to spread their reconnects over this span.",
    ),
    key(
        "brain.creds_file",
        Kind::SecretFile,
        Default::Required,
        "\"creds/brain-1-presence.creds\"",
        "Credentials of this Brain in the BRAIN account, made by `arq spine creds presence <id>`. `spine.control_creds_file` comes from `arq spine creds brain <id>`.",
    ),
    key(
        "brain.listen",
        Kind::Address,
        Default::Value("\"127.0.0.1:8082\""),
        "\"127.0.0.1:8082\"",
        "Address of /healthz, /readyz and /metrics. Keep it off public networks: it has no authentication. Port 0 takes a free one.",
    ),
    integer(
        "brain.shards",
        0,
        256,
        "0",
        "Processes that share the tenants. 0: one for each core.",
    ),
    integer(
        "brain.tick_ms",
        10,
        10_000,
        "100",
        "Changes of a room are told together at this pace.",
    ),
    integer(
        "brain.count_tick_ms",
        100,
        60_000,
        "1000",
        "Rooms over full_limit are told at this pace, by their count only.",
    ),
    integer(
        "brain.full_limit",
        1,
        100_000,
        "500",
        "Users of a room up to which members are told. Above, only the count is: bytes are what a storm costs.",
    ),
    integer(
        "brain.state_max_bytes",
        16_384,
        16_777_216,
        "524288",
        "Bytes of all members of a room above which only the count is told.",
    ),
    integer(
        "brain.sessions_listed",
        1,
        1_000,
        "16",
        "Sessions listed of one user in a room; session_count tells all.",
    ),
    integer(
        "brain.down_after_ms",
        1_500,
        60_000,
        "3000",
        "A Shield silent for this long has its members hidden. Shields report once a second.",
    ),
    integer(
        "brain.forget_after_secs",
        1,
        86_400,
        "60",
        "A Shield silent for this long is forgotten.",
    ),
    integer(
        "brain.digest_secs",
        1,
        3_600,
        "10",
        "Digests of all rooms are told at this pace, so that an event that was lost is noticed.",
    ),
    integer(
        "brain.repairs",
        1,
        64,
        "4",
        "Snapshots fetched from Shields at once.",
    ),
    key(
        "telemetry.traces_endpoint",
        Kind::Text,
        Default::Absent,
        "\"http://127.0.0.1:4317\"",
        "URL that spans are sent to, used as it stands: for `grpc` the receiver's base, for `http` the whole path, such as `http://127.0.0.1:4318/v1/traces`. Absent: no traces.",
    ),
    key(
        "telemetry.traces_protocol",
        Kind::Choice(&["grpc", "http"]),
        Default::Value("\"grpc\""),
        "\"grpc\"",
        "How it is spoken to: gRPC, or Protobuf over HTTP.",
    ),
    key(
        "telemetry.metrics_endpoint",
        Kind::Text,
        Default::Absent,
        "\"http://127.0.0.1:9090/api/v1/otlp/v1/metrics\"",
        "URL that metrics are sent to, used as it stands; the example is Prometheus's own receiver. Absent: none are sent; /metrics is there in any case.",
    ),
    key(
        "telemetry.metrics_protocol",
        Kind::Choice(&["grpc", "http"]),
        Default::Value("\"http\""),
        "\"http\"",
        "How it is spoken to: gRPC, or Protobuf over HTTP, which is what Prometheus takes.",
    ),
    integer(
        "telemetry.metrics_interval_secs",
        1,
        3_600,
        "15",
        "Metrics are sent at this pace.",
    ),
    key(
        "telemetry.headers_file",
        Kind::SecretFile,
        Default::Absent,
        "\"keys/otlp-headers\"",
        "Lines `name: value` that are sent with every export, for receivers that ask who sends.",
    ),
    integer(
        "telemetry.timeout_ms",
        100,
        60_000,
        "5000",
        "An export not taken by then has failed. Its spans are dropped and counted; metrics come again.",
    ),
    integer(
        "telemetry.traces_percent",
        0,
        100,
        "100",
        "Of a hundred connects, joins and publishes, those that are traced. What a client says about sampling is not obeyed. Errors are traced in any case.",
    ),
    integer(
        "telemetry.traces_fan_out",
        1,
        1_000_000,
        "10",
        "Messages of rooms with up to this many members on the publishing Shield are traced at `traces_percent`; in larger rooms at a rate that falls with the members.",
    ),
    integer(
        "telemetry.traces_per_tenant",
        1,
        100_000,
        "10",
        "Traces of one tenant begun in a second on this Shield, at most; a burst may be twice as many.",
    ),
    integer(
        "telemetry.traces_queue",
        64,
        1_048_576,
        "8192",
        "Spans that wait for an export. Beyond, the newest is dropped and counted.",
    ),
    integer(
        "telemetry.top_tenants",
        0,
        1_000,
        "20",
        "Tenants that metrics name: the busiest. All others are told together as `other`.",
    ),
    key(
        "telemetry.nats_monitors",
        Kind::TextList,
        Default::Value("[]"),
        "[\"http://127.0.0.1:8222\"]",
        "Base URLs of the monitoring endpoints of the NATS servers, whose numbers this Brain tells along with its own.",
    ),
    key(
        "log.format",
        Kind::Choice(&["pretty", "json"]),
        Default::Value("\"pretty\""),
        "\"pretty\"",
        "Lines for people, or one JSON object a line.",
    ),
    key(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Default::Value("\"info\""),
        "\"info\"",
        "The least severe level that is written.",
    ),
];
