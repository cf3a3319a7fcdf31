//! What one tenant may use on this Shield, and what it uses.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use arqon_proto::{names::RoomId, v1::TenantLimits};

use super::{bucket::Bucket, rooms};

/// The quotas of one tenant. Sessions hold it and read what is in force now.
#[derive(Debug)]
pub struct TenantQuota {
    /// What its record says, and the platform where that says nothing; 0: no limit.
    limits: ArcSwap<TenantLimits>,
    /// Sessions, and connections on their way to be one.
    sessions: AtomicU64,
    /// This Shield's part of what the fleet shares.
    pub(super) parts: Parts,
    messages: Bucket,
    bytes: Bucket,
    /// PUBLISHes that passed, and their bytes.
    pub(super) passed: Passed,
    /// Hashes of rooms that other Shields have.
    pub(super) rooms_elsewhere: ArcSwap<HashSet<u32>>,
}

/// What may be used here; `u64::MAX` is no limit.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) sessions: AtomicU64,
    pub(super) rooms: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// What was used since the quota is kept.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// PUBLISHes refused for the tenant's rate of messages.
    pub(super) too_many: AtomicU64,
    /// For its rate of bytes.
    pub(super) too_large: AtomicU64,
}

/// What one session has used of its own rates.
#[derive(Debug, Default)]
pub struct SessionUse {
    messages: Bucket,
    bytes: Bucket,
}

/// Rooms that a tenant may have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoomQuota {
    /// Rooms with members.
    pub(crate) rooms: usize,
    /// Members of each.
    pub(crate) members: usize,
}

/// A session's place among those of its tenant, until dropped.
#[derive(Debug)]
pub struct Place(Arc<TenantQuota>);

/// The tenant has as many sessions as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

// === impl TenantQuota ===

impl TenantQuota {
    /// Nothing used yet.
    pub(super) fn new(limits: TenantLimits) -> Self {
        Self {
            limits: ArcSwap::from_pointee(limits),
            sessions: AtomicU64::new(0),
            parts: Parts::default(),
            messages: Bucket::default(),
            bytes: Bucket::default(),
            passed: Passed::default(),
            rooms_elsewhere: ArcSwap::default(),
        }
    }

    /// What holds now; 0 is no limit but the platform's own.
    pub fn limits(&self) -> TenantLimits {
        **self.limits.load()
    }

