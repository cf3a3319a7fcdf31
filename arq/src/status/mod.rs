//! `arq status`: health, versions, connections, rooms, presence and policies, as the parts report them.

mod problems;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use arqon_proto::v1::{
    BrainBeat, PolicySummary, PoolRecord, ShieldBeat, TenantRecord, TenantState,
};
use arqon_spine::admin::{Admin, ServerStatus};
use clap::Args;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::Globals;
use crate::admin::{explain, with};
use crate::duration::words;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, Paint, counted, escaped};
use crate::policy::Overview;

/// Shields report once a second; who is silent for longer than this is not there.
const LISTEN: Duration = Duration::from_millis(1_600);

/// Health, versions, connections, rooms, presence and policies
///
/// Exit code 1 where something is not well.
///
/// With --watch it goes on: a live view of rates, latency and errors, of Shields, tenants,
/// policies, Brains and NATS servers. q or Ctrl-C ends it, and the exit code is 0. Where stdout is
/// no terminal it prints a block each time, and with --json an object a line.
#[derive(Debug, Args)]
#[command(
    after_help = "Rates are averages since the last picture, from the counters of two reports of the same process; \
`–` is what cannot be told yet. Latency is from reading a message to writing it to a member, over the last ten \
seconds of one Shield; the line at the top shows the Shield with the highest p99.\n\n\
Examples:\n  arq status\n  arq status --watch\n  arq status --watch --every 10s --json | jq '.tenants[] | {id, messages_in_per_sec}'"
)]
pub(crate) struct Status {
    /// Go on, and show rates, latency and errors live
    #[arg(long, short)]
    watch: bool,
    /// How often to show it anew, 1s to 1h [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = watch::parse_every, requires = "watch")]
    every: Option<Duration>,
    /// Listen for the reports of Shields and Brains this long; they come once a second. With
    /// --watch: end after this long
    #[arg(long = "for", value_name = "TIME", value_parser = crate::duration::parse)]
    listen: Option<Duration>,
}

/// What was found.
struct Picture {
    servers: Vec<ServerStatus>,
    shields: BTreeMap<String, ShieldBeat>,
    brains: BTreeMap<String, BrainBeat>,
    tenants: Vec<TenantRecord>,
    pools: Vec<PoolRecord>,
    policies: Overview,
}

