//! What the records ask for, and how far it has come. No I/O and no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arqon_policy::{Binding, Digest, Fault, FaultClass, Module};
use arqon_proto::names::PolicyName;
use arqon_proto::v1::{PolicyEntry, policy_entry::Entry as Kind};
use arqon_spine::control::{PolicyKey, PolicyRecordEvent, RecordEvent};
use bytes::Bytes;

use super::wanted::{self, Config, Wanted};

/// Versions of each policy that are compiled before anyone binds them.
const NEWEST: usize = 3;
/// What failed is tried again after this long.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// The longest pause between attempts to compile: a version does not change,
/// and a bomb costs its whole time limit.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Bindings that are tried in one go.
const BATCH: usize = 64;

/// Everything the records ask for, and how far it has come.
#[derive(Default)]
pub(super) struct State {
    entries: BTreeMap<PolicyKey, Entry>,
    newest: BTreeMap<PolicyName, Vec<Digest>>,
    versions: HashMap<Digest, Version>,
    revision: u64,
    /// Changes are told as they come, over a connection that was read to the end.
    live: bool,
}

/// One binding.
pub(super) struct Entry {
    pub(super) revision: u64,
    want: Want,
    pub(super) active: Option<Arc<Binding>>,
    step: Step,
    /// It was not there before, and was bound just now: until it is made or has
    /// failed, the chain without it serves. Else each new binding of the
    /// platform would block everybody's messages for a moment.
    fresh: bool,
}

enum Want {
    Binding(Arc<Wanted>),
    /// It was read and makes no sense.
    Senseless,
    /// It could not be read.
    Unreadable,
}

enum Step {
    Waiting,
    Trying,
    Made,
    Failed {
        fault: Fault,
        again: Option<Instant>,
    },
}

/// One version.
pub(super) enum Version {
    Queued {
        attempts: u32,
    },
    Working {
        attempts: u32,
    },
    Ready {
        module: Module,
        compile_ms: u32,
    },
    Failed {
        error: String,
        attempts: u32,
        again: Instant,
    },
}

/// Why a version cannot be had.
#[derive(Debug)]
pub(super) enum VersionError {
    /// Its bytes did not come: they may the next time.
    Fetch(String),
    /// Its bytes do not compile, or fail by themselves.
    Broken(String),
}

/// A binding that is to be tried.
pub(super) struct Trial {
    pub(super) wanted: Arc<Wanted>,
    pub(super) module: Module,
}

/// How a trial went: the configuration it was made with.
pub(super) struct Tried {
    pub(super) key: PolicyKey,
    pub(super) revision: u64,
    pub(super) result: Result<Bytes, Fault>,
}

impl State {
    /// Takes over a full read: what it does not name is gone.
    pub(super) fn replace(&mut self, events: Vec<PolicyRecordEvent>) {
        let mut there = BTreeSet::new();
        for event in &events {
            match event {
                RecordEvent::Put(entry, _) => {
                    there.insert(PolicyKey::read(&entry.key));
                }
                RecordEvent::Unreadable(key, _) => {
                    there.insert(key.clone());
                }
                RecordEvent::Deleted(key, _) => {
                    there.remove(key);
                }
                RecordEvent::Synced => {}
            }
        }
        self.revision = 0;
        self.live = false;
        self.entries.retain(|key, _| there.contains(key));
        self.newest
            .retain(|name, _| there.contains(&PolicyKey::Policy(name.clone())));
        for event in events {
            self.apply(event);
        }
        self.live = true;
    }

    /// Takes over a change.
    pub(super) fn apply(&mut self, event: PolicyRecordEvent) {
        match event {
            RecordEvent::Put(entry, revision) => {
                self.revision = self.revision.max(revision);
                self.put(entry, revision);
            }
            RecordEvent::Unreadable(key, revision) => {
                self.revision = self.revision.max(revision);
                if let PolicyKey::Policy(name) = &key {
                    self.newest.remove(name);
                } else if wanted::unreadable(&key, revision, "").is_some() {
                    self.want(key, revision, Want::Unreadable, "the record cannot be read");
                }
            }
            RecordEvent::Deleted(key, revision) => {
                self.revision = self.revision.max(revision);
                self.entries.remove(&key);
                if let PolicyKey::Policy(name) = &key {
                    self.newest.remove(name);
                }
            }
            RecordEvent::Synced => {}
        }
        self.queue_versions();
    }

