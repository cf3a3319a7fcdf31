//! The values that metric labels may take. All are bounded: an enum, or a
//! name out of a registry. Never a user, a room or a token.

use std::{borrow::Cow, fmt};

use arqon_proto::names::TenantId;
use prometheus_client::encoding::{
    EncodeLabelKey, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder,
};

/// A label set of one label.
pub trait LabelKey: Sized + 'static {
    /// The label's key.
    const KEY: &'static str;
    /// Its values, where they are few and known. Their series are there from the start:
    /// one that appears with its first event hides that from whoever asks for a rise.
    const FIXED: &'static [Self] = &[];
}

/// A label whose values are known when this is compiled.
pub trait Label: LabelKey {
    /// The label's value.
    fn value(&self) -> &'static str;
}

fn encode(key: &str, value: &str, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
    let mut label_encoder = encoder.encode_label();
    let mut key_encoder = label_encoder.encode_label_key()?;
    EncodeLabelKey::encode(&key, &mut key_encoder)?;
    let mut value_encoder = key_encoder.encode_label_value()?;
    EncodeLabelValue::encode(&value, &mut value_encoder)?;
    value_encoder.finish()
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident($key:literal) { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All values, for the documentation and for resolving handles early.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
        }

        impl LabelKey for $name {
            const KEY: &'static str = $key;
            const FIXED: &'static [Self] = Self::ALL;
        }

        impl Label for $name {
            fn value(&self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                encode($key, self.value(), encoder)
            }
        }
    };
}

macro_rules! registry_label {
    ($(#[$doc:meta])* $name:ident($key:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub &'static str);

        impl LabelKey for $name {
            const KEY: &'static str = $key;
        }

        impl Label for $name {
            fn value(&self) -> &'static str { self.0 }
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                encode($key, self.value(), encoder)
            }
        }
    };
}

registry_label! {
    /// The exact name of an error code of `codes.toml`.
    Code("code")
}
registry_label! {
    /// Why a session ended: the name of a close code of `codes.toml`, or one
    /// of `client`, `connection_lost`, `protocol` and `message_too_big`.
    CloseReason("reason")
}
registry_label! {
    /// The name of an opcode without its `OPCODE_`, lower case.
    Opcode("opcode")
}

registry_label! {
    /// What an event of a room meant to its watchers: `applied`, `known`,
    /// `stale`, `broken` or `unwatched`.
    PresenceVerdict("verdict")
}
registry_label! {
    /// What watchers were told: `state`, `update`, `leave`, `count` or `unavailable`.
    PresenceWord("word")
}

registry_label! {
    /// Why a policy gave no verdict: a class of faults as `arqon-policy` names it.
    PolicyFault("class")
}

