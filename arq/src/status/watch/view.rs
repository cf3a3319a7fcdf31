//! What was heard so far, and what is to be seen of it: pure, with the time as an argument.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqon_proto::v1::{BrainBeat, PoolRecord, ShieldBeat, TenantLoad, TenantRecord, TenantState};
use arqon_spine::admin::ServerStatus;
use arqon_spine::control::{PoolEvent, RecordEvent, TenantEvent};
use time::OffsetDateTime;

use super::picture::{Brain, Picture, Policies, Shield, ShieldState, Tenant, Total};
use super::rates::{Meter, Rate, Rates, TenantRates, sum};
use crate::status::{self, LISTEN, problems};

/// Reports come once a second; two may be lost on the way before a process counts as silent.
const SILENT: Duration = Duration::from_secs(3);

/// Long enough to be seen by who looks up now and then.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How many tenants a Shield names in a beat.
const NAMED_TENANTS: usize = 100;

/// What there is to hear.
#[derive(Debug)]
pub(super) enum Heard {
    /// NATS is there, and everything is told from the start.
    Up,
    /// NATS is lost, or still is.
    Down(String),
    Shield(Box<ShieldBeat>),
    Brain(BrainBeat),
    Tenant(TenantEvent),
    Pool(PoolEvent),
    Servers(Vec<ServerStatus>),
}

/// All that was heard.
#[derive(Debug)]
pub(super) struct View {
    spine: Spine,
    shields: BTreeMap<String, Reporting<ShieldBeat, Meter>>,
    brains: BTreeMap<String, Reporting<BrainBeat, ()>>,
    tenants: Records<TenantRecord>,
    pools: Records<PoolRecord>,
    servers: Vec<ServerStatus>,
}

#[derive(Debug)]
enum Spine {
    Up { since: Instant },
    Down { since: Instant, why: String },
}

/// The records of one kind; complete once `synced`.
#[derive(Debug, Default)]
struct Records<R> {
    by_name: BTreeMap<String, R>,
    synced: bool,
}

/// The newest report of a process.
#[derive(Debug)]
struct Reporting<B, M> {
    beat: B,
    heard: Instant,
    meter: M,
}

// === impl View ===

