//! `arq policy list`, `show` and `versions`.

use std::time::Duration;

use arqon_proto::v1::{Policy, PolicyVersion};
use clap::Args;
use serde_json::{Value, json};

use super::deploy::stored_config;
use super::overview::{Bound, Overview, blocks, rooms_words, version_words};
use super::place::{self, scope_words};
use super::settings;
use super::version::hex;
use crate::Globals;
use crate::admin::with;
use crate::duration::{moment, moment_words};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::size;

/// How long Shields are listened to: they answer at once, and beat every second.
const LISTEN: Duration = Duration::from_millis(1_600);

/// Show what is in force, in the order in which it judges, and all policies
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arq policy list --tenant acme")]
pub(super) struct List {
    /// Only what judges messages of this tenant: the platform's bindings and its own
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

/// Show a binding, or a policy and where it is bound, with what each Shield makes of it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy show blocklist --tenant acme\n  arq policy show blocklist"
)]
pub(super) struct Show {
    /// The name of the binding or of the policy
    name: String,
    /// The binding of this tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "platform")]
    tenant: Option<String>,
    /// The binding of the platform
    #[arg(long)]
    platform: bool,
}

/// Show the versions of a policy, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arq policy versions greeter")]
pub(super) struct Versions {
    /// The policy
    policy: String,
}

/// Does what was asked.
pub(super) fn list(args: &List, globals: &Globals) -> Result {
    let tenant = args
        .tenant
        .as_deref()
        .map(place::parse_tenant)
        .transpose()?;
    let overview = with(globals, async |_, admin| Overview::records(admin).await)?;
    let output = &globals.output;
    let bindings: Vec<Bound<'_>> = overview
        .bindings()
        .into_iter()
        .filter(|bound| {
            let of = &bound.binding.tenant;
            tenant
                .as_ref()
                .is_none_or(|tenant| of.is_empty() || of == tenant.as_str())
        })
        .collect();
    if output.json {
        return output.object(&json!({
            "bindings": bindings.iter().map(|bound| stored_json(bound)).collect::<Vec<_>>(),
            "policies": overview.policies().map(policy_json).collect::<Vec<_>>(),
            "unreadable": overview.unreadable().iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        }));
    }
    for (key, _) in overview.unreadable() {
        output.warn(format!("the record {key} cannot be read{}", blocks(key)));
    }
    let rows = bindings.iter().map(|bound| {
        let binding = bound.binding;
        vec![
            binding.name.clone(),
            scope_words(bound.key),
            rooms_words(binding),
            version_words(binding),
            binding.order.to_string(),
            mode(bound).to_owned(),
            moment(binding.changed_at_ms / 1_000),
            binding.changed_by.clone(),
        ]
    });
    output.table(
        &["binding", "for", "rooms", "version", "order", "mode", "changed", "by"],
        rows.collect(),
        "no policy is in force; `arq policy add` puts a ready-made one, `arq policy bind` one of yours",
    )?;
    let policies = overview.policies().map(|policy| {
        let newest = policy.versions.first();
        vec![
            policy.name.clone(),
            policy.versions.len().to_string(),
            newest.map_or_else(String::new, |version| format!("v{}", version.number)),
            newest.map_or_else(String::new, |version| moment(version.pushed_at_ms / 1_000)),
            newest.map_or_else(String::new, |version| version.note.clone()),
        ]
    });
    let policies: Vec<_> = policies.collect();
    if policies.is_empty() {
        return Ok(());
    }
    output.line("")?;
    output.table(
        &["policy", "versions", "newest", "pushed", "note"],
        policies,
        "",
    )
}

