//! One run: start, faults, healing, judgement.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::checker::{Evidence, Judgement, judge};
use super::guest::{Guest, GuestParams, Phase, user_of};
use super::history::{History, Record};
use super::plan::{self, Fault, Kind, Target};
use super::world::World;
use super::{CLIENTS, ROOMS, TENANTS, quiet, show};
use crate::chance::Chance;
use crate::{secret_in, within};

/// A Shield of these few sessions needs a tenth of it.
const MEMORY: u64 = 512 << 20;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Draws the faults.
    pub seed: u64,
    /// How long faults befall the bus.
    pub time: Duration,
    /// Whether the folder stays where nothing was found, too.
    pub keep: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The faults that befell it.
    pub faults: Vec<Fault>,
    /// What clients saw.
    pub records: Vec<Record>,
    /// What is to be said about that.
    pub judgement: Judgement,
    /// What was wrong beside: processes that died, clients that did not come
    /// back, presence that is not so.
    pub problems: Vec<String>,
    /// How long the bus took to be well again.
    pub recovery: Duration,
    /// The most that a Shield had in RAM, bytes.
    pub memory: u64,
    /// Logs, manifests and the history, where they were kept.
    pub folder: Option<PathBuf>,
}

impl Outcome {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.judgement.violations.is_empty() && self.problems.is_empty()
    }
}

/// Runs it.
pub async fn run(options: Options) -> Outcome {
    let faults = plan::draw(options.seed, options.time);
    let mut chance = Chance::new(options.seed);
    say("starting three nats-servers, two Shields, two Brains");
    let mut world = World::start().await;
    within("everything to be ready", async {
        while !world.unready().await.is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let start = Instant::now();
    let history = History::new(start);
    let (phase, seen) = watch::channel(Phase::Busy);
    let guests = invite(&world, &history, &mut chance, &seen);

    let mut outcome = Outcome::default();
    let mut ends = Vec::new();
    outcome.memory = endure(&mut world, &faults, options.time, start, &mut ends).await;
    say("healing");
    let healing = start.elapsed();
    world.heal().await;
    let _ = phase.send(Phase::Quiet);
    outcome.problems = quiet::settle(&mut world, &guests, &mut chance).await;
    outcome.recovery = start.elapsed().saturating_sub(healing);
    let alive = guests
        .iter()
        .filter_map(|guest| Some(guest.known().session.as_ref()?.0));
    let mut evidence = Evidence {
        alive: alive.collect(),
        ends,
        troubled: troubled(&faults, healing),
        records: history.take(),
    };
    // What is heard from here on is not judged.
    let _ = phase.send(Phase::Over);
    for guest in guests {
        if let Err(error) = guest.task.await {
            outcome.problems.push(format!("a client failed: {error}"));
        }
    }
    outcome.judgement = judge(&evidence);
    outcome.records = std::mem::take(&mut evidence.records);
    outcome.faults = faults;
    outcome.problems.append(&mut world.problems);
    outcome.problems.extend(bad_lines(&world));
    if outcome.memory > MEMORY {
        let mib = outcome.memory >> 20;
        outcome
            .problems
            .push(format!("a Shield had {mib} MiB in RAM"));
    }
    if options.keep || !outcome.is_clean() {
        let folder = world.keep();
        if let Err(error) = show::write(&outcome, &folder) {
            say(&format!("the history cannot be written: {error}"));
        }
        outcome.folder = Some(folder);
    }
    outcome
}

fn invite(
    world: &World,
    history: &History,
    chance: &mut Chance,
    phase: &watch::Receiver<Phase>,
) -> Vec<Guest> {
    let mut guests = Vec::new();
    for tenant in 0..TENANTS.len() as u8 {
        for client in 0..CLIENTS {
            // All but one, which is another one for each.
            let out = client % ROOMS.len() as u8;
            let params = GuestParams {
                tenant,
                client,
                user: user_of(client),
                account: world.tenants[usize::from(tenant)].clone(),
                doors: world.doors(),
                rooms: (0..ROOMS.len() as u8).filter(|room| *room != out).collect(),
            };
            guests.push(Guest::spawn(
                params,
                history,
                chance.branch(),
                phase.clone(),
            ));
        }
    }
    guests
}

/// Lets the faults befall the bus; the most that a Shield had in RAM.
async fn endure(
    world: &mut World,
    faults: &[Fault],
    time: Duration,
    start: Instant,
    ends: &mut Vec<Duration>,
) -> u64 {
    let mut moments: Vec<(Duration, bool, &Fault)> = Vec::new();
    for fault in faults {
        moments.push((fault.begin, true, fault));
        moments.push((fault.end, false, fault));
    }
    moments.sort_by_key(|(at, begins, _)| (*at, *begins));
    let mut memory = 0;
    for (at, begins, fault) in moments {
        while start.elapsed() < at {
            world.look_after();
            memory = memory.max(world.largest_shield());
            let left = at.saturating_sub(start.elapsed());
            sleep(left.min(Duration::from_millis(200))).await;
        }
        if begins {
            say(&fault.to_string());
            world.begin(fault.kind);
        } else {
            world.end(fault.kind);
        }
        let is_shield = |target| matches!(target, Target::Shield(_));
        if let Kind::Kill(target) | Kind::Retire(target) = fault.kind
            && is_shield(target)
        {
            ends.push(start.elapsed());
        }
    }
    sleep(time.saturating_sub(start.elapsed())).await;
    world.look_after();
    memory
}

/// When the Spine was in trouble; what is healed ends with the healing.
fn troubled(faults: &[Fault], healing: Duration) -> Vec<(Duration, Duration)> {
    let of_the_spine = faults.iter().filter(|fault| fault.is_of_the_spine());
    let mut times: Vec<_> = of_the_spine.map(|fault| (fault.begin, fault.end)).collect();
    // Servers that come back at the end are trouble too.
    times.push((healing, healing));
    times
}

/// Panics and secrets in the logs of our programs.
fn bad_lines(world: &World) -> Vec<String> {
    let mut bad = Vec::new();
    let files = std::fs::read_dir(world.folder()).into_iter().flatten();
    for file in files.flatten().map(|entry| entry.path()) {
        let ours = file.file_stem().and_then(|name| name.to_str());
        let ours = ours.filter(|name| name.starts_with("shield-") || name.starts_with("brain-"));
        if let (Some(name), Some("log")) = (ours, file.extension().and_then(|it| it.to_str())) {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                bad.push(format!("{name} panicked: {line}"));
            }
            if secret_in(&log).is_some() {
                bad.push(format!("a secret is in the log of {name}"));
            }
        }
    }
    bad
}

/// Progress, on standard error.
fn say(what: &str) {
    eprintln!("nemesis: {what}");
}
