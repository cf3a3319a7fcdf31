//! Where a policy is bound, and what it may use there: arguments that several commands share.

use std::time::Duration;

use arqon_policy::Limits;
use arqon_proto::names::{PolicyName, RoomPattern, TenantId};
use arqon_proto::v1::{PolicyIsolation, PolicyLimits};
use arqon_spine::admin::BindPolicy;
use arqon_spine::control::PolicyKey;
use clap::{Args, ValueEnum};

use crate::failure::{Failure, Result};
use crate::size;

/// For whom.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Scope {
    /// For one tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// For everybody: before all bindings of tenants
    #[arg(long)]
    platform: bool,
}

impl Scope {
    /// The tenant; `None`: the platform.
    pub(super) fn tenant(&self) -> Result<Option<TenantId>> {
        self.tenant.as_deref().map(parse_tenant).transpose()
    }

    /// The key of a binding of this name.
    pub(super) fn key(&self, name: &str) -> Result<PolicyKey> {
        Ok(PolicyKey::binding(
            self.tenant()?.as_ref(),
            parse_name(name)?,
        ))
    }
}

/// `the platform`, `tenant acme`.
pub(super) fn scope_words(key: &PolicyKey) -> String {
    match key {
        PolicyKey::Platform(_) => "the platform".to_owned(),
        PolicyKey::Tenant(tenant, _) => format!("tenant {tenant}"),
        PolicyKey::Policy(_) | PolicyKey::Foreign(_) => "nobody".to_owned(),
    }
}

/// The name and the arguments that name this binding to a command.
pub(super) fn typed(key: &PolicyKey) -> String {
    match key {
        PolicyKey::Platform(name) => format!("{name} --platform"),
        PolicyKey::Tenant(tenant, name) => format!("{name} --tenant {tenant}"),
        PolicyKey::Policy(name) => name.to_string(),
        PolicyKey::Foreign(key) => key.clone(),
    }
}

/// A policy's or a binding's name as it was typed.
pub(super) fn parse_name(name: &str) -> Result<PolicyName> {
    PolicyName::parse(name).map_err(|error| {
        Failure::usage(format!("`{name}` is no name of a policy: {error}"))
            .hint("use 1 to 63 of a-z, 0-9 and -, not - at the ends")
    })
}

pub(super) fn parse_tenant(id: &str) -> Result<TenantId> {
    TenantId::parse(id).map_err(|error| {
        Failure::usage(format!("`{id}` is no tenant id: {error}"))
            .hint("`arq tenant list` shows all tenants")
    })
}

/// What a binding may use; what is not given stays, or is the default.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct Usage {
    /// Linear memory of one instance, 16MiB at most [default: 4MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<usize>,
    /// CPU time of one message, microseconds [default: 1000]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..))]
    cpu: Option<u32>,
    /// Wall-clock time of one message, milliseconds [default: 25]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    wall: Option<u32>,
}

impl Usage {
    fn apply(&self, limits: &mut PolicyLimits) -> Result {
        if let Some(memory) = self.memory {
            if !(1 << 16..=Limits::MAX_MEMORY_BYTES).contains(&memory) {
                return Err(Failure::usage(
                    "an instance has at least 64KiB of memory, and 16MiB at most",
                ));
            }
            limits.memory_bytes = u32::try_from(memory).unwrap_or(u32::MAX);
        }
        if let Some(cpu) = self.cpu {
            limits.cpu_us = cpu;
        }
        if let Some(wall) = self.wall {
            limits.wall_ms = wall;
        }
        Ok(())
    }

    /// For a run without a binding.
    pub(super) fn limits(&self) -> Result<Limits> {
        let mut stored = PolicyLimits::default();
        self.apply(&mut stored)?;
        Ok(limits(&stored))
    }
}

/// What a record's limits come to.
pub(super) fn limits(stored: &PolicyLimits) -> Limits {
    let default = Limits::default();
    Limits {
        memory_bytes: match stored.memory_bytes {
            0 => default.memory_bytes,
            bytes => bytes as usize,
        },
        cpu: match stored.cpu_us {
            0 => default.cpu,
            us => Duration::from_micros(us.into()),
        },
        wall: match stored.wall_ms {
            0 => default.wall,
            ms => Duration::from_millis(ms.into()),
        },
        ..default
    }
}

/// Whether an instance serves several messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sharing {
    /// An instance serves messages of one binding and one tenant, one after another
    Binding,
    /// Each message has an instance of its own
    Message,
}