/// Does what was asked.
pub(crate) fn run(args: &Status, globals: &Globals) -> Result {
    if args.watch {
        return watch::run(args.every, args.listen, globals);
    }
    let listen = args.listen.unwrap_or(LISTEN);
    let picture = with(globals, async |_, admin| look(admin, listen).await)?;
    let problems = picture.problems();
    let output = &globals.output;
    if output.json {
        output.object(&picture.json(&problems))?;
    } else {
        picture.show(&problems, output)?;
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}

async fn look(admin: &Admin, listen: Duration) -> Result<Picture> {
    let beats = async {
        let mut shields = BTreeMap::new();
        let mut brains = BTreeMap::new();
        let mut beats = admin.control().subscribe_beats().await?;
        let mut brain_beats = admin.control().subscribe_brain_beats().await?;
        let until = tokio::time::sleep(listen);
        tokio::pin!(until);
        loop {
            tokio::select! {
                Some(beat) = beats.next() => {
                    shields.insert(beat.shield.clone(), beat);
                }
                Some(beat) = brain_beats.next() => {
                    brains.insert(beat.brain.clone(), beat);
                }
                () = &mut until => break,
            }
        }
        // Who said goodbye while we listened is not there.
        shields.retain(|_, beat| !beat.goodbye);
        brains.retain(|_, beat| !beat.goodbye);
        Ok::<_, Failure>((shields, brains))
    };
    let records = async {
        let servers = admin.servers().await.map_err(explain)?;
        Ok::<_, Failure>((
            servers,
            admin.list().await.map_err(explain)?,
            admin.list_pools().await.map_err(explain)?,
        ))
    };
    let policies = Overview::look(admin, listen);
    let ((shields, brains), (servers, tenants, pools), policies) =
        tokio::try_join!(beats, records, policies)?;
    Ok(Picture {
        servers,
        shields,
        brains,
        tenants,
        pools,
        policies,
    })
}

impl Picture {
    /// What is not well, one line each.
    fn problems(&self) -> Vec<String> {
        let mut problems = problems::of(
            self.shields.values(),
            self.brains.values(),
            self.tenants.iter(),
            self.pools.iter(),
        );
        problems.extend(self.policies.problems());
        problems
    }

    fn sessions(&self) -> u64 {
        sum(self.shields.values().map(|beat| beat.sessions))
    }

    /// Rooms with members, counted on each Shield.
    fn rooms(&self) -> u64 {
        sum(self.shields.values().map(|beat| beat.rooms))
    }

    /// Sessions and rooms of a tenant over all Shields. A room with members on two Shields
    /// counts on each.
    fn load(&self, tenant: &str) -> (u64, u64) {
        let loads = self
            .shields
            .values()
            .flat_map(|beat| &beat.tenants)
            .filter(|load| load.tenant == tenant);
        (
            sum(loads.clone().map(|load| load.sessions)),
            sum(loads.map(|load| load.rooms)),
        )
    }

    fn json(&self, problems: &[String]) -> Value {
        let shields: Vec<Value> = self
            .shields
            .values()
            .map(|beat| {
                json!({
                    "id": beat.shield,
                    "version": beat.version,
                    "pool": beat.pool,
                    "ready": beat.ready,
                    "draining": beat.draining,
                    "sessions": beat.sessions,
                    "rooms": beat.rooms,
                    "messages_in": beat.messages_in,
                    "messages_out": beat.messages_out,
                    "uptime_ms": beat.uptime_ms,
                    "fleet_key": beat.fleet_key,
                    "public_address": beat.public_address,
                    "policies": policies_json(beat.policies.as_ref()),
                    "present": beat.presence.as_ref().map_or(0, |presence| presence.entries),
                })
            })
            .collect();
        let brains: Vec<Value> = self
            .brains
            .values()
            .map(|beat| {
                json!({
                    "id": beat.brain,
                    "version": beat.version,
                    "warm": beat.warm,
                    "members": beat.members,
                    "tenants": beat.tenants,
                    "shields": beat.shields,
                    "share": beat.share,
                    "uptime_ms": beat.uptime_ms,
                    "listen": beat.listen,
                })
            })
            .collect();
        let tenants: Vec<Value> = self
            .tenants
            .iter()
            .map(|tenant| {
                let (sessions, rooms) = self.load(&tenant.id);
                json!({
                    "id": tenant.id,
                    "suspended": tenant.state() == TenantState::Suspended,
                    "pool": tenant.pool,
                    "sessions": sessions,
                    "rooms": rooms,
                })
            })
            .collect();
        let servers: Vec<Value> = self
            .servers
            .iter()
            .map(|server| {
                json!({
                    "name": server.name,
                    "version": server.version,
                    "connections": server.connections,
                    "uptime_secs": server.uptime_secs,
                    "memory_bytes": server.memory_bytes,
                    "slow_consumers": server.slow_consumers,
                })
            })
            .collect();
        json!({
            "healthy": problems.is_empty(),
            "problems": problems,
            "version": env!("CARGO_PKG_VERSION"),
            "sessions": self.sessions(),
            "rooms": self.rooms(),
            "nats": servers,
            "shields": shields,
            "presence": !self.brains.is_empty(),
            "brains": brains,
            "tenants": tenants,
            "policies": self.policies.json(),
            "pools": self.pools.iter().map(|pool| json!({"name": pool.name, "rotating": pool.fleet_keys.len() > 1})).collect::<Vec<_>>(),
        })
    }

    /// How it is, and what is not well.
    fn head(&self, problems: &[String], output: &Output) -> Vec<String> {
        let version = env!("CARGO_PKG_VERSION");
        let health = if problems.is_empty() {
            output.paint(Paint::Green, "healthy")
        } else {
            output.paint(Paint::Red, "not well")
        };
        let count = |of: u64, noun| counted(usize::try_from(of).unwrap_or(usize::MAX), noun);
        let mut lines = vec![format!(
            "ArqonBus is {health}: {} in {} on {} of {} Shields ready (arq {version})",
            count(self.sessions(), "session"),
            count(self.rooms(), "room"),
            self.shields.values().filter(|beat| beat.ready).count(),
            self.shields.len()
        )];
        let label = output.paint(Paint::Red, "problem:");
        // They name Shields and tell their reasons, which are of others' making.
        let problems = problems.iter();
        lines.extend(problems.map(|problem| format!("{label} {}", escaped(problem))));
        lines
    }

    fn show(&self, problems: &[String], output: &Output) -> Result {
        for line in self.head(problems, output) {
            output.line(line)?;
        }
        output.line("")?;
        let servers = self.servers.iter().map(|server| {
            vec![
                server.name.clone(),
                server.version.clone(),
                server.connections.to_string(),
                format!("{} MiB", server.memory_bytes >> 20),
                words(server.uptime_secs),
            ]
        });
        output.table(
            &["nats server", "version", "connections", "memory", "up"],
            servers.collect(),
            "no NATS server answered",
        )?;
        output.line("")?;
        let shields = self.shields.values().map(|beat| {
            let state = match (beat.ready, beat.draining) {
                (true, false) => "ready",
                (_, true) => "draining",
                (false, false) => "not ready",
            };
            vec![
                beat.shield.clone(),
                state.to_owned(),
                beat.version.clone(),
                beat.pool.clone(),
                beat.sessions.to_string(),
                beat.rooms.to_string(),
                beat.messages_in.to_string(),
                beat.messages_out.to_string(),
                words(beat.uptime_ms / 1_000),
            ]
        });
        output.table(
            &[
                "shield", "state", "version", "pool", "sessions", "rooms", "in", "out", "up",
            ],
            shields.collect(),
            "no Shield reports",
        )?;
        output.line("")?;
        let brains = self.brains.values().map(|beat| {
            let state = if beat.warm { "warm" } else { "warming up" };
            vec![
                beat.brain.clone(),
                state.to_owned(),
                beat.version.clone(),
                beat.members.to_string(),
                beat.tenants.to_string(),
                beat.shields.to_string(),
                format!("{} of {}", beat.share, beat.tenants),
                words(beat.uptime_ms / 1_000),
            ]
        });
        output.table(
            &[
                "brain", "state", "version", "members", "tenants", "shields", "tells of", "up",
            ],
            brains.collect(),
            "no Brain is heard: presence is unavailable, messages flow",
        )?;
        output.line("")?;
        let tenants = self.tenants.iter().map(|tenant| {
            let (sessions, rooms) = self.load(&tenant.id);
            let state = if tenant.state() == TenantState::Suspended {
                "suspended"
            } else {
                "active"
            };
            vec![
                tenant.id.clone(),
                state.to_owned(),
                tenant.pool.clone(),
                sessions.to_string(),
                rooms.to_string(),
            ]
        });
        output.table(
            &["tenant", "state", "pool", "sessions", "rooms"],
            tenants.collect(),
            "no tenants",
        )?;
        output.line("")?;
        self.policies.show(output)
    }
}

/// Of numbers that others choose.
fn sum(numbers: impl Iterator<Item = u32>) -> u64 {
    numbers.map(u64::from).fold(0, u64::saturating_add)
}

/// A Shield's policies in short.
fn policies_json(summary: Option<&PolicySummary>) -> Value {
    let Some(summary) = summary else {
        return Value::Null;
    };
    let counts = summary.counts.unwrap_or_default();
    json!({
        "revision": summary.revision,
        "active": summary.active,
        "broken": summary.broken,
        "quarantined": summary.quarantined,
        "counts": crate::policy::counts_json(&counts),
    })
}

#[cfg(test)]
mod tests {
    use arqon_proto::v1::TenantLoad;

    use super::*;

    /// Two Shields that tell the largest numbers there are.
    fn picture(ids: [&str; 2]) -> Picture {
        let load = TenantLoad {
            tenant: "acme".to_owned(),
            sessions: u32::MAX,
            rooms: u32::MAX,
            ..TenantLoad::default()
        };
        let shields = ids.map(|id| {
            let beat = ShieldBeat {
                shield: id.to_owned(),
                sessions: u32::MAX,
                rooms: u32::MAX,
                tenants: vec![load.clone(), load.clone()],
                ..ShieldBeat::default()
            };
            (id.to_owned(), beat)
        });
        Picture {
            servers: Vec::new(),
            shields: shields.into(),
            brains: BTreeMap::new(),
            tenants: Vec::new(),
            pools: Vec::new(),
            policies: Overview::default(),
        }
    }

    #[test]
    fn no_number_is_too_large() {
        let picture = picture(["a", "b"]);
        let largest = u64::from(u32::MAX);
        assert_eq!(picture.sessions(), 2 * largest);
        assert_eq!(picture.rooms(), 2 * largest);
        assert_eq!(picture.load("acme"), (4 * largest, 4 * largest));
        assert_eq!(picture.load("globex"), (0, 0));
        assert_eq!(picture.json(&[])["sessions"], 2 * largest);
    }

    #[test]
    fn what_shields_say_steers_no_terminal() {
        let picture = picture(["a\x1b[2J\u{9b}1A", "b\x07\nproblem: none"]);
        let output = Output {
            json: false,
            colour: false,
            colour_stderr: false,
        };
        let problems = picture.problems();
        let lines = picture.head(&problems, &output);
        assert_eq!(
            lines[1..],
            [
                "problem: a\\u{1b}[2J\\u{9b}1A is not ready",
                "problem: b\\u{7}\\nproblem: none is not ready",
            ]
        );
        assert!(lines[0].starts_with("ArqonBus is not well: 8589934590 sessions in"));
        assert_eq!(
            picture.json(&problems)["problems"][0],
            "a\x1b[2J\u{9b}1A is not ready",
            "as it is, for serde escapes it"
        );
    }
}
