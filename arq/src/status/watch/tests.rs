//! From what is heard to what is seen, without NATS and without a terminal.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use arqon_proto::v1::{
    BrainBeat, Latency, PolicyCounts, PolicySummary, PoolRecord, ShieldBeat, TenantLoad,
    TenantRecord, TenantState,
};
use arqon_spine::admin::ServerStatus;
use arqon_spine::control::RecordEvent;
use time::OffsetDateTime;

use super::lines::Line;
use super::page;
use super::picture::{Picture, ShieldState};
use super::view::{Heard, View};

/// A fleet whose second is in our hand.
struct Fleet {
    view: View,
    start: Instant,
    secs: u64,
    /// Those that report each second.
    shields: Vec<ShieldBeat>,
    brains: Vec<BrainBeat>,
}

impl Fleet {
    fn new(shields: Vec<ShieldBeat>) -> Self {
        let start = Instant::now();
        let mut fleet = Self {
            view: View::new(start),
            start,
            secs: 0,
            shields,
            brains: Vec::new(),
        };
        fleet.connect();
        fleet
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.secs)
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.now();
        self.view.hear(heard, now);
    }

    fn connect(&mut self) {
        self.hear(Heard::Up);
        self.hear(Heard::Pool(RecordEvent::Put(pool("default"), 1)));
        for id in ["acme", "globex", "initech"] {
            let state = match id {
                "initech" => TenantState::Suspended,
                _ => TenantState::Active,
            };
            let record = TenantRecord {
                id: id.to_owned(),
                state: state.into(),
                pool: "default".to_owned(),
                ..TenantRecord::default()
            };
            self.hear(Heard::Tenant(RecordEvent::Put(record, 1)));
        }
        self.hear(Heard::Tenant(RecordEvent::Synced));
        self.hear(Heard::Pool(RecordEvent::Synced));
    }

    /// Lets seconds pass, in each of which all report and a picture is taken.
    fn pass(&mut self, secs: u64) -> Picture {
        for _ in 0..secs {
            self.secs += 1;
            for beat in &mut self.shields {
                beat.uptime_ms += 1_000;
                beat.messages_in += 1_200;
                beat.messages_out += 120_000;
                for (index, load) in (1_u64..).zip(&mut beat.tenants) {
                    load.messages_in += 10 * index;
                    load.messages_out += 1_000 * index;
                    load.errors += index - 1;
                }
                if let Some(counts) = beat.policies.as_mut().and_then(|it| it.counts.as_mut()) {
                    counts.allowed += 1_198;
                    counts.blocked += 2;
                }
            }
            for beat in self.shields.clone() {
                self.hear(Heard::Shield(Box::new(beat)));
            }
            for beat in self.brains.clone() {
                self.hear(Heard::Brain(beat));
            }
            let now = self.now();
            self.view.advance(now);
        }
        self.picture()
    }

    fn picture(&self) -> Picture {
        let at = OffsetDateTime::from_unix_timestamp(1_780_000_000).unwrap();
        let at = at + time::Duration::seconds(i64::try_from(self.secs).unwrap());
        self.view.picture(self.now(), at)
    }
}

fn pool(name: &str) -> PoolRecord {
    PoolRecord {
        name: name.to_owned(),
        ..PoolRecord::default()
    }
}

fn shield(id: &str, p99_us: u64, tenants: &[&str]) -> ShieldBeat {
    let load = |tenant: &&str| TenantLoad {
        tenant: (*tenant).to_owned(),
        sessions: 20,
        rooms: 2,
        ..TenantLoad::default()
    };
    ShieldBeat {
        shield: id.to_owned(),
        incarnation: format!("{id}/1"),
        version: "0.1.0".to_owned(),
        uptime_ms: 3_600_000,
        ready: true,
        sessions: 40,
        rooms: 4,
        pool: "default".to_owned(),
        tenants: tenants.iter().map(load).collect(),
        delivery: Some(Latency {
            count: 1_000,
            p50_us: p99_us / 8,
            p95_us: p99_us / 2,
            p99_us,
        }),
        policies: Some(PolicySummary {
            active: 3,
            counts: Some(PolicyCounts::default()),
            ..PolicySummary::default()
        }),
        ..ShieldBeat::default()
    }
}

fn brain(id: &str) -> BrainBeat {
    BrainBeat {
        brain: id.to_owned(),
        version: "0.1.0".to_owned(),
        uptime_ms: 90_000,
        warm: true,
        members: 77,
        tenants: 2,
        shields: 2,
        share: 1,
        ..BrainBeat::default()
    }
}

fn server(name: &str) -> ServerStatus {
    ServerStatus {
        name: name.to_owned(),
        id: "N".to_owned(),
        version: "2.12.1".to_owned(),
        connections: 9,
        uptime_secs: 86_400,
        memory_bytes: 40 << 20,
        slow_consumers: 0,
    }
}