fn mode(bound: &Bound<'_>) -> &'static str {
    if bound.binding.shadow {
        "shadow"
    } else {
        "enforced"
    }
}

/// A binding as it is stored.
fn stored_json(bound: &Bound<'_>) -> Value {
    let binding = bound.binding;
    json!({
        "key": bound.key.to_string(),
        "name": binding.name,
        "tenant": binding.tenant,
        "rooms": binding.rooms,
        "policy": binding.policy,
        "version": binding.version,
        "digest": hex(&binding.digest),
        "order": binding.order,
        "shadow": binding.shadow,
        "show_reason": binding.show_reason,
        "revision": bound.revision,
        "changed_at_ms": binding.changed_at_ms,
        "changed_by": binding.changed_by,
    })
}

fn policy_json(policy: &Policy) -> Value {
    json!({
        "name": policy.name,
        "versions": policy.versions.iter().map(version_json).collect::<Vec<_>>(),
    })
}

fn version_json(version: &PolicyVersion) -> Value {
    json!({
        "version": version.number,
        "digest": hex(&version.digest),
        "bytes": version.size,
        "pushed_at_ms": version.pushed_at_ms,
        "pushed_by": version.pushed_by,
        "note": version.note,
    })
}

/// Does what was asked.
pub(super) fn show(args: &Show, globals: &Globals) -> Result {
    let name = place::parse_name(&args.name)?;
    let tenant = args
        .tenant
        .as_deref()
        .map(place::parse_tenant)
        .transpose()?;
    let scoped = args.platform || tenant.is_some();
    let (overview, configs) = with(globals, async |_, admin| {
        let overview = Overview::look(admin, LISTEN).await?;
        let mut configs = Vec::new();
        for bound in overview.bindings() {
            let binding = bound.binding;
            let here = !scoped
                || tenant.as_ref().map_or(binding.tenant.is_empty(), |tenant| {
                    binding.tenant == tenant.as_str()
                });
            let named =
                binding.name == name.as_str() || (!scoped && binding.policy == name.as_str());
            if here && named {
                let config = stored_config(&binding.config, &binding.config_digest, admin).await;
                let config = config.map_or_else(|failure| failure.message, |c| settings::words(&c));
                configs.push((bound.key.clone(), config));
            }
        }
        Ok((overview, configs))
    })?;
    let policy = overview
        .policies()
        .find(|policy| policy.name == name.as_str() && !scoped);
    if configs.is_empty() && policy.is_none() {
        let what = if scoped {
            "binding"
        } else {
            "policy or binding"
        };
        return Err(Failure::new(format!("there is no {what} `{name}`"))
            .hint("`arq policy list` shows all"));
    }
    let output = &globals.output;
    let chosen = |bound: &Bound<'_>| {
        let found = configs.iter().find(|(key, _)| key == bound.key);
        found.map(|(_, config)| config.clone())
    };
    let bindings: Vec<(Bound<'_>, String)> = overview
        .bindings()
        .into_iter()
        .filter_map(|bound| Some((bound, chosen(&bound)?)))
        .collect();
    if output.json {
        let bindings = bindings.iter().map(|(bound, config)| {
            let mut object = overview.bound_json(*bound);
            object["config"] = serde_json::from_str(config).unwrap_or_else(|_| json!(config));
            let history = bound.binding.history.iter().map(|step| {
                json!({"version": step.version, "digest": hex(&step.digest), "until_ms": step.until_ms})
            });
            object["history"] = history.collect();
            object
        });
        return output.object(&json!({
            "policy": policy.map(policy_json),
            "bindings": bindings.collect::<Vec<_>>(),
        }));
    }
    if let Some(policy) = policy {
        tell_versions(policy, &overview, output)?;
    }
    for (index, (bound, config)) in bindings.iter().enumerate() {
        if index > 0 || policy.is_some() {
            output.line("")?;
        }
        tell_binding(*bound, config, &overview, output)?;
    }
    Ok(())
}

fn tell_binding(bound: Bound<'_>, config: &str, overview: &Overview, output: &Output) -> Result {
    let binding = bound.binding;
    let counts = overview.counts(bound.key);
    let limits = place::limits(&binding.limits.unwrap_or_default());
    let history: Vec<String> = binding
        .history
        .iter()
        .map(|step| {
            format!(
                "version {} until {}",
                step.version,
                moment(step.until_ms / 1_000)
            )
        })
        .collect();
    output.pairs(&[
        ("binding", bound.key.to_string()),
        ("for", scope_words(bound.key)),
        ("rooms", rooms_words(binding)),
        ("policy", version_words(binding)),
        ("digest", hex(&binding.digest)),
        ("mode", mode(&bound).to_owned()),
        ("order", binding.order.to_string()),
        (
            "sender is told",
            if binding.show_reason {
                "the binding's name and the policy's reason"
            } else {
                "only that it was blocked"
            }
            .to_owned(),
        ),
        (
            "limits",
            format!(
                "{} of memory, {} µs of CPU and {} ms for a message",
                size::words(limits.memory_bytes as u64),
                limits.cpu.as_micros(),
                limits.wall.as_millis()
            ),
        ),
        ("configuration", config.to_owned()),
        (
            "changed",
            format!(
                "{} by {}",
                moment_words(binding.changed_at_ms / 1_000),
                binding.changed_by
            ),
        ),
        ("revision", bound.revision.to_string()),
        ("before", history.join("\n")),
        (
            "messages",
            format!(
                "{} allowed, {} blocked, {} changed, {} faults, {} unavailable",
                counts.allowed,
                counts.blocked,
                counts.transformed,
                counts.faults,
                counts.unavailable
            ),
        ),
    ])?;
    let rows = overview.on_shields(bound.key).map(|(shield, state)| {
        let counts = state.counts.unwrap_or_default();
        let is = if state.active.is_empty() {
            "blocks"
        } else if state.active_revision >= bound.revision {
            "active"
        } else {
            "older"
        };
        vec![
            shield.to_owned(),
            is.to_owned(),
            counts.allowed.to_string(),
            counts.blocked.to_string(),
            counts.transformed.to_string(),
            counts.faults.saturating_add(counts.unavailable).to_string(),
            state.error.clone(),
        ]
    });
    output.table(
        &[
            "shield", "state", "allowed", "blocked", "changed", "faults", "why",
        ],
        rows.collect(),
        "no Shield reports it",
    )
}

/// Does what was asked.
pub(super) fn versions(args: &Versions, globals: &Globals) -> Result {
    let name = place::parse_name(&args.policy)?;
    let overview = with(globals, async |_, admin| {
        Overview::look(admin, LISTEN).await
    })?;
    let Some(policy) = overview
        .policies()
        .find(|policy| policy.name == name.as_str())
    else {
        return Err(Failure::new(format!("there is no policy `{name}`"))
            .hint("`arq policy list` shows all, `arq policy push` stores one"));
    };
    if globals.output.json {
        let versions = policy.versions.iter().map(|version| {
            let mut object = version_json(version);
            object["bound"] = bound_by(version, &overview).into();
            object["shields"] = overview
                .version_on_shields(&version.digest)
                .map(|(shield, state)| {
                    json!({
                        "shield": shield,
                        "ready": state.ready,
                        "error": state.error,
                        "compile_ms": state.compile_ms,
                    })
                })
                .collect();
            object
        });
        return globals
            .output
            .object(&json!({"policy": policy.name, "versions": versions.collect::<Vec<_>>()}));
    }
    tell_versions(policy, &overview, &globals.output)
}

/// Keys of the bindings of a version.
fn bound_by(version: &PolicyVersion, overview: &Overview) -> Vec<String> {
    let bindings = overview.bindings().into_iter();
    bindings
        .filter(|bound| bound.binding.digest == version.digest)
        .map(|bound| bound.key.to_string())
        .collect()
}

fn tell_versions(policy: &Policy, overview: &Overview, output: &Output) -> Result {
    let rows = policy.versions.iter().map(|version| {
        let states: Vec<_> = overview.version_on_shields(&version.digest).collect();
        let ready = states.iter().filter(|(_, state)| state.ready).count();
        let wrong: Vec<String> = states
            .iter()
            .filter(|(_, state)| !state.error.is_empty())
            .map(|(shield, state)| format!("{shield}: {}", state.error))
            .collect();
        vec![
            format!("v{}", version.number),
            hex(&version.digest).chars().take(12).collect(),
            size::words(version.size),
            moment(version.pushed_at_ms / 1_000),
            version.pushed_by.clone(),
            bound_by(version, overview).join(", "),
            if wrong.is_empty() {
                format!("ready on {ready}")
            } else {
                wrong.join("; ")
            },
            version.note.clone(),
        ]
    });
    output.table(
        &[
            "version", "digest", "size", "pushed", "by", "bound by", "shields", "note",
        ],
        rows.collect(),
        "it has no versions",
    )
}
