//! `arq bench presence`: what presence costs Brain, and what a storm costs listeners.
//!
//! Needs a running NATS and Shield of this context and a built release of
//! Brain; it starts Brains of its own. The joins come from a raw NATS peer that
//! speaks as a Shield, so that Brain is what is measured; the storm goes
//! through the real Shield.

mod brain;
mod writer;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_client::{Client, ConnectParams};
use arqon_proto::{
    names::{NodeId, TenantId},
    v1::{Join, PresenceMode, envelope::Body},
};
use arqon_spine::{credentials::FleetKey, state::Role};
use clap::Args;
use prost::Message;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use self::{
    brain::Brain,
    writer::{Place, Writer},
};
use super::{process, report::Record};
use crate::{
    Globals, admin,
    auth::{DevelopmentKey, TokenOptions, sign},
    context::Context,
    failure::{Doing, Failure, Result},
};

/// What `arq bench presence` takes.
#[derive(Debug, Args)]
pub(super) struct PresenceArgs {
    /// Sessions that Brain tracks
    #[arg(long, default_value_t = 100_000)]
    members: usize,
    /// Sessions in each room
    #[arg(long, default_value_t = 100)]
    in_room: usize,
    /// Members of the room that is listed, and that a crash empties
    #[arg(long, default_value_t = 10_000)]
    large_room: usize,
    /// Sessions that join one room at once through Shield; 0: none
    #[arg(long, default_value_t = 10_000)]
    storm: usize,
}

/// Handshakes under way at once in the storm.
const OPENING: usize = 64;
/// After the last join the listeners listen on for so long.
const AFTER_STORM: Duration = Duration::from_secs(5);

/// Measures, one record for Brain and one for the storm.
pub(super) fn run(args: &PresenceArgs, globals: &Globals) -> Result<Vec<Record>> {
    let folder = std::env::temp_dir().join(format!("arq-bench-{}", std::process::id()));
    crate::context::create_folder(&folder)?;
    let measured = globals.wait(async {
        let context = globals.context()?;
        Box::pin(measure(args, globals, &context, &folder)).await
    });
    let _ = std::fs::remove_dir_all(&folder);
    measured
}

