//! Putting a binding in force: tried here, written by revision, followed on every Shield, and
//! taken back where it fails.

use arqon_policy::Digest;
use arqon_proto::names::PolicyName;
use arqon_proto::v1::{PolicyBinding, PolicyVersion};
use arqon_spine::admin::{Admin, BindPolicy, PolicyChange, PolicyError};
use arqon_spine::control::{ControlError, PolicyKey};
use serde_json::json;

use super::acks::{Acks, Table, Waiting, expected};
use super::component::Component;
use super::local::{Local, Rehearsal};
use super::place::{self, Manner, scope_words, typed};
use super::version::{Version, hex};
use crate::Globals;
use crate::admin::{by, with};
use crate::failure::{Doing, Failure, Result, chain};
use crate::output::Output;

/// What is wished.
pub(super) struct Wish<'a> {
    pub(super) key: PolicyKey,
    pub(super) policy: PolicyName,
    /// To be pushed first, if it is no version yet.
    pub(super) component: Option<Component>,
    /// Which version, where no component is given.
    pub(super) version: Option<&'a Version>,
    /// `None`: as it is.
    pub(super) config: Option<Vec<u8>>,
    pub(super) manner: &'a Manner,
}

/// An error of a change, with what can be done about it.
pub(super) fn explain(error: PolicyError) -> Failure {
    let failure = |error: &dyn std::error::Error| Failure::new(chain(error));
    match &error {
        PolicyError::Control(ControlError::Conflict { key, .. }) => Failure::new(format!(
            "{key} was changed meanwhile by somebody else; nothing was written"
        ))
        .hint("look again with `arq policy show`, then repeat it if it still makes sense"),
        PolicyError::BindingExists { key } => Failure::new(format!(
            "{key} was made meanwhile by somebody else; nothing was written"
        ))
        .hint("look again with `arq policy show`, then repeat it if it still makes sense"),
        PolicyError::NoPolicy { .. } => failure(&error)
            .hint("`arq policy push` stores one, `arq policy add` uses one that is inside arq"),
        PolicyError::NoBinding { .. } => {
            failure(&error).hint("`arq policy list` shows all bindings")
        }
        PolicyError::Control(ControlError::Bucket { .. }) => failure(&error)
            .hint("is this server new? `arq pool create default` makes what it misses"),
        _ => failure(&error),
    }
}

/// Does it, and tells how it went.
pub(super) fn run(wish: Wish<'_>, waiting: &Waiting, globals: &Globals) -> Result {
    let output = &globals.output;
    let hint = format!(
        "`arq policy show {}` shows what is in force",
        typed(&wish.key)
    );
    // What was typed wrongly is told before anything is asked of anybody.
    wish.manner
        .apply(&mut wished(&wish.key, &wish.policy, None)?)?;
    if let Some(component) = &wish.component {
        component.checked(output)?;
    }
    let outcome = with(globals, async |_, admin| {
        let mut acks = Acks::open(admin, waiting).await?;
        let change = Box::pin(write(wish, admin, output)).await?;
        acks.changed();
        see_through(change, admin, &mut acks, output).await
    })?;
    outcome.tell(output, &hint)
}

/// Tries and writes the binding.
async fn write(wish: Wish<'_>, admin: &Admin, output: &Output) -> Result<PolicyChange> {
    if let PolicyKey::Tenant(tenant, _) = &wish.key {
        admin.show(tenant).await.map_err(crate::admin::explain)?;
    }
    let policies = admin.policies();
    let found = match policies.binding(&wish.key).await {
        Ok(found) => Some(found),
        Err(PolicyError::NoBinding { .. }) => None,
        Err(error) => return Err(explain(error)),
    };
    let (before, revision) = match &found {
        Some((binding, revision)) => (Some(binding), Some(*revision)),
        None => (None, None),
    };
    let (component, version) = match wish.component {
        Some(component) => (component, None),
        None => {
            let (policy, _) = policies.policy(&wish.policy).await.map_err(explain)?;
            let version = wish
                .version
                .unwrap_or(&Version::Newest)
                .find(&policy, before)?;
            (fetch(&wish.policy, &version, admin).await?, Some(version))
        }
    };
    let config = match (wish.config, before) {
        (Some(config), _) => config,
        // Another policy's configuration would mean nothing to this one.
        (None, Some(before)) if before.policy == wish.policy.as_str() => {
            stored_config(&before.config, &before.config_digest, admin).await?
        }
        (None, _) => Vec::new(),
    };
    let mut bind = wished(&wish.key, &wish.policy, before)?;
    wish.manner.apply(&mut bind)?;
    bind.config = config.into();
    let rehearsal = rehearse(&component, &bind)?;
    if !output.json {
        output.note(format!(
            "tried here: compiled in {} ms, configured in {} µs",
            rehearsal.compile.as_millis(),
            rehearsal.configure.as_micros()
        ));
    }
    // Only what works here is written there.
    bind.version = match version {
        Some(version) => version,
        None => {
            let note = component.note().unwrap_or_default();
            let pushed = policies
                .push_version(&wish.policy, &component.bytes, &bind.by, &note)
                .await
                .map_err(explain)?;
            pushed.version
        }
    };
    let number = bind.version.number;
    let change = policies.bind(bind, revision).await.map_err(explain)?;
    if !output.json {
        let verb = match before {
            None => "is bound".to_owned(),
            Some(before) if before.version != number => {
                format!("is changed from version {} to {number}", before.version)
            }
            Some(_) => "is changed".to_owned(),
        };
        output.note(format!(
            "{} of {} {verb}: version {number} of {}",
            name_of(&wish.key),
            scope_words(&wish.key),
            wish.policy
        ));
    }
    Ok(change)
}