    pub(super) fn set_limits(&self, limits: TenantLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// Takes a place for a session that is about to be.
    ///
    /// # Errors
    /// If the tenant has as many as it may here.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Full> {
        let most = self.parts.sessions.load(Ordering::Relaxed);
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sessions| {
                (sessions < most).then_some(sessions + 1)
            })
            .map(|_| Place(Arc::clone(self)))
            .map_err(|_| Full)
    }

    /// Sessions, and connections on their way to be one.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Lets a PUBLISH of so many bytes pass, of this session and this tenant, or
    /// tells when to come again.
    ///
    /// # Errors
    /// If a rate is used up.
    pub fn publish(
        &self,
        session: &SessionUse,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Duration> {
        let limits = self.limits.load();
        let rate = |limit: u32| match limit {
            0 => u64::MAX,
            some => u64::from(some),
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let steps = [
            (&session.messages, 1, rate(limits.session_messages_per_sec)),
            (&session.bytes, bytes, rate(limits.session_bytes_per_sec)),
            (
                &self.messages,
                1,
                self.parts.messages.load(Ordering::Relaxed),
            ),
            (&self.bytes, bytes, self.parts.bytes.load(Ordering::Relaxed)),
        ];
        for (at, (bucket, cost, rate)) in steps.into_iter().enumerate() {
            if rate == u64::MAX {
                continue;
            }
            if let Err(wait) = bucket.take(now, cost, rate) {
                for (bucket, cost, rate) in &steps[..at] {
                    if *rate != u64::MAX {
                        bucket.give_back(*cost, *rate);
                    }
                }
                match at {
                    2 => self.passed.too_many.fetch_add(1, Ordering::Relaxed),
                    3 => self.passed.too_large.fetch_add(1, Ordering::Relaxed),
                    _ => 0,
                };
                return Err(wait);
            }
        }
        // Counted where others go by it only: all sessions of the tenant share these lines.
        if limits.messages_per_sec > 0 {
            self.passed.messages.fetch_add(1, Ordering::Relaxed);
        }
        if limits.bytes_per_sec > 0 {
            self.passed.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many rooms there may be here if this one comes in. One that another
    /// Shield has is none more.
    pub(crate) fn rooms_for(&self, room: &RoomId) -> RoomQuota {
        let mut rooms = self.parts.rooms.load(Ordering::Relaxed);
        if rooms != u64::MAX {
            let elsewhere = self.rooms_elsewhere.load();
            if !elsewhere.is_empty() && elsewhere.contains(&rooms::hash(room.as_str())) {
                // Names may be made whose hashes are those of others: no more than that many.
                rooms = rooms.max(self.limits.load().max_rooms.into());
            }
        }
        let members = match self.limits.load().max_members_per_room {
            0 => usize::MAX,
            some => some as usize,
        };
        RoomQuota {
            rooms: usize::try_from(rooms).unwrap_or(usize::MAX),
            members,
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        let unlimited = || AtomicU64::new(u64::MAX);
        Self {
            sessions: unlimited(),
            rooms: unlimited(),
            messages: unlimited(),
            bytes: unlimited(),
        }
    }
}

// === impl Place ===

impl Place {
    /// The quotas of its tenant.
    pub fn quota(&self) -> &Arc<TenantQuota> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn limited(limits: TenantLimits) -> Arc<TenantQuota> {
        let quota = TenantQuota::new(limits);
        let set = |part: &AtomicU64, limit: u32| {
            if limit > 0 {
                part.store(limit.into(), Ordering::Relaxed);
            }
        };
        set(&quota.parts.sessions, limits.max_connections);
        set(&quota.parts.rooms, limits.max_rooms);
        set(&quota.parts.messages, limits.messages_per_sec);
        set(&quota.parts.bytes, limits.bytes_per_sec);
        Arc::new(quota)
    }

    #[test]
    fn a_place_is_free_again_when_it_is_left() {
        let quota = limited(TenantLimits {
            max_connections: 2,
            ..TenantLimits::default()
        });
        let first = quota.enter().unwrap();
        let _second = quota.enter().unwrap();
        assert_eq!(quota.enter().err(), Some(Full));
        drop(first);
        assert!(quota.enter().is_ok());
        assert_eq!(quota.sessions(), 1);
    }

    #[test]
    fn a_session_is_held_to_its_own_rate_and_all_to_the_tenants() {
        let quota = limited(TenantLimits {
            messages_per_sec: 5,
            session_messages_per_sec: 3,
            ..TenantLimits::default()
        });
        let now = Instant::now() + Duration::from_secs(5);
        let sessions = [SessionUse::default(), SessionUse::default()];
        let passed = |session: &SessionUse| {
            let all = (0..10).filter(|_| quota.publish(session, 1, now).is_ok());
            all.count()
        };
        assert_eq!(passed(&sessions[0]), 3);
        assert_eq!(passed(&sessions[1]), 2);
        assert_eq!(quota.passed.messages.load(Ordering::Relaxed), 5);
        // What the tenant refused has cost the session nothing.
        let later = now + Duration::from_millis(400);
        assert!(quota.publish(&sessions[1], 1, later).is_ok());
        assert!(quota.publish(&sessions[1], 1, later).is_ok());
        assert!(quota.publish(&sessions[1], 1, later).is_err());
    }

    #[test]
    fn bytes_count_as_well_as_messages() {
        let quota = limited(TenantLimits {
            bytes_per_sec: 1_000,
            session_bytes_per_sec: 600,
            ..TenantLimits::default()
        });
        let now = Instant::now() + Duration::from_secs(5);
        let (first, second) = (SessionUse::default(), SessionUse::default());
        assert!(quota.publish(&first, 600, now).is_ok());
        assert!(quota.publish(&first, 1, now).is_err());
        assert!(quota.publish(&second, 400, now).is_ok());
        let wait = quota.publish(&second, 100, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
    }

    #[test]
    fn a_room_that_is_elsewhere_is_none_more() {
        let quota = limited(TenantLimits {
            max_rooms: 3,
            max_members_per_room: 7,
            ..TenantLimits::default()
        });
        let room = RoomId::parse("lobby").unwrap();
        let of = |rooms| RoomQuota { rooms, members: 7 };
        assert_eq!(quota.rooms_for(&room), of(3));
        let known = HashSet::from([rooms::hash("lobby")]);
        quota.rooms_elsewhere.store(Arc::new(known));
        quota.parts.rooms.store(1, Ordering::Relaxed);
        assert_eq!(quota.rooms_for(&room), of(3));
        let other = RoomId::parse("other").unwrap();
        assert_eq!(quota.rooms_for(&other), of(1));
    }
}