    fn put(&mut self, entry: PolicyEntry, revision: u64) {
        let key = PolicyKey::read(&entry.key);
        match (entry.entry, &key) {
            (Some(Kind::Policy(policy)), PolicyKey::Policy(name)) => {
                let digests = policy.versions.iter().take(NEWEST);
                let digests = digests.filter_map(|v| Digest::from_bytes(&v.digest));
                self.newest.insert(name.clone(), digests.collect());
            }
            (Some(Kind::Binding(binding)), _) => {
                match Wanted::read(&key, revision, &binding) {
                    // A reconnect tells again what is known.
                    Ok(wanted) if self.is_known(&wanted) => {}
                    Ok(wanted) => {
                        // Whoever binds it may have mended it.
                        if let Some(version) = self.versions.get_mut(&wanted.digest)
                            && let Version::Failed { attempts, .. } = *version
                        {
                            *version = Version::Queued { attempts };
                        }
                        self.want(key, revision, Want::Binding(Arc::new(wanted)), "");
                    }
                    Err(error) => self.want(key, revision, Want::Senseless, &error),
                }
            }
            // The watch tells no other.
            _ => {}
        }
    }

    fn is_known(&self, wanted: &Wanted) -> bool {
        let entry = self.entries.get(&wanted.key);
        entry.is_some_and(|entry| matches!(&entry.want, Want::Binding(known) if **known == *wanted))
    }

    fn want(&mut self, key: PolicyKey, revision: u64, want: Want, error: &str) {
        let step = match want {
            Want::Binding(_) => Step::Waiting,
            Want::Senseless | Want::Unreadable => Step::Failed {
                fault: Fault::new(FaultClass::Missing, error),
                again: None,
            },
        };
        let before = self.entries.remove(&key);
        let fresh = match &before {
            Some(entry) => entry.is_fresh(),
            None => self.live,
        };
        let active = before.and_then(|entry| entry.active);
        let active = match want {
            Want::Unreadable => None,
            Want::Binding(_) | Want::Senseless => active,
        };
        let entry = Entry {
            revision,
            want,
            active,
            step,
            fresh,
        };
        self.entries.insert(key, entry);
    }

    fn queue_versions(&mut self) {
        for digest in self.digests() {
            self.versions
                .entry(digest)
                .or_insert(Version::Queued { attempts: 0 });
        }
    }

    /// Versions that are asked for: bound ones first.
    fn digests(&self) -> Vec<Digest> {
        let bound = self.entries.values().filter_map(Entry::digest);
        let newest = self.newest.values().flatten().copied();
        let mut seen = BTreeSet::new();
        bound
            .chain(newest)
            .filter(|digest| seen.insert(*digest))
            .collect()
    }

    /// What nobody asks for any more. To be dropped elsewhere: it takes a while.
    pub(super) fn prune(&mut self) -> Vec<Version> {
        let kept: BTreeSet<_> = self.digests().into_iter().collect();
        let gone: Vec<_> = self
            .versions
            .iter()
            .filter(|(digest, version)| {
                !kept.contains(digest) && !matches!(version, Version::Working { .. })
            })
            .map(|(digest, _)| *digest)
            .collect();
        gone.iter()
            .filter_map(|digest| self.versions.remove(digest))
            .collect()
    }

