//! What a binding's record asks for, checked.

use std::sync::Arc;
use std::time::Duration;

use arqon_policy::{
    Binding, Digest, Fault, FaultClass, Isolation, Limits, MAX_CONFIG_BYTES, Module,
};
use arqon_proto::names::{PolicyName, RoomPattern, TenantId};
use arqon_proto::v1;
use arqon_spine::control::{PolicyKey, PolicyScope};
use bytes::Bytes;

/// The most CPU time that a record may give to one message.
const MAX_CPU: Duration = Duration::from_millis(100);
/// The longest wall-clock time.
const MAX_WALL: Duration = Duration::from_secs(1);
/// The name in force for a record that holds none.
const NAMELESS: &str = "unreadable";

/// A binding as its record asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) key: PolicyKey,
    pub(super) revision: u64,
    pub(super) name: String,
    pub(super) tenant: Option<TenantId>,
    pub(super) rooms: Option<RoomPattern>,
    pub(super) policy: PolicyName,
    pub(super) version: u32,
    pub(super) digest: Digest,
    pub(super) order: i32,
    pub(super) shadow: bool,
    pub(super) isolation: Isolation,
    pub(super) limits: Limits,
    pub(super) show_reason: bool,
    pub(super) config: Config,
}

/// Where a configuration is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Config {
    /// In the record.
    Here(Bytes),
    /// In the object store.
    Object([u8; 32]),
}

// === impl Wanted ===

impl Wanted {
    /// Reads a record. The error is for whoever bound.
    pub(super) fn read(
        key: &PolicyKey,
        revision: u64,
        record: &v1::PolicyBinding,
    ) -> Result<Self, String> {
        let tenant = match key.scope() {
            PolicyScope::Tenant(tenant) => Some(tenant),
            PolicyScope::Platform => None,
            PolicyScope::Nobody => return Err("the key is no binding's".to_owned()),
        };
        let rooms = match record.rooms.as_str() {
            "" => None,
            rooms => Some(RoomPattern::parse(rooms).map_err(|error| format!("rooms: {error}"))?),
        };
        let policy =
            PolicyName::parse(&record.policy).map_err(|error| format!("policy: {error}"))?;
        let digest = Digest::from_bytes(&record.digest).ok_or("the digest has not 32 bytes")?;
        let isolation = match v1::PolicyIsolation::try_from(record.isolation) {
            Ok(v1::PolicyIsolation::Unspecified | v1::PolicyIsolation::Binding) => {
                Isolation::Binding
            }
            Ok(v1::PolicyIsolation::Message) => Isolation::Message,
            // A stricter one may be meant that this Shield does not know.
            Err(_) => return Err(format!("isolation {} is not known here", record.isolation)),
        };
        let config = match (&record.config, &record.config_digest[..]) {
            (config, []) if config.len() <= MAX_CONFIG_BYTES => Config::Here(config.clone()),
            (_, []) => {
                return Err(format!(
                    "the configuration has over {MAX_CONFIG_BYTES} bytes"
                ));
            }
            (_, digest) => Config::Object(
                digest
                    .try_into()
                    .map_err(|_| "the configuration's digest has not 32 bytes")?,
            ),
        };
        Ok(Self {
            key: key.clone(),
            revision,
            name: record.name.clone(),
            tenant,
            rooms,
            policy,
            version: record.version,
            digest,
            order: record.order,
            shadow: record.shadow,
            isolation,
            limits: limits(record.limits.unwrap_or_default())?,
            show_reason: record.show_reason,
            config,
        })
    }

    /// The binding with this to run and this configuration.
    pub(super) fn binding(&self, module: Result<Module, Fault>, config: Bytes) -> Binding {
        Binding {
            key: Arc::from(self.key.to_string()),
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            rooms: self.rooms.clone(),
            policy: self.policy.clone(),
            version: self.version,
            digest: self.digest,
            revision: self.revision,
            order: self.order,
            shadow: self.shadow,
            isolation: self.isolation,
            limits: self.limits,
            show_reason: self.show_reason,
            config,
            module,
        }
    }

    /// The binding while nothing can run. A shadow changes nothing even then.
    pub(super) fn blocking(&self, fault: Fault) -> Binding {
        self.binding(Err(fault), Bytes::new())
    }
}