impl View {
    /// Nothing was heard yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            spine: Spine::Up { since: now },
            shields: BTreeMap::new(),
            brains: BTreeMap::new(),
            tenants: Records::default(),
            pools: Records::default(),
            servers: Vec::new(),
        }
    }

    /// Takes in what was heard.
    pub(super) fn hear(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Up => {
                self.spine = Spine::Up { since: now };
                // What was deleted meanwhile is not told.
                self.tenants = Records::default();
                self.pools = Records::default();
            }
            Heard::Down(why) => {
                let since = match self.spine {
                    Spine::Up { .. } => now,
                    Spine::Down { since, .. } => since,
                };
                self.spine = Spine::Down { since, why };
                self.servers.clear();
            }
            Heard::Shield(beat) => self.hear_shield(*beat, now),
            Heard::Brain(beat) if beat.goodbye => {
                self.brains.remove(&beat.brain);
            }
            Heard::Brain(beat) => {
                let heard = Reporting {
                    heard: now,
                    meter: (),
                    beat,
                };
                self.brains.insert(heard.beat.brain.clone(), heard);
            }
            Heard::Tenant(RecordEvent::Put(record, _)) => {
                self.tenants.by_name.insert(record.id.clone(), record);
            }
            Heard::Tenant(RecordEvent::Deleted(id, _) | RecordEvent::Unreadable(id, _)) => {
                self.tenants.by_name.remove(id.as_str());
            }
            Heard::Tenant(RecordEvent::Synced) => self.tenants.synced = true,
            Heard::Pool(RecordEvent::Put(record, _)) => {
                self.pools.by_name.insert(record.name.clone(), record);
            }
            Heard::Pool(RecordEvent::Deleted(name, _) | RecordEvent::Unreadable(name, _)) => {
                self.pools.by_name.remove(name.as_str());
            }
            Heard::Pool(RecordEvent::Synced) => self.pools.synced = true,
            Heard::Servers(servers) => self.servers = servers,
        }
    }

    fn hear_shield(&mut self, beat: ShieldBeat, now: Instant) {
        if beat.goodbye {
            self.shields.remove(&beat.shield);
            return;
        }
        match self.shields.get_mut(&beat.shield) {
            Some(known) => {
                known.beat = beat;
                known.heard = now;
            }
            None => {
                let heard = Reporting {
                    meter: Meter::new(beat.clone()),
                    heard: now,
                    beat,
                };
                self.shields.insert(heard.beat.shield.clone(), heard);
            }
        }
    }

    /// Counts the rates anew, up to what was heard by now, and forgets who has long been silent.
    pub(super) fn advance(&mut self, now: Instant) {
        let spine = &self.spine;
        self.shields
            .retain(|_, shield| spine.silence(shield.heard, now) <= FORGOTTEN);
        self.brains
            .retain(|_, brain| spine.silence(brain.heard, now) <= FORGOTTEN);
        for shield in self.shields.values_mut() {
            shield.meter.advance(&shield.beat);
        }
    }

    /// What is to be seen now.
    pub(super) fn picture(&self, now: Instant, at: OffsetDateTime) -> Picture {
        let listening = match self.spine {
            Spine::Up { since } => {
                now.duration_since(since) < LISTEN || !self.tenants.synced || !self.pools.synced
            }
            Spine::Down { .. } => false,
        };
        let lost = match &self.spine {
            Spine::Up { .. } => None,
            Spine::Down { since, why } => Some((why.clone(), now.duration_since(*since).as_secs())),
        };
        let shields = self.shield_rows(now);
        Picture {
            at,
            problems: if listening || lost.is_some() {
                Vec::new()
            } else {
                self.problems(now)
            },
            listening,
            lost,
            total: total(&shields),
            tenants: self.tenant_rows(now),
            unnamed_tenants: self
                .heard_shields(now)
                .any(|shield| shield.beat.tenants.len() >= NAMED_TENANTS),
            policies: self.policy_rows(now),
            brains: self.brain_rows(now),
            servers: self.servers.clone(),
            shields,
        }
    }

    /// Shields that report.
    fn heard_shields(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = &Reporting<ShieldBeat, Meter>> + Clone {
        let heard = move |shield: &&Reporting<ShieldBeat, Meter>| {
            self.spine.silent_secs(shield.heard, now).is_none()
        };
        self.shields.values().filter(heard)
    }

    /// The rates of a Shield, as long as it is heard.
    fn rates<'a>(
        &self,
        shield: &'a Reporting<ShieldBeat, Meter>,
        now: Instant,
    ) -> Option<&'a Rates> {
        let hearing = matches!(self.spine, Spine::Up { .. });
        let silent = self.spine.silent_secs(shield.heard, now).is_some();
        (hearing && !silent).then(|| shield.meter.rates())
    }

    fn problems(&self, now: Instant) -> Vec<String> {
        let brains = self.brains.values();
        let silent_brain =
            |brain: &Reporting<BrainBeat, ()>| self.spine.silent_secs(brain.heard, now);
        let mut all = problems::of(
            self.heard_shields(now).map(|shield| &shield.beat),
            brains
                .clone()
                .filter(|brain| silent_brain(brain).is_none())
                .map(|brain| &brain.beat),
            self.tenants.by_name.values(),
            self.pools.by_name.values(),
        );
        let shields = self.shields.iter().map(|(id, shield)| {
            let silent = self.spine.silent_secs(shield.heard, now);
            (id, silent)
        });
        let brains = brains.map(|brain| (&brain.beat.brain, silent_brain(brain)));
        for (id, silent) in shields.chain(brains) {
            if let Some(secs) = silent {
                all.push(format!("{id} has been silent for {secs} s"));
            }
        }
        for shield in self.heard_shields(now) {
            let Some(summary) = &shield.beat.policies else {
                continue;
            };
            let id = &shield.beat.shield;
            if summary.broken > 0 {
                all.push(format!(
                    "{} cannot run on {id}, and blocks there; `arq policy list` shows which",
                    crate::output::counted(summary.broken as usize, "policy binding")
                ));
            }
            if summary.quarantined > 0 {
                all.push(format!(
                    "{} of policies on {id}; `arq policy list` shows which",
                    crate::output::counted(summary.quarantined as usize, "quarantine")
                ));
            }
        }
        all
    }

    fn shield_rows(&self, now: Instant) -> Vec<Shield> {
        let rows = self.shields.values().map(|shield| {
            let beat = &shield.beat;
            let rates = self.rates(shield, now);
            let rate = |of: fn(&Rates) -> Rate| rates.and_then(of);
            Shield {
                id: beat.shield.clone(),
                state: match self.spine.silent_secs(shield.heard, now) {
                    Some(secs) => ShieldState::Silent(secs),
                    None if beat.draining => ShieldState::Draining,
                    None if beat.ready => ShieldState::Ready,
                    None => ShieldState::NotReady,
                },
                version: beat.version.clone(),
                pool: beat.pool.clone(),
                sessions: beat.sessions,
                rooms: beat.rooms,
                messages_in: rate(|rates| rates.messages_in),
                messages_out: rate(|rates| rates.messages_out),
                errors: rate(|rates| rates.errors),
                slow_readers: rate(|rates| rates.slow_readers),
                auth_failures: rate(|rates| rates.auth_failures),
                delivery: rates.and(beat.delivery).filter(|latency| latency.count > 0),
                uptime_ms: beat.uptime_ms,
            }
        });
        let mut rows: Vec<Shield> = rows.collect();
        // Who is not well stands above the busiest.
        rows.sort_by_key(|row| {
            let activity = activity(row.messages_in, row.messages_out);
            (
                row.state == ShieldState::Ready,
                Reverse(activity),
                Reverse(row.sessions),
            )
        });
        rows
    }

    fn tenant_rows(&self, now: Instant) -> Vec<Tenant> {
        let mut rows: BTreeMap<&str, Tenant> = BTreeMap::new();
        for record in self.tenants.by_name.values() {
            let row = rows.entry(&record.id).or_insert_with(|| tenant(&record.id));
            row.suspended = record.state() == TenantState::Suspended;
            row.pool.clone_from(&record.pool);
        }
        for shield in self.heard_shields(now) {
            let rates = self.rates(shield, now);
            for load in &shield.beat.tenants {
                let row = rows
                    .entry(&load.tenant)
                    .or_insert_with(|| tenant(&load.tenant));
                add(
                    row,
                    load,
                    rates.and_then(|rates| rates.tenants.get(&load.tenant)),
                );
            }
        }
        let mut rows: Vec<Tenant> = rows.into_values().collect();
        rows.sort_by_key(|row| {
            let activity = activity(row.rates.messages_in, row.rates.messages_out);
            (Reverse(activity), Reverse(row.sessions))
        });
        rows
    }

    fn policy_rows(&self, now: Instant) -> Vec<Policies> {
        let rows = self.heard_shields(now).filter_map(|shield| {
            let summary = shield.beat.policies.as_ref()?;
            Some(Policies {
                shield: shield.beat.shield.clone(),
                active: summary.active,
                broken: summary.broken,
                quarantined: summary.quarantined,
                rates: self
                    .rates(shield, now)
                    .map(|rates| rates.policies)
                    .unwrap_or_default(),
            })
        });
        let mut rows: Vec<Policies> = rows.collect();
        rows.sort_by_key(|row| {
            let blocks = [row.rates.blocked, row.rates.faults, row.rates.unavailable];
            (
                row.broken == 0 && row.quarantined == 0,
                Reverse(micro(sum(blocks))),
            )
        });
        rows
    }

    fn brain_rows(&self, now: Instant) -> Vec<Brain> {
        let rows = self.brains.values().map(|brain| {
            let beat = &brain.beat;
            Brain {
                id: beat.brain.clone(),
                warm: beat.warm,
                silent_secs: self.spine.silent_secs(brain.heard, now),
                version: beat.version.clone(),
                members: beat.members,
                tenants: beat.tenants,
                shields: beat.shields,
                share: beat.share,
                uptime_ms: beat.uptime_ms,
            }
        });
        rows.collect()
    }
}