async fn measure(
    args: &PresenceArgs,
    globals: &Globals,
    context: &Context,
    folder: &std::path::Path,
) -> Result<Vec<Record>> {
    let state = context.spine_state()?;
    let servers = &context.settings.nats;
    let note = |text: &str| globals.output.note(text);

    note("starting a Brain");
    let (first, cold) = Brain::start(&state, servers, folder, "bench-brain-1").await?;
    let place = place(context).await?;
    let mut writer = Writer::start(place, "bench-shield").await?;
    // Its first beat puts the writer in force.
    until(async || Ok(first.metric("arqon_brain_shields").await? >= 2.0)).await?;

    note("joins");
    let processes = first.processes();
    let before = process::rss(&processes)?;
    let memory = first.metric("arqon_brain_beam_memory_bytes").await?;
    let (cpu, begun) = (process::cpu(&processes)?, Instant::now());
    writer.join("bench.r", args.members, args.in_room).await?;
    let wanted = args.members as f64;
    until(async || Ok(first.metric("arqon_brain_members").await? >= wanted)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = process::cpu_between(&cpu, &process::cpu(&processes)?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = process::rss(&processes)?;
    let mut metrics = BTreeMap::from([
        ("joins_per_s".to_owned(), wanted / seconds),
        (
            "beam_bytes_per_member".to_owned(),
            (first.metric("arqon_brain_beam_memory_bytes").await? - memory) / wanted,
        ),
    ]);
    let total: f64 = used.values().sum();
    metrics.insert("joins_per_s_per_core".into(), wanted / total);
    for (name, seconds) in used {
        metrics.insert(format!("us_per_join_{name}"), seconds * 1e6 / wanted);
        let grown = after[&name].saturating_sub(before[&name]);
        metrics.insert(
            format!("rss_bytes_per_member_{name}"),
            grown as f64 / wanted,
        );
    }

    note("a second Brain warms up");
    let (second, warm) = Brain::start(&state, servers, folder, "bench-brain-2").await?;
    metrics.insert("start_to_warm_empty_s".into(), cold.as_secs_f64());
    metrics.insert("start_to_warm_full_s".into(), warm.as_secs_f64());
    if second.metric("arqon_brain_members").await? < wanted {
        return Err(Failure::new(format!(
            "{} is warm without all members",
            second.name
        )));
    }

    note("a large room");
    writer
        .join("bench.large", args.large_room, args.large_room)
        .await?;
    let (listed, told) = writer.ask("bench.large0").await?;
    if told != args.large_room {
        return Err(Failure::new(format!(
            "{told} of {} members were told",
            args.large_room
        )));
    }
    metrics.insert("list_large_room_ms".into(), listed.as_secs_f64() * 1e3);

    note("a crash of the Shield that holds it");
    let mut watcher = open(context, globals, "bench-watcher").await?;
    let options = Join {
        presence: PresenceMode::Count.into(),
        ..Join::default()
    };
    watcher.join("bench.large0", options).await.map_err(wrong)?;
    let full = u32::try_from(args.large_room)?;
    counted(&mut watcher, |count| count > full).await?;
    drop(writer);
    let crashed = Instant::now();
    counted(&mut watcher, |count| count <= 1).await?;
    metrics.insert(
        "crash_to_last_leave_s".into(),
        crashed.elapsed().as_secs_f64(),
    );
    let brain = Record {
        bench: "presence".into(),
        label: "brain".into(),
        params: BTreeMap::from([
            ("members".to_owned(), json!(args.members)),
            ("in_room".to_owned(), json!(args.in_room)),
            ("large_room".to_owned(), json!(args.large_room)),
        ]),
        metrics,
        problems: BTreeMap::new(),
    };
    let mut records = vec![brain];
    if args.storm > 0 {
        note("a storm of joins into one room");
        records.push(storm(args.storm, context, globals).await?);
    }
    Ok(records)
}

async fn place(context: &Context) -> Result<Place> {
    let admin = Box::pin(admin::connect(context)).await?;
    let tenant = TenantId::parse(&context.settings.default_tenant)?;
    let found = admin.control().get_tenant(&tenant).await?;
    admin.close().await;
    let (record, _) = found.ok_or_else(|| Failure::new(format!("there is no tenant {tenant}")))?;
    let state = context.spine_state()?;
    let pool = NodeId::parse(&record.pool)?;
    Ok(Place {
        servers: context.settings.nats.clone(),
        control_creds: state.creds(Role::Shield, &NodeId::parse("bench-shield")?)?,
        fleet_key: FleetKey::read(&state.fleet_key_path(&pool))
            .doing("cannot read the fleet key")?,
        tenant,
        account: record.account,
    })
}

async fn storm(count: usize, context: &Context, globals: &Globals) -> Result<Record> {
    let key = DevelopmentKey::open(context, &globals.output)?;
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut sessions = JoinSet::new();
    let begun = Instant::now();
    let (joined, all) = tokio::sync::watch::channel(0_usize);
    for n in 0..count {
        let token = token(&key, context, &format!("storm-{n}"))?;
        let params = ConnectParams {
            source_addr: Some([127, 0, 0, 2 + (n % 4) as u8].into()),
            ..ConnectParams::new(&context.settings.shield_url, token)
        };
        let (opening, joined, mut all) = (opening.clone(), joined.clone(), all.clone());
        sessions.spawn(async move {
            let turn = opening.acquire_owned().await.ok()?;
            let mut client = Client::connect(params).await.ok()?;
            let options = Join {
                presence: PresenceMode::Full.into(),
                ..Join::default()
            };
            client.join("bench.storm", options).await.ok()?;
            drop(turn);
            joined.send_modify(|joined| *joined += 1);
            let over = async {
                let _ = all.wait_for(|joined| *joined >= count).await;
                tokio::time::sleep(AFTER_STORM).await;
            };
            tokio::pin!(over);
            let (mut frames, mut bytes, mut last) = (0_u64, 0_u64, 0_u32);
            loop {
                tokio::select! {
                    heard = client.recv() => {
                        let envelope = heard.ok()??;
                        frames += 1;
                        bytes += envelope.encoded_len() as u64;
                        last = match envelope.body {
                            Some(Body::PresenceState(body)) => body.count,
                            Some(Body::PresenceUpdate(body)) => body.count,
                            Some(Body::PresenceLeave(body)) => body.count,
                            _ => last,
                        };
                    }
                    () = &mut over => return Some((frames, bytes, last)),
                }
            }
        });
    }
    let mut seen = all.clone();
    let joining = seen.wait_for(|joined| *joined >= count);
    let joined_all = tokio::time::timeout(Duration::from_secs(300), joining)
        .await
        .is_ok();
    if !joined_all {
        return Err(Failure::new(format!(
            "only {} of {count} joined",
            *all.borrow()
        )));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (mut frames, mut bytes, mut most, mut largest, mut heard, mut right) = (0, 0, 0, 0, 0, 0);
    while let Some(session) = sessions.join_next().await {
        if let Ok(Some((its_frames, its_bytes, last))) = session {
            frames += its_frames;
            bytes += its_bytes;
            most = most.max(its_frames);
            largest = largest.max(its_bytes);
            heard += 1;
            right += usize::from(last as usize == count);
        }
    }
    let each = |sum: u64| sum as f64 / f64::from(heard.max(1));
    Ok(Record {
        bench: "presence".into(),
        label: "storm".into(),
        params: BTreeMap::from([("sessions".to_owned(), json!(count))]),
        metrics: BTreeMap::from([
            ("joins_per_s".to_owned(), count as f64 / seconds),
            ("frames_per_listener".to_owned(), each(frames)),
            ("frames_per_listener_max".to_owned(), most as f64),
            ("kib_per_listener".to_owned(), each(bytes) / 1024.0),
            ("kib_per_listener_max".to_owned(), largest as f64 / 1024.0),
            ("mib_in_all".to_owned(), bytes as f64 / 1_048_576.0),
            ("listeners_with_right_count".to_owned(), right as f64),
        ]),
        problems: BTreeMap::new(),
    })
}

fn token(key: &DevelopmentKey, context: &Context, user: &str) -> Result<String> {
    let options = TokenOptions {
        user: Some(user.to_owned()),
        ..TokenOptions::default()
    };
    sign(key, None, &options.claims(context)?)
}

async fn open(context: &Context, globals: &Globals, user: &str) -> Result<Client> {
    let key = DevelopmentKey::open(context, &globals.output)?;
    let params = ConnectParams::new(&context.settings.shield_url, token(&key, context, user)?);
    Client::connect(params).await.map_err(wrong)
}

/// Listens until a count is as wanted.
async fn counted(client: &mut Client, wanted: impl Fn(u32) -> bool) -> Result {
    let listening = async {
        loop {
            match client.recv().await.map_err(wrong)? {
                Some(envelope) => match envelope.body {
                    Some(Body::PresenceCount(body)) if wanted(body.count) => return Ok(()),
                    _ => {}
                },
                None => return Err(Failure::new("Shield closed the watcher's session")),
            }
        }
    };
    let limit = Duration::from_secs(60);
    match tokio::time::timeout(limit, listening).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new("the watcher was not told of it in 60 s")),
    }
}

async fn until(mut done: impl AsyncFnMut() -> Result<bool>) -> Result {
    let limit = Instant::now() + Duration::from_secs(120);
    while !done().await? {
        if Instant::now() > limit {
            return Err(Failure::new("Brain did not take all of it in 120 s"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn wrong(error: arqon_client::ClientError) -> Failure {
    Failure::new(format!("the watcher failed: {error}"))
}