    /// The next version to fetch and compile; it counts as begun.
    pub(super) fn next_version(&mut self, now: Instant) -> Option<Digest> {
        let due = |version: &Version| match version {
            Version::Queued { .. } => true,
            Version::Failed { again, .. } => *again <= now,
            Version::Working { .. } | Version::Ready { .. } => false,
        };
        let digests = self.digests();
        let mut due = digests
            .into_iter()
            .filter(|d| self.versions.get(d).is_some_and(due));
        let digest = due.next()?;
        let attempts = match self.versions.get(&digest)? {
            Version::Queued { attempts } | Version::Failed { attempts, .. } => *attempts,
            Version::Working { .. } | Version::Ready { .. } => 0,
        };
        self.versions.insert(digest, Version::Working { attempts });
        Some(digest)
    }

    /// What became of a version that was begun.
    pub(super) fn version_done(
        &mut self,
        digest: Digest,
        result: Result<(Module, u32), VersionError>,
        now: Instant,
    ) {
        let attempts = match self.versions.get(&digest) {
            Some(Version::Working { attempts }) => attempts.saturating_add(1),
            _ => 1,
        };
        let (ready, error) = match &result {
            Ok(_) => (true, String::new()),
            Err(VersionError::Fetch(error) | VersionError::Broken(error)) => (false, error.clone()),
        };
        let version = match result {
            Ok((module, compile_ms)) => Version::Ready { module, compile_ms },
            Err(VersionError::Fetch(error)) => Version::Failed {
                error,
                attempts,
                again: now + RETRY,
            },
            Err(VersionError::Broken(error)) => Version::Failed {
                error,
                attempts,
                again: now + (RETRY * (1 << (attempts - 1).min(5))).min(LONGEST_RETRY),
            },
        };
        self.versions.insert(digest, version);
        for entry in self.entries.values_mut() {
            if entry.digest() != Some(digest) {
                continue;
            }
            entry.fresh &= ready;
            match &mut entry.step {
                step @ Step::Waiting if !ready => {
                    *step = Step::Failed {
                        fault: Fault::new(FaultClass::Missing, error.clone()),
                        again: None,
                    }
                }
                Step::Failed { fault, .. } if !ready => fault.detail.clone_from(&error),
                step @ Step::Failed { .. } => *step = Step::Waiting,
                Step::Waiting | Step::Trying | Step::Made => {}
            }
        }
    }

    /// Bindings whose version is ready, that are to be tried now. With
    /// `objects`: one whose configuration has to be fetched; else others.
    pub(super) fn next_trials(&mut self, objects: bool, now: Instant) -> Vec<Trial> {
        let versions = &self.versions;
        let mut trials = Vec::new();
        let limit = if objects { 1 } else { BATCH };
        for entry in self.entries.values_mut() {
            if trials.len() == limit {
                break;
            }
            let Want::Binding(wanted) = &entry.want else {
                continue;
            };
            let due = match &entry.step {
                Step::Waiting => true,
                Step::Failed { again, .. } => again.is_some_and(|again| again <= now),
                Step::Trying | Step::Made => false,
            };
            if !due || matches!(wanted.config, Config::Object(_)) != objects {
                continue;
            }
            match versions.get(&wanted.digest) {
                Some(Version::Ready { module, .. }) => {
                    trials.push(Trial {
                        wanted: wanted.clone(),
                        module: module.clone(),
                    });
                    entry.step = Step::Trying;
                }
                // Bound after its version failed.
                Some(Version::Failed { error, .. }) => {
                    entry.fresh = false;
                    entry.step = Step::Failed {
                        fault: Fault::new(FaultClass::Missing, error.clone()),
                        again: None,
                    };
                }
                _ => {}
            }
        }
        trials
    }

    /// Trials that were begun and found no time.
    pub(super) fn put_back(&mut self, trials: Vec<Trial>) {
        for Trial { wanted, .. } in trials {
            if let Some(entry) = self.entries.get_mut(&wanted.key)
                && entry.revision == wanted.revision
                && matches!(entry.step, Step::Trying)
            {
                entry.step = Step::Waiting;
            }
        }
    }