fn name_of(key: &PolicyKey) -> String {
    match key {
        PolicyKey::Policy(name) | PolicyKey::Platform(name) | PolicyKey::Tenant(_, name) => {
            name.to_string()
        }
        PolicyKey::Foreign(key) => key.clone(),
    }
}

/// The component of a version, from the object store.
async fn fetch(policy: &PolicyName, version: &PolicyVersion, admin: &Admin) -> Result<Component> {
    let digest = Digest::from_bytes(&version.digest)
        .ok_or_else(|| Failure::new(format!("the digest of {policy} does not hold")))?;
    let bytes = admin
        .control()
        .get_object(digest.as_bytes())
        .await
        .doing(format!(
            "cannot fetch version {} of {policy}",
            version.number
        ))
        .hint("`arq policy push` of the same component stores it again")?;
    Ok(Component::of_bytes(policy.as_str(), bytes.to_vec()))
}

/// A configuration that stands in a record, or as an object.
pub(super) async fn stored_config(config: &[u8], digest: &[u8], admin: &Admin) -> Result<Vec<u8>> {
    if digest.is_empty() {
        return Ok(config.to_vec());
    }
    let digest = Digest::from_bytes(digest)
        .ok_or_else(|| Failure::new("the digest of the configuration does not hold"))?;
    let bytes = admin
        .control()
        .get_object(digest.as_bytes())
        .await
        .doing("cannot fetch the configuration that is bound now")
        .hint("--config FILE gives another")?;
    Ok(bytes.to_vec())
}

/// A binding as it is, or as it is by default; its version and configuration follow.
fn wished(
    key: &PolicyKey,
    policy: &PolicyName,
    before: Option<&PolicyBinding>,
) -> Result<BindPolicy> {
    let (tenant, name) = match key {
        PolicyKey::Platform(name) => (None, name),
        PolicyKey::Tenant(tenant, name) => (Some(tenant.clone()), name),
        PolicyKey::Policy(_) | PolicyKey::Foreign(_) => {
            return Err(Failure::new(format!("{key} is no binding")));
        }
    };
    let none = PolicyBinding::default();
    let before = before.unwrap_or(&none);
    let rooms = match before.rooms.as_str() {
        "" => None,
        rooms => Some(
            arqon_proto::names::RoomPattern::parse(rooms)
                .doing("the rooms of the binding do not hold")
                .hint("--room names others")?,
        ),
    };
    Ok(BindPolicy {
        name: name.clone(),
        tenant,
        rooms,
        policy: policy.clone(),
        version: PolicyVersion::default(),
        config: bytes::Bytes::new(),
        order: before.order,
        shadow: before.shadow,
        isolation: before.isolation(),
        limits: before.limits.unwrap_or_default(),
        show_reason: before.show_reason,
        by: by(),
    })
}

/// Tries it here, with its limits.
fn rehearse(component: &Component, bind: &BindPolicy) -> Result<Rehearsal> {
    let limits = place::limits(&bind.limits);
    let work = || Local::new()?.rehearse(component, &bind.config, &limits, bind.isolation);
    // It waits for a child process; the connections live on other threads meanwhile.
    tokio::task::block_in_place(work).doing("nothing was written")
}

/// A change and what became of it.
pub(super) struct Outcome {
    change: PolicyChange,
    table: Option<Table>,
    /// Why it was taken back, and how that went.
    back: Option<Back>,
}