fn two() -> Fleet {
    let shields = vec![
        shield("shield-1", 900, &["acme", "globex"]),
        shield("shield-2", 4_800, &["acme"]),
    ];
    let mut fleet = Fleet::new(shields);
    fleet.brains = vec![brain("brain-1"), brain("brain-2")];
    fleet.hear(Heard::Servers(vec![server("nats-1")]));
    fleet
}

/// Lines as a terminal without colours has them, between bars that show the ends.
fn text(lines: &[Line], width: usize) -> String {
    let lines = lines.iter().map(|line| {
        let text = line.render(width, false);
        let used = unicode_width::UnicodeWidthStr::width(text.as_str());
        assert!(used <= width, "{used} columns: {text}");
        let rest = if width == usize::MAX { 0 } else { width - used };
        format!("|{text}{}|", " ".repeat(rest))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn screen(picture: &Picture, width: usize, height: usize) -> String {
    let lines = page::screen(picture, width, height, 1);
    assert_eq!(lines.len(), height);
    text(&lines, width)
}

#[test]
fn the_first_second_knows_no_rates() {
    let mut fleet = two();
    let picture = fleet.pass(1);
    assert!(picture.listening && picture.problems.is_empty());
    assert_eq!(picture.total.sessions, 80);
    assert_eq!(picture.total.messages_in, None);
    assert_eq!(picture.tenants[0].rates.messages_in, None);
    insta::assert_snapshot!(screen(&picture, 80, 24));
}

#[test]
fn a_small_fleet_fits_a_small_screen() {
    let mut fleet = two();
    let picture = fleet.pass(3);
    assert!(picture.healthy() && !picture.listening);
    insta::assert_snapshot!(screen(&picture, 80, 24));
}

#[test]
fn a_wide_screen_shows_every_column() {
    let mut fleet = two();
    insta::assert_snapshot!(screen(&fleet.pass(3), 130, 24));
}

#[test]
fn a_large_fleet_is_cut_and_sorted_by_activity() {
    let ids: Vec<String> = (1..=30).map(|number| format!("tenant-{number}")).collect();
    let tenants: Vec<&str> = ids.iter().map(String::as_str).collect();
    let shields = (1..=12).map(|number| shield(&format!("shield-{number}"), 500, &tenants));
    let mut fleet = Fleet::new(shields.collect());
    fleet.brains = (1..=3)
        .map(|number| brain(&format!("brain-{number}")))
        .collect();
    fleet.hear(Heard::Servers(["a", "b", "c"].map(server).to_vec()));
    for beat in &mut fleet.shields[..5] {
        beat.ready = false;
    }
    let picture = fleet.pass(3);
    assert_eq!(picture.tenants[0].id, "tenant-30");
    assert_eq!(picture.tenants.len(), 33, "those without sessions too");
    insta::assert_snapshot!(screen(&picture, 80, 24));
}

#[test]
fn no_size_is_too_small() {
    let mut fleet = two();
    let picture = fleet.pass(3);
    for width in 0..=82 {
        for height in 0..=30 {
            let lines = page::screen(&picture, width, height, 1);
            assert!(lines.len() >= height);
            text(&lines, width);
        }
    }
}

#[test]
fn tenants_are_summed_over_shields_and_latencies_are_not() {
    let mut fleet = two();
    let picture = fleet.pass(3);
    let acme = picture.tenants.iter().find(|row| row.id == "acme").unwrap();
    assert_eq!((acme.sessions, acme.rates.messages_in), (40, Some(20.0)));
    assert_eq!(picture.total.messages_out, Some(240_000.0));
    let (slowest, latency) = picture.total.slowest.clone().unwrap();
    assert_eq!((slowest.as_str(), latency.p99_us), ("shield-2", 4_800));
    let initech = picture.tenants.last().unwrap();
    assert!(initech.suspended && initech.rates.messages_in.is_none());
}

#[test]
fn who_falls_silent_is_shown_then_forgotten() {
    let mut fleet = two();
    fleet.pass(3);
    let gone = fleet.shields.pop().unwrap();
    let picture = fleet.pass(3);
    assert!(picture.healthy(), "two beats may be lost");
    let picture = fleet.pass(1);
    assert_eq!(picture.shields[0].state, ShieldState::Silent(4));
    assert_eq!(picture.shields[0].messages_in, None);
    assert_eq!(picture.problems, ["shield-2 has been silent for 4 s"]);
    assert_eq!(picture.total.sessions, 40, "of those that are heard");
    assert_eq!(fleet.pass(56).shields.len(), 2);
    assert_eq!(fleet.pass(1).shields.len(), 1);

    // Back again as a process of its own: no rate at first.
    fleet.shields.push(ShieldBeat {
        incarnation: "another".to_owned(),
        ..gone
    });
    let picture = fleet.pass(1);
    let back = picture
        .shields
        .iter()
        .find(|row| row.id == "shield-2")
        .unwrap();
    assert_eq!((back.state, back.messages_in), (ShieldState::Ready, None));
    let picture = fleet.pass(1);
    assert!(
        picture
            .shields
            .iter()
            .all(|row| row.messages_in == Some(1_200.0))
    );
}

#[test]
fn who_says_goodbye_goes_at_once() {
    let mut fleet = two();
    fleet.pass(3);
    let mut beat = fleet.shields.pop().unwrap();
    beat.goodbye = true;
    fleet.hear(Heard::Shield(Box::new(beat)));
    assert_eq!(fleet.picture().shields.len(), 1);
}

#[test]
fn the_loss_of_nats_is_told_and_is_nobodys_silence() {
    let mut fleet = two();
    fleet.pass(3);
    let all = (
        std::mem::take(&mut fleet.shields),
        std::mem::take(&mut fleet.brains),
    );
    fleet.hear(Heard::Down("the connection broke".to_owned()));
    fleet.pass(90);
    fleet.hear(Heard::Down(
        "cannot reach NATS at nats://127.0.0.1:4222".to_owned(),
    ));
    let picture = fleet.picture();
    assert!(!picture.healthy());
    assert_eq!(picture.lost.as_ref().unwrap().1, 90);
    assert_eq!(picture.shields.len(), 2, "kept as they were");
    assert_eq!(picture.shields[0].state, ShieldState::Ready);
    assert_eq!(picture.total.messages_in, None);
    insta::assert_snapshot!(screen(&picture, 80, 24));

    fleet.connect();
    let picture = fleet.picture();
    assert!(picture.listening && picture.lost.is_none() && picture.problems.is_empty());
    (fleet.shields, fleet.brains) = all;
    let picture = fleet.pass(2);
    assert!(picture.healthy(), "{:?}", picture.problems);
    assert_eq!(picture.shields.len(), 2);
}

#[test]
fn a_tenant_that_was_deleted_meanwhile_is_gone() {
    let mut fleet = two();
    fleet.pass(3);
    fleet.hear(Heard::Up);
    assert_eq!(fleet.picture().tenants.len(), 2, "those with sessions");
    assert_eq!(fleet.picture().tenants[0].pool, "", "without a record");
}

#[test]
fn what_is_not_well_is_named() {
    let mut fleet = two();
    fleet.shields[0].draining = true;
    fleet.shields[0].ready = false;
    fleet.shields[1].policies.as_mut().unwrap().broken = 1;
    fleet.hear(Heard::Pool(RecordEvent::Put(pool("eu"), 2)));
    let record = TenantRecord {
        id: "umbrella".to_owned(),
        pool: "eu".to_owned(),
        state: TenantState::Active.into(),
        ..TenantRecord::default()
    };
    fleet.hear(Heard::Tenant(RecordEvent::Put(record, 2)));
    let picture = fleet.pass(3);
    insta::assert_snapshot!(picture.problems.join("\n"));
    insta::assert_snapshot!(screen(&picture, 80, 24));
}

#[test]
fn no_number_is_too_large() {
    let mut fleet = two();
    for beat in &mut fleet.shields {
        (beat.sessions, beat.rooms) = (u32::MAX, u32::MAX);
        for load in &mut beat.tenants {
            (load.sessions, load.rooms) = (u32::MAX, u32::MAX);
        }
        let policies = beat.policies.as_mut().unwrap();
        (policies.active, policies.broken, policies.quarantined) = (u32::MAX, u32::MAX, u32::MAX);
    }
    let picture = fleet.pass(3);
    let both = 2 * u64::from(u32::MAX);
    assert_eq!((picture.total.sessions, picture.total.rooms), (both, both));
    let acme = picture.tenants.iter().find(|row| row.id == "acme").unwrap();
    assert_eq!((acme.sessions, acme.rooms), (both, both));
    assert!(screen(&picture, 80, 24).contains("8589934590"));
}

#[test]
fn what_others_say_steers_no_screen() {
    let mut fleet = two();
    let long = "\u{200b}\u{301}".repeat(5_000);
    fleet.shields[0].version = format!("\x1b[2J\u{9b}1A\x07\u{202e}{long}");
    fleet.shields[1].shield = format!("shield-2\n{long}");
    fleet.shields[1].ready = false;
    let picture = fleet.pass(3);
    let screen = screen(&picture, 200, 30);
    assert_eq!(screen.lines().count(), 30);
    assert!(screen.len() < 200 * 30 * 4, "{} bytes", screen.len());
    let block = text(&page::block(&picture), usize::MAX);
    for text in [screen, block] {
        let raw = |letter: char| {
            let zero = unicode_width::UnicodeWidthChar::width(letter) == Some(0);
            letter != '\n' && (letter.is_control() || zero)
        };
        assert!(!text.contains(raw), "{text}");
    }
}

#[test]
fn the_fields_of_json_are_stable() {
    let mut fleet = two();
    fleet.shields.truncate(1);
    fleet.brains.truncate(1);
    let picture = fleet.pass(3);
    insta::assert_snapshot!(serde_json::to_string_pretty(&picture.json()).unwrap());
}

#[test]
fn a_block_shows_everything() {
    let mut fleet = two();
    insta::assert_snapshot!(text(&page::block(&fleet.pass(3)), usize::MAX));
}
