//! What blocked whom, for the operator: coalesced, bounded, without payloads.

use std::{
    collections::HashMap,
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon_proto::names::{PolicyName, RoomId, SessionId, TenantId, UserId};
use tokio::sync::Notify;

use crate::Digest;

/// Events of one second. What is above is counted as lost.
pub const MAX_EVENTS_PER_SECOND: usize = 200;
/// Events that wait for the one who writes them. What is above is counted as
/// lost: the newest ones, since the first of a flood say the most.
pub const MAX_EVENTS_WAITING: usize = 2_000;
/// Longest reason in an event.
pub const MAX_AUDIT_REASON_BYTES: usize = 256;

/// Messages of one sender that one binding blocked within one second, for one
/// class of reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Of the first, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The tenant.
    pub tenant: TenantId,
    /// The room of the first.
    pub room: RoomId,
    /// Who sent it.
    pub user: UserId,
    /// From which session.
    pub session: SessionId,
    /// Key of the binding.
    pub binding: Arc<str>,
    /// The policy.
    pub policy: PolicyName,
    /// Number of its version.
    pub version: u32,
    /// `verdict`, or the class of the fault.
    pub class: &'static str,
    /// Reason or detail of the first, at most [`MAX_AUDIT_REASON_BYTES`].
    pub reason: String,
    /// Of the first payload, as the sender sent it.
    pub payload_digest: Digest,
    /// Bytes of the first payload.
    pub payload_bytes: usize,
    /// How many messages.
    pub count: u32,
    /// True where the messages passed: the binding only watches.
    pub shadow: bool,
}

/// Events to write, and how many found no place since the last batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AuditBatch {
    /// The events, oldest second first.
    pub events: Vec<AuditEvent>,
    /// Blocked messages that no event tells of.
    pub lost: u64,
}

/// One sender, one binding, one class.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct AuditKey {
    pub(crate) session: SessionId,
    pub(crate) binding: Arc<str>,
    pub(crate) class: &'static str,
}

/// The pure part: the second that runs, and those that are over.
#[derive(Debug, Default)]
struct Coalescer {
    second: u64,
    open: HashMap<AuditKey, AuditEvent>,
    ready: VecDeque<AuditEvent>,
    lost: u64,
}

impl Coalescer {
    /// `event` is called for the first of its second only: a digest costs
    /// more than the rest. False where nothing was kept that is new.
    fn record(&mut self, now_ms: u64, key: AuditKey, event: impl FnOnce() -> AuditEvent) -> bool {
        self.close(now_ms);
        if let Some(known) = self.open.get_mut(&key) {
            known.count = known.count.saturating_add(1);
            return false;
        }
        if self.open.len() >= MAX_EVENTS_PER_SECOND
            || self.open.len() + self.ready.len() >= MAX_EVENTS_WAITING
        {
            self.lost += 1;
            return false;
        }
        self.open.insert(key, event());
        true
    }

    /// Ends the second that runs, if `now` is another one.
    fn close(&mut self, now_ms: u64) {
        let second = now_ms / 1000;
        if second == self.second {
            return;
        }
        self.second = second;
        let mut events: Vec<_> = self.open.drain().map(|(_, event)| event).collect();
        events.sort_by_key(|event| event.time_ms);
        self.ready.extend(events);
    }

    fn take(&mut self, now_ms: u64) -> AuditBatch {
        self.close(now_ms);
        AuditBatch {
            events: self.ready.drain(..).collect(),
            lost: std::mem::take(&mut self.lost),
        }
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty() && self.lost == 0
    }
}

/// Where events are put.
#[derive(Debug, Default)]
pub(crate) struct AuditLog {
    coalescer: Mutex<Coalescer>,
    something: Notify,
}

/// Where events are taken out. One for each [`crate::Policies`].
#[derive(Debug)]
pub struct AuditReceiver(Arc<AuditLog>);

impl AuditLog {
    pub(crate) fn new() -> (Arc<Self>, AuditReceiver) {
        let log = Arc::new(Self::default());
        (log.clone(), AuditReceiver(log))
    }