struct Back {
    why: String,
    outcome: Result<Option<Table>>,
}

/// Waits for every live Shield; takes the change back where one fails.
pub(super) async fn see_through(
    change: PolicyChange,
    admin: &Admin,
    acks: &mut Acks,
    output: &Output,
) -> Result<Outcome> {
    let table = acks.wait(&expected(&change)).await?;
    let mut back = None;
    if let Some(table) = table.as_ref().filter(|table| table.any_failed()) {
        if !output.json {
            table.show(output)?;
        }
        let why = table.why().unwrap_or_default().to_owned();
        back = Some(Back {
            why,
            outcome: take_back(&change, admin, acks).await,
        });
    }
    Ok(Outcome {
        change,
        table,
        back,
    })
}

async fn take_back(change: &PolicyChange, admin: &Admin, acks: &mut Acks) -> Result<Option<Table>> {
    let taken = admin.policies().take_back(change).await.map_err(explain)?;
    acks.changed();
    acks.wait(&expected(&taken)).await
}

impl Outcome {
    /// Tells it, and fails where it is not in force everywhere.
    pub(super) fn tell(&self, output: &Output, hint: &str) -> Result {
        let problem = self.table.as_ref().and_then(Table::problem);
        if output.json {
            output.object(&json!({
                "key": self.change.key.to_string(),
                "revision": self.change.revision,
                "policy": self.change.after.as_ref().map(|binding| &binding.policy),
                "version": self.change.after.as_ref().map(|binding| binding.version),
                "digest": self.change.after.as_ref().map(|binding| hex(&binding.digest)),
                "shields": self.table.as_ref().map(Table::json),
                "problem": problem,
                "taken_back": self.back.as_ref().map(|back| back.outcome.is_ok()),
            }))?;
        }
        if let Some(back) = &self.back {
            return Err(back.failure(&self.change, hint));
        }
        let Some(table) = &self.table else {
            return Ok(());
        };
        if !output.json {
            table.show(output)?;
        }
        match problem {
            None => {
                if !output.json && table.shields() > 0 {
                    let is = if self.change.after.is_some() {
                        "in force"
                    } else {
                        "gone"
                    };
                    output.note(format!(
                        "it is {is} on {}",
                        crate::output::counted(table.shields(), "Shield")
                    ));
                }
                Ok(())
            }
            Some(problem) => Err(Failure::new(format!("it is written, but {problem}"))
                .hint(format!("{hint}; `arq status` shows the Shields"))),
        }
    }
}

impl Back {
    fn failure(&self, change: &PolicyChange, hint: &str) -> Failure {
        let before = if change.before.is_some() {
            "what was in force before is again"
        } else {
            "nothing is bound"
        };
        match &self.outcome {
            Ok(table) => {
                let rest = table
                    .as_ref()
                    .and_then(Table::problem)
                    .map_or_else(String::new, |problem| format!(", but {problem}"));
                Failure::new(format!(
                    "it fails and was taken back, {before}{rest}: {}",
                    self.why
                ))
                .hint(hint)
            }
            Err(failure) => Failure::new(format!(
                "it fails ({}) and could not be taken back: {}",
                self.why, failure.message
            ))
            .hint(hint),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_binding_is_stays_where_it_is_not_named() {
        let key = PolicyKey::read("tenant.acme.words");
        let before = PolicyBinding {
            rooms: "public.*".to_owned(),
            order: 4,
            shadow: true,
            show_reason: true,
            ..PolicyBinding::default()
        };
        let name = place::parse_name("words").unwrap();
        let bind = wished(&key, &name, Some(&before)).unwrap();
        assert_eq!(bind.rooms.unwrap().as_str(), "public.*");
        assert_eq!(bind.order, 4);
        assert!(bind.shadow && bind.show_reason);
        let fresh = wished(&key, &name, None).unwrap();
        assert_eq!(fresh.tenant.unwrap().as_str(), "acme");
        assert!(!fresh.shadow && fresh.rooms.is_none());
        assert!(wished(&PolicyKey::read("policy.words"), &name, None).is_err());
    }

    #[test]
    fn a_conflict_says_to_look_again() {
        let conflict = ControlError::Conflict {
            bucket: "policies",
            key: "platform.words".to_owned(),
        };
        let failure = explain(conflict.into());
        assert!(failure.message.contains("changed meanwhile"));
        assert!(failure.hint.unwrap().contains("arq policy show"));
    }
}