// === impl Spine ===

impl Spine {
    /// How long a process has not reported. While NATS is lost nobody can, so that time does not
    /// count, and after it everybody begins anew.
    fn silence(&self, heard: Instant, now: Instant) -> Duration {
        match self {
            Self::Up { since } => now.saturating_duration_since(heard.max(*since)),
            Self::Down { since, .. } => since.saturating_duration_since(heard),
        }
    }

    fn silent_secs(&self, heard: Instant, now: Instant) -> Option<u64> {
        let silence = self.silence(heard, now);
        (silence > SILENT).then_some(silence.as_secs())
    }
}

/// Over the Shields that are heard.
fn total(shields: &[Shield]) -> Total {
    let heard = || {
        shields
            .iter()
            .filter(|shield| shield.state.silent_secs().is_none())
    };
    let slowest = heard()
        .filter_map(|shield| Some((shield.id.clone(), shield.delivery?)))
        .max_by_key(|(_, latency)| latency.p99_us);
    Total {
        sessions: status::sum(heard().map(|shield| shield.sessions)),
        rooms: status::sum(heard().map(|shield| shield.rooms)),
        ready: heard()
            .filter(|shield| shield.state == ShieldState::Ready)
            .count(),
        messages_in: sum(heard().map(|shield| shield.messages_in)),
        messages_out: sum(heard().map(|shield| shield.messages_out)),
        errors: sum(heard().map(|shield| shield.errors)),
        slowest,
    }
}

fn tenant(id: &str) -> Tenant {
    Tenant {
        id: id.to_owned(),
        suspended: false,
        pool: String::new(),
        sessions: 0,
        rooms: 0,
        rates: TenantRates::default(),
    }
}

fn add(row: &mut Tenant, load: &TenantLoad, rates: Option<&TenantRates>) {
    row.sessions = row.sessions.saturating_add(load.sessions.into());
    row.rooms = row.rooms.saturating_add(load.rooms.into());
    let rates = rates.copied().unwrap_or_default();
    let own = &mut row.rates;
    own.messages_in = sum([own.messages_in, rates.messages_in]);
    own.messages_out = sum([own.messages_out, rates.messages_out]);
    own.errors = sum([own.errors, rates.errors]);
}

/// What a list is ordered by.
fn activity(messages_in: Rate, messages_out: Rate) -> u64 {
    micro(sum([messages_in, messages_out]))
}

/// A rate as a number that has an order.
fn micro(rate: Rate) -> u64 {
    // Never negative; a rate that is too large is the largest.
    (rate.unwrap_or(0.0) * 1e6) as u64
}