    /// `event` gets the time.
    pub(crate) fn record(&self, key: AuditKey, event: impl FnOnce(u64) -> AuditEvent) {
        let now = now_ms();
        if self.lock().record(now, key, || event(now)) {
            self.something.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Coalescer> {
        self.coalescer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditReceiver {
    /// The events of all seconds that are over; what is lost so far.
    pub fn take(&mut self) -> AuditBatch {
        self.0.lock().take(now_ms())
    }

    /// Waits for events, and for the end of their second: at most one batch
    /// each second. Nothing is lost where this is dropped while it waits.
    pub async fn next(&mut self) -> AuditBatch {
        loop {
            if !self.0.lock().is_empty() {
                let now = now_ms();
                tokio::time::sleep(Duration::from_millis(1000 - now % 1000)).await;
                let batch = self.take();
                if batch != AuditBatch::default() {
                    return batch;
                }
            } else {
                self.0.something.notified().await;
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// At most so many bytes, whole characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(session: SessionId, class: &'static str) -> AuditKey {
        AuditKey {
            session,
            binding: "platform.b".into(),
            class,
        }
    }

    fn event(session: SessionId, class: &'static str, time_ms: u64) -> AuditEvent {
        AuditEvent {
            time_ms,
            tenant: TenantId::parse("acme").expect("a tenant"),
            room: RoomId::parse("lobby").expect("a room"),
            user: UserId::parse("ann").expect("a user"),
            session,
            binding: "platform.b".into(),
            policy: PolicyName::parse("blocklist").expect("a policy"),
            version: 1,
            class,
            reason: "word".into(),
            payload_digest: Digest::of(b"malware"),
            payload_bytes: 7,
            count: 1,
            shadow: false,
        }
    }

    fn put(log: &mut Coalescer, now: u64, session: SessionId, class: &'static str) {
        log.record(now, key(session, class), || event(session, class, now));
    }

    #[test]
    fn one_event_for_each_sender_class_and_second() {
        let (ann, bob) = (SessionId::new(), SessionId::new());
        let mut log = Coalescer::default();
        for now in [5_000, 5_001, 5_999] {
            put(&mut log, now, ann, "verdict");
        }
        put(&mut log, 5_500, bob, "verdict");
        put(&mut log, 5_600, ann, "trap");
        assert_eq!(log.take(5_999), AuditBatch::default(), "not over");
        put(&mut log, 6_000, ann, "verdict");
        let batch = log.take(6_000);
        let told: Vec<_> = batch
            .events
            .iter()
            .map(|e| (e.session, e.class, e.time_ms, e.count))
            .collect();
        assert_eq!(
            told,
            [
                (ann, "verdict", 5_000, 3),
                (bob, "verdict", 5_500, 1),
                (ann, "trap", 5_600, 1)
            ]
        );
        assert_eq!(log.take(7_000).events.len(), 1);
        assert!(log.is_empty());
    }

    #[test]
    fn the_digest_is_made_once_a_second() {
        let ann = SessionId::new();
        let mut made = 0;
        let mut log = Coalescer::default();
        for now in 1_000..3_000 {
            log.record(now, key(ann, "verdict"), || {
                made += 1;
                event(ann, "verdict", now)
            });
        }
        assert_eq!(made, 2);
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let mut log = Coalescer::default();
        for now in 0..60_000 {
            put(&mut log, now, SessionId::new(), "verdict");
        }
        assert_eq!(log.ready.len() + log.open.len(), MAX_EVENTS_WAITING);
        let batch = log.take(61_000);
        assert_eq!(batch.events.len(), MAX_EVENTS_WAITING);
        assert_eq!(batch.lost, 60_000 - MAX_EVENTS_WAITING as u64);
        assert_eq!(batch.events[0].time_ms, 0, "the first are kept");
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(cut("äää", 3), "ä");
        assert_eq!(cut("abc", 256), "abc");
    }

    #[tokio::test]
    async fn the_receiver_wakes_for_what_comes_later() {
        let (log, mut receiver) = AuditLog::new();
        let waiting = tokio::spawn(async move { receiver.next().await });
        tokio::task::yield_now().await;
        let ann = SessionId::new();
        log.record(key(ann, "verdict"), |now| event(ann, "verdict", now));
        let batch = waiting.await.expect("no panic");
        assert_eq!(batch.events.len(), 1);
        assert_eq!(batch.lost, 0);
    }

    proptest! {
        /// Every blocked message is told or counted, and no second has more than its events.
        #[test]
        fn nothing_is_told_twice_or_forgotten(
            steps in prop::collection::vec((0_u64..400, 0_usize..400, any::<bool>()), 1..800),
        ) {
            let sessions: Vec<_> = (0..400).map(|_| SessionId::new()).collect();
            let mut log = Coalescer::default();
            let (mut now, mut told, mut lost) = (0, 0, 0);
            let mut seconds: HashMap<u64, usize> = HashMap::new();
            let mut count = |batch: AuditBatch| {
                lost += batch.lost;
                for event in batch.events {
                    told += u64::from(event.count);
                    *seconds.entry(event.time_ms / 1000).or_default() += 1;
                }
            };
            let all = steps.len() as u64;
            for (gap, session, take) in steps {
                now += gap / 20;
                put(&mut log, now, sessions[session], "verdict");
                if take {
                    count(log.take(now));
                }
            }
            count(log.take(now + 1000));
            prop_assert_eq!(told + lost, all);
            prop_assert!(seconds.values().all(|events| *events <= MAX_EVENTS_PER_SECOND));
        }
    }
}