label! {
    /// What a policy said.
    PolicyVerdict("verdict") {
        /// It may pass.
        Allow = "allow",
        /// Nobody receives it.
        Block = "block",
        /// It passes, changed.
        Transform = "transform",
    }
}
label! {
    /// Whether a binding runs.
    PolicyState("state") {
        /// It runs.
        Active = "active",
        /// It does not, and blocks.
        Broken = "broken",
    }
}
label! {
    /// Why a MESSAGE was not delivered to one session.
    QueueDrop("reason") {
        /// The oldest message gave way in a full queue.
        DropOldest = "drop_oldest",
        /// A newer one took its place, in a room of which only the latest counts.
        LatestOnly = "latest_only",
        /// The queue was full and the session was closed as a slow reader.
        SlowReader = "slow_reader",
        /// The session ended with the message still queued.
        SessionEnded = "session_ended",
    }
}
label! {
    /// Why a GAP was declared.
    GapReason("reason") {
        /// A sequence of a publishing Shield jumped.
        SequenceJump = "sequence_jump",
        /// A beacon named a sequence that never arrived.
        Beacon = "beacon",
        /// The connection to the Spine was lost and made again.
        SpineReconnected = "spine_reconnected",
        /// A bounded buffer ran over inside this Shield.
        Overflow = "overflow",
        /// The session's own queue dropped messages.
        SlowReader = "slow_reader",
        /// Newer messages took the place of older ones, as the room's rule says.
        LatestOnly = "latest_only",
    }
}
label! {
    /// How an operation on the Spine or on an issuer's keys ended.
    Outcome("outcome") {
        /// As wished.
        Ok = "ok",
        /// It failed.
        Failed = "failed",
        /// No answer in time.
        TimedOut = "timed_out",
    }
}
label! {
    /// How a wanted acknowledgement ended.
    AckOutcome("outcome") {
        /// ACK was sent after a server round trip.
        Acked = "acked",
        /// ERROR ACK_UNKNOWN was sent.
        Unknown = "unknown",
    }
}
label! {
    /// Why a TCP connection was turned away before HTTP.
    ConnectionRefusal("reason") {
        /// Too many handshakes were under way.
        Overloaded = "overloaded",
        /// Its turn at `listen.accept_rate` would have come too late.
        Paced = "paced",
        /// For either reason, and without a word: too many others were being told.
        Untold = "untold",
        /// The handshake took too long.
        TimedOut = "timed_out",
        /// It never said a byte: a scanner, or a browser that connects ahead of need.
        Silent = "silent",
        /// The same, and the longest silent of too many: it gave way to another.
        GaveWay = "gave_way",
        /// TLS could not be agreed on.
        Tls = "tls",
        /// What came was not HTTP.
        Http = "http",
        /// accept() failed, for instance for want of file descriptors.
        Accept = "accept",
    }
}

label! {
    /// What an export carries.
    Signal("signal") {
        /// Spans.
        Traces = "traces",
        /// Metrics.
        Metrics = "metrics",
    }
}
label! {
    /// Why a span reached nobody.
    SpanDrop("reason") {
        /// Too many waited.
        QueueFull = "queue_full",
        /// A tenant's failures came faster than they may be told.
        TenantCap = "tenant_cap",
        /// The receiver was not there, refused, or was too slow.
        ExportFailed = "export_failed",
    }
}
label! {
    /// Why a Brain wants a snapshot.
    SyncReason("reason") {
        /// A change did not follow on the version held.
        Gap = "gap",
        /// Too many changes waited.
        Overflow = "overflow",
        /// Changes that a beat told of did not come.
        Lag = "lag",
        /// The digest did not match.
        Digest = "digest",
        /// The Shield is behind what is held.
        Ahead = "ahead",
        /// The link dropped changes.
        Dirty = "dirty",
        /// A change could not be read.
        Malformed = "malformed",
        /// This Brain has just begun.
        Cold = "cold",
    }
}

impl SyncReason {
    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.value() == name)
    }
}

/// No label: a metric that is absent until it is first set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoLabel;

impl LabelKey for NoLabel {
    const KEY: &'static str = "";
}

impl EncodeLabelSet for NoLabel {
    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

macro_rules! name_label {
    ($(#[$doc:meta])* $name:ident($key:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(Cow<'static, str>);

        impl $name {
            /// The label of this value. Whoever makes it bounds how many there are.
            pub fn new(value: &str) -> Self {
                Self(Cow::Owned(value.to_owned()))
            }
        }

        impl LabelKey for $name {
            const KEY: &'static str = $key;
        }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                encode($key, &self.0, encoder)
            }
        }
    };
}

name_label! {
    /// One of the busiest tenants, or `other`.
    TenantName("tenant")
}
name_label! {
    /// A NATS server of the manifest, by the name that it has itself.
    ServerName("server")
}

impl TenantName {
    /// All tenants that are not named.
    pub const OTHER: Self = Self(Cow::Borrowed("other"));

    /// The label of a tenant. One that is really called `other` has none of its own.
    pub fn of(tenant: &TenantId) -> Option<Self> {
        let name = Self::new(tenant.as_str());
        (name != Self::OTHER).then_some(name)
    }
}