    /// What became of a trial. A binding that changed meanwhile is none of it.
    pub(super) fn tried(&mut self, tried: Tried, now: Instant) {
        let Some(entry) = self.entries.get_mut(&tried.key) else {
            return;
        };
        let Want::Binding(wanted) = &entry.want else {
            return;
        };
        if entry.revision != tried.revision {
            return;
        }
        let made = match (tried.result, self.versions.get(&wanted.digest)) {
            (Ok(config), Some(Version::Ready { module, .. })) => Ok((config, module.clone())),
            (Ok(_), _) => Err(Fault::new(FaultClass::Missing, "its version is gone")),
            (Err(fault), _) => Err(fault),
        };
        match made {
            Ok((config, module)) => {
                entry.active = Some(Arc::new(wanted.binding(Ok(module), config)));
                entry.step = Step::Made;
            }
            Err(fault) => {
                entry.fresh = false;
                entry.step = Step::Failed {
                    fault,
                    again: Some(now + RETRY),
                };
            }
        }
    }

    /// A lane ended without a word: what it had begun is to be done again.
    pub(super) fn forgotten(&mut self, now: Instant) {
        for version in self.versions.values_mut() {
            if let Version::Working { attempts } = version {
                *version = Version::Failed {
                    error: "compiling it ended unexpectedly".to_owned(),
                    attempts: attempts.saturating_add(1),
                    again: now + RETRY,
                };
            }
        }
        for entry in self.entries.values_mut() {
            if matches!(entry.step, Step::Trying) {
                entry.fresh = false;
                entry.step = Step::Failed {
                    fault: Fault::new(FaultClass::Configure, "trying it ended unexpectedly"),
                    again: Some(now + RETRY),
                };
            }
        }
    }

    /// What is in force now. Whatever was not made is there too, and blocks,
    /// unless it is fresh.
    pub(super) fn table(&self) -> Vec<Arc<Binding>> {
        let bindings = self.entries.iter().filter_map(|(key, entry)| {
            if entry.is_fresh() {
                return None;
            }
            if let Some(active) = &entry.active {
                return Some(active.clone());
            }
            let fault = match &entry.step {
                Step::Failed { fault, .. } => fault.clone(),
                Step::Waiting | Step::Trying | Step::Made => {
                    Fault::new(FaultClass::Missing, "it is not made yet")
                }
            };
            match &entry.want {
                Want::Binding(wanted) => Some(Arc::new(wanted.blocking(fault))),
                Want::Senseless | Want::Unreadable => {
                    wanted::unreadable(key, entry.revision, &fault.detail).map(Arc::new)
                }
            }
        });
        bindings.collect()
    }

    /// Whether each binding was made, or has failed.
    pub(super) fn settled(&self) -> bool {
        let open = |entry: &Entry| matches!(entry.step, Step::Waiting | Step::Trying);
        !self.entries.values().any(open)
    }

    /// When something that failed is due.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let versions = self.versions.values().filter_map(|version| match version {
            Version::Failed { again, .. } => Some(*again),
            _ => None,
        });
        let entries = self.entries.values().filter_map(|entry| match entry.step {
            Step::Failed { again, .. } => again,
            _ => None,
        });
        versions.chain(entries).min()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&PolicyKey, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn versions(&self) -> impl Iterator<Item = (Digest, &Version)> {
        self.digests()
            .into_iter()
            .filter_map(|digest| Some((digest, self.versions.get(&digest)?)))
    }
}

impl Entry {
    fn is_fresh(&self) -> bool {
        self.fresh && self.active.is_none() && matches!(self.step, Step::Waiting | Step::Trying)
    }

    fn digest(&self) -> Option<Digest> {
        match &self.want {
            Want::Binding(wanted) => Some(wanted.digest),
            Want::Senseless | Want::Unreadable => None,
        }
    }

    /// Why the newest revision does not run, if it has failed.
    pub(super) fn error(&self) -> Option<&Fault> {
        match &self.step {
            Step::Failed { fault, .. } => Some(fault),
            Step::Waiting | Step::Trying | Step::Made => None,
        }
    }
}