/// How a binding is to be; what is not given stays as it is, or is the default.
#[derive(Debug, Args)]
#[command(next_help_heading = "Binding")]
pub(super) struct Manner {
    /// Only in these rooms, a pattern such as `public.*` or `public.>` [default: all]
    #[arg(long, value_name = "PATTERN")]
    room: Option<String>,
    /// Its place among the others: lower ones run first [default: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    order: Option<i32>,
    /// Only watch: run, count and audit, and change nothing
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    shadow: Option<bool>,
    /// Tell the sender the binding's name and the policy's reason
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    show_reason: Option<bool>,
    /// Whether an instance serves several messages [default: binding]
    #[arg(long, value_name = "KIND", value_enum)]
    isolation: Option<Sharing>,
    #[command(flatten)]
    usage: Usage,
}

impl Manner {
    /// Puts what was given into a record.
    pub(super) fn apply(&self, binding: &mut BindPolicy) -> Result {
        if let Some(room) = &self.room {
            let rooms = RoomPattern::parse(room).map_err(|error| {
                Failure::usage(format!("`{room}` is no pattern of rooms: {error}"))
                    .hint("`*` stands for one part between dots, `>` for all that follow; `>` alone for all rooms")
            })?;
            binding.rooms = (room != ">").then_some(rooms);
        }
        if let Some(order) = self.order {
            binding.order = order;
        }
        if let Some(shadow) = self.shadow {
            binding.shadow = shadow;
        }
        if let Some(show) = self.show_reason {
            binding.show_reason = show;
        }
        if let Some(isolation) = self.isolation {
            binding.isolation = match isolation {
                Sharing::Binding => PolicyIsolation::Binding,
                Sharing::Message => PolicyIsolation::Message,
            };
        }
        self.usage.apply(&mut binding.limits)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arqon_proto::v1::PolicyVersion;
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        manner: Manner,
    }

    fn line(text: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(["bind"].into_iter().chain(text.split_whitespace()))
    }

    #[test]
    fn a_binding_has_one_scope() {
        let key = |text: &str| line(text).unwrap().scope.key("words").unwrap();
        assert_eq!(key("--platform").to_string(), "platform.words");
        assert_eq!(key("--tenant acme").to_string(), "tenant.acme.words");
        assert_eq!(typed(&key("--platform")), "words --platform");
        assert_eq!(typed(&key("--tenant acme")), "words --tenant acme");
        assert!(line("").is_err());
        assert!(line("--platform --tenant acme").is_err());
        assert!(line("--tenant Acme").unwrap().scope.key("words").is_err());
        assert!(line("--platform").unwrap().scope.key("a.b").is_err());
    }

    #[test]
    fn what_is_not_given_stays() {
        let mut binding = BindPolicy {
            name: parse_name("words").unwrap(),
            tenant: None,
            rooms: None,
            policy: parse_name("blocklist").unwrap(),
            version: PolicyVersion::default(),
            config: bytes::Bytes::new(),
            order: 0,
            shadow: false,
            isolation: PolicyIsolation::Unspecified,
            limits: PolicyLimits::default(),
            show_reason: false,
            by: String::new(),
        };
        let apply = |text: &str, binding: &mut BindPolicy| {
            line(&format!("--platform {text}"))
                .unwrap()
                .manner
                .apply(binding)
        };
        apply(
            "--room public.* --order -3 --shadow --show-reason --isolation message --memory 1MiB --cpu 500",
            &mut binding,
        )
        .unwrap();
        assert_eq!(binding.rooms.as_ref().unwrap().as_str(), "public.*");
        assert_eq!(binding.order, -3);
        assert!(binding.shadow && binding.show_reason);
        assert_eq!(binding.isolation, PolicyIsolation::Message);
        let before = format!("{binding:?}");
        apply("", &mut binding).unwrap();
        assert_eq!(format!("{binding:?}"), before);
        apply("--shadow=false --wall 5 --room >", &mut binding).unwrap();
        assert!(!binding.shadow && binding.rooms.is_none());
        let limits = limits(&binding.limits);
        assert_eq!(limits.memory_bytes, 1 << 20);
        assert_eq!(limits.cpu, Duration::from_micros(500));
        assert_eq!(limits.wall, Duration::from_millis(5));
        assert!(apply("--room a..b", &mut binding).is_err());
        assert!(apply("--memory 17MiB", &mut binding).is_err());
        assert!(apply("--memory 1", &mut binding).is_err());
        assert!(line("--platform --cpu 0").is_err());
    }
}