/// Blocks everything that a record may be about which cannot be read.
pub(super) fn unreadable(key: &PolicyKey, revision: u64, detail: &str) -> Option<Binding> {
    let tenant = match key.scope() {
        PolicyScope::Tenant(tenant) => Some(tenant),
        PolicyScope::Platform => None,
        PolicyScope::Nobody => return None,
    };
    let policy = PolicyName::parse(NAMELESS).expect("a constant that is a name");
    Some(Binding {
        key: Arc::from(key.to_string()),
        name: NAMELESS.to_owned(),
        tenant,
        rooms: None,
        policy,
        version: 0,
        digest: Digest::of(b""),
        revision,
        order: i32::MIN,
        shadow: false,
        isolation: Isolation::Binding,
        limits: Limits::default(),
        show_reason: false,
        config: Bytes::new(),
        module: Err(Fault::new(FaultClass::Missing, detail)),
    })
}

fn limits(record: v1::PolicyLimits) -> Result<Limits, String> {
    let mut limits = Limits::default();
    let over = |what: &str| Err(format!("{what} is over what any policy may have"));
    if record.memory_bytes > 0 {
        limits.memory_bytes = usize::try_from(record.memory_bytes).unwrap_or(usize::MAX);
        if limits.memory_bytes > Limits::MAX_MEMORY_BYTES {
            return over("limits.memory_bytes");
        }
    }
    if record.cpu_us > 0 {
        limits.cpu = Duration::from_micros(record.cpu_us.into());
        if limits.cpu > MAX_CPU {
            return over("limits.cpu_us");
        }
    }
    if record.wall_ms > 0 {
        limits.wall = Duration::from_millis(record.wall_ms.into());
        if limits.wall > MAX_WALL {
            return over("limits.wall_ms");
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record() -> v1::PolicyBinding {
        v1::PolicyBinding {
            name: "words".to_owned(),
            tenant: "acme".to_owned(),
            policy: "blocklist".to_owned(),
            version: 3,
            digest: vec![7; 32].into(),
            config: Bytes::from_static(b"{}"),
            ..Default::default()
        }
    }

    fn read(change: impl FnOnce(&mut v1::PolicyBinding)) -> Result<Wanted, String> {
        let mut record = record();
        change(&mut record);
        Wanted::read(&PolicyKey::read("tenant.acme.words"), 9, &record)
    }

    #[test]
    fn a_record_with_nothing_special_has_the_defaults() {
        let wanted = read(|_| {}).unwrap();
        assert_eq!(wanted.tenant.as_ref().unwrap().as_str(), "acme");
        assert_eq!((wanted.rooms, wanted.limits), (None, Limits::default()));
        assert_eq!(wanted.isolation, Isolation::Binding);
        assert_eq!(wanted.config, Config::Here(Bytes::from_static(b"{}")));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let limits = |change: fn(&mut v1::PolicyLimits)| {
            let mut limits = v1::PolicyLimits::default();
            change(&mut limits);
            read(|record| record.limits = Some(limits))
        };
        assert!(read(|record| record.rooms = "a..b".to_owned()).is_err());
        assert!(read(|record| record.policy = "No".to_owned()).is_err());
        assert!(read(|record| record.digest = vec![7; 31].into()).is_err());
        assert!(read(|record| record.isolation = 77).is_err());
        assert!(read(|record| record.config = vec![0; MAX_CONFIG_BYTES + 1].into()).is_err());
        assert!(read(|record| record.config_digest = vec![1; 3].into()).is_err());
        assert!(limits(|limits| limits.memory_bytes = (16 << 20) + 1).is_err());
        assert!(limits(|limits| limits.cpu_us = 100_001).is_err());
        assert!(limits(|limits| limits.wall_ms = 1_001).is_err());
        let wanted = limits(|limits| limits.cpu_us = 500).unwrap();
        assert_eq!(wanted.limits.cpu, Duration::from_micros(500));
    }

    #[test]
    fn what_cannot_be_read_blocks_its_scope_in_all_rooms() {
        let blocked = |key| unreadable(&PolicyKey::read(key), 1, "no");
        let tenant = blocked("tenant.acme.words").unwrap();
        assert_eq!(tenant.tenant.unwrap().as_str(), "acme");
        assert!(tenant.rooms.is_none() && tenant.module.is_err() && !tenant.shadow);
        assert!(blocked("platform.words").unwrap().tenant.is_none());
        assert!(blocked("room.acme.x").unwrap().tenant.is_none());
        assert!(blocked("policy.blocklist").is_none());
    }
}
