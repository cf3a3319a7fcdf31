use std::{sync::atomic::AtomicU32, task::Wake};

use arqon_telemetry::Metrics;
use proptest::prelude::*;
use prost::Message;

use super::{backlog, *};

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bounds(max_bytes: usize, max_messages: usize) -> Bounds {
    Bounds {
        max_bytes,
        max_messages,
        tenant_max_bytes: 1 << 30,
        max_unconfirmed: 4,
        max_rooms: 4,
    }
}

fn outbox(max_bytes: usize, max_messages: usize) -> Outbox {
    let limits = OutboxLimits::new(bounds(max_bytes, max_messages), &Metrics::default());
    of_tenant(&Arc::new(limits))
}

fn of_tenant(limits: &Arc<OutboxLimits>) -> Outbox {
    let tenant = TenantId::parse("acme").expect("a valid name");
    Outbox::new(SessionId::new(), &tenant, limits.clone())
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("a valid name")
}

fn numbered(number: u32, padding: usize) -> Frame {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(4 + padding, 0);
    Frame::binary(&payload)
}

fn number(entry: &Entry) -> u32 {
    u32::from_be_bytes(entry.frame.payload()[..4].try_into().expect("four bytes"))
}

fn load_of(batch: &VecDeque<Entry>) -> Load {
    let mut load = Load::default();
    batch.iter().for_each(|entry| load.add(entry));
    load
}

/// The GAP frames of a batch for this reason: room and how many.
fn gaps_for(reason: v1::GapReason, batch: &VecDeque<Entry>) -> Vec<(String, u64)> {
    let control = batch.iter().filter(|entry| !entry.is_message());
    control
        .filter_map(|entry| {
            let envelope = v1::Envelope::decode(entry.frame.payload()).ok()?;
            match envelope.body {
                Some(v1::envelope::Body::Gap(gap)) if gap.reason() == reason => {
                    Some((envelope.room, gap.missed.expect("the count is known")))
                }
                _ => None,
            }
        })
        .collect()
}

fn gaps(batch: &VecDeque<Entry>) -> Vec<(String, u64)> {
    gaps_for(v1::GapReason::SlowReader, batch)
}

/// Takes once, with nothing written before.
fn taken(outbox: &Outbox) -> (VecDeque<Entry>, Take) {
    let cx = Context::from_waker(Waker::noop());
    let mut batch = VecDeque::new();
    let take = outbox.take(&cx, Load::default(), &mut batch);
    (batch, take)
}

fn numbers(batch: &VecDeque<Entry>) -> Vec<u32> {
    let messages = batch.iter().filter(|entry| entry.is_message());
    messages.map(number).collect()
}

#[test]
fn the_task_is_woken_once_until_it_found_the_queue_empty() {
    let outbox = outbox(1 << 20, 100);
    let wakes = Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let cx = Context::from_waker(&waker);
    let mut batch = VecDeque::new();
    assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Empty);
    for n in 0..10 {
        outbox.push_message(&room("a"), Overflow::CloseAndReconnect, &numbered(n, 0));
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
    assert_eq!(
        batch.iter().map(number).collect::<Vec<_>>(),
        Vec::from_iter(0..10)
    );
    outbox.push_message(&room("a"), Overflow::CloseAndReconnect, &numbered(10, 0));
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the task is at work");
}

#[test]
fn a_slow_reader_is_closed_and_its_messages_forgotten_at_once() {
    let outbox = outbox(1 << 20, 16);
    let cx = Context::from_waker(Waker::noop());
    outbox.push_control(Frame::ping());
    for n in 0..17 {
        outbox.push_message(&room("a"), Overflow::CloseAndReconnect, &numbered(n, 0));
    }
    assert_eq!(outbox.lock().load.messages, 0);
    outbox.close(CloseCode::GoingAway);
    let mut batch = VecDeque::new();
    assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
    assert_eq!(batch.len(), 1, "the ping alone");
    let written = load_of(&batch);
    batch.clear();
    assert_eq!(
        outbox.take(&cx, written, &mut batch),
        Take::Close(CloseCode::SlowReader),
        "the first close wins"
    );
    assert_eq!(outbox.limits.counters.slow_reader.get(), 17);
}

#[test]
fn what_waits_for_a_session_of_text_is_counted_as_it_is_sent() {
    let outbox = outbox(1 << 20, 16).speaking(Encoding::Json);
    let cx = Context::from_waker(Waker::noop());
    let pong = |len| Frame::envelope(&envelope::pong(1, vec![0; len].into()));
    outbox.push_message(&room("a"), Overflow::DropOldest, &pong(3_000));
    outbox.push_control(pong(300));
    assert!(outbox.push_presence(&[pong(30)]));
    let mut batch = VecDeque::new();
    let waiting = outbox.waiting_bytes();
    assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
    let sent: usize = batch.iter().map(|entry| entry.frame.len()).sum();
    assert_eq!(waiting, sent as u64);
    assert!(batch.iter().all(|entry| entry.frame.payload()[0] == b'{'));
    assert!(sent > 4 * 3_330 / 3, "base64 is a third longer: {sent}");
}

#[test]
fn an_overrun_reserve_closes() {
    let outbox = outbox(1 << 20, 16);
    let cx = Context::from_waker(Waker::noop());
    for _ in 0..=outbox.limits.reserve_frames {
        outbox.push_control(Frame::ping());
    }
    let mut batch = VecDeque::new();
    let mut frames = 0;
    let mut written = Load::default();
    let end = loop {
        match outbox.take(&cx, written, &mut batch) {
            Take::Frames => {
                frames += batch.len();
                written = load_of(&batch);
                batch.clear();
            }
            end => break end,
        }
    };
    assert_eq!(end, Take::Close(CloseCode::SlowReader));
    assert_eq!(frames, outbox.limits.reserve_frames);
}

#[test]
fn a_frame_over_the_whole_bound_gives_a_gap_and_nothing_else() {
    let outbox = outbox(100, 16);
    let cx = Context::from_waker(Waker::noop());
    outbox.push_message(&room("a"), Overflow::DropOldest, &numbered(1, 200));
    let mut batch = VecDeque::new();
    assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
    assert_eq!(gaps(&batch), [("a".to_owned(), 1)]);
    assert_eq!(batch.len(), 1);
}

#[test]
fn of_a_room_with_latest_only_one_message_waits() {
    let outbox = outbox(1 << 20, 100);
    for n in 0..5 {
        outbox.push_message(&room("ticker"), Overflow::LatestOnly, &numbered(n, 10));
        outbox.push_message(
            &room("log"),
            Overflow::CloseAndReconnect,
            &numbered(100 + n, 0),
        );
        outbox.push_message(&room("other"), Overflow::LatestOnly, &numbered(200 + n, 0));
    }
    let (batch, take) = taken(&outbox);
    assert_eq!(take, Take::Frames);
    assert_eq!(numbers(&batch), [100, 101, 102, 103, 4, 104, 204]);
    assert_eq!(
        gaps_for(v1::GapReason::LatestOnly, &batch),
        [("ticker".to_owned(), 4), ("other".to_owned(), 4)]
    );
    assert_eq!(outbox.limits.counters.latest_only.get(), 8);
    assert_eq!(
        outbox.limits.counters.slow_consumers.get(),
        0,
        "it is no slow reader"
    );
    // What is on its way to the socket is not replaced.
    outbox.push_message(&room("ticker"), Overflow::LatestOnly, &numbered(5, 0));
    let (batch, _) = taken(&outbox);
    assert_eq!(numbers(&batch), [5]);
    assert_eq!(gaps_for(v1::GapReason::LatestOnly, &batch), []);
}

#[test]
fn messages_that_may_give_way_make_room_for_those_that_may_not() {
    let outbox = outbox(1 << 20, 4);
    for n in 0..4 {
        outbox.push_message(&room("chat"), Overflow::DropOldest, &numbered(n, 0));
    }
    for n in 10..14 {
        outbox.push_message(
            &room("orders"),
            Overflow::CloseAndReconnect,
            &numbered(n, 0),
        );
    }
    // Nothing is left that may give way: the next of `chat` is lost itself, of `orders` the session.
    outbox.push_message(&room("chat"), Overflow::DropOldest, &numbered(4, 0));
    assert!(!outbox.is_closing());
    let (batch, _) = taken(&outbox);
    assert_eq!(numbers(&batch), [10, 11, 12, 13]);
    assert_eq!(gaps(&batch), [("chat".to_owned(), 5)]);
    outbox.push_message(
        &room("orders"),
        Overflow::CloseAndReconnect,
        &numbered(14, 0),
    );
    assert_eq!(outbox.closing(), Some(CloseCode::SlowReader));
}

#[test]
fn stalled_sessions_of_a_tenant_share_a_bound_and_leave_room_for_others() {
    const MAX: usize = 1 << 20;
    let bounds = Bounds {
        tenant_max_bytes: MAX,
        ..bounds(MAX, 10_000)
    };
    let metrics = Metrics::default();
    let limits = Arc::new(OutboxLimits::new(bounds, &metrics));
    let stalled: Vec<_> = (0..20).map(|_| of_tenant(&limits)).collect();
    for n in 0..1000 {
        for outbox in &stalled {
            outbox.push_message(&room("a"), Overflow::DropOldest, &numbered(n, 1000));
        }
    }
    let backlog = stalled[0].backlog.clone();
    let waiting: u64 = stalled.iter().map(Outbox::waiting_bytes).sum();
    let free = u64::from(backlog::FREE) * stalled.len() as u64;
    assert!(waiting <= MAX as u64 + free, "{waiting}");
    assert!(backlog.bytes() <= MAX as u64);
    assert!(metrics.tenant_backlog_full.get() > 0);
    // A reader that keeps up notices nothing.
    let healthy = of_tenant(&limits);
    for n in 0..1000 {
        healthy.push_message(&room("a"), Overflow::CloseAndReconnect, &numbered(n, 1000));
        let (batch, _) = taken(&healthy);
        assert_eq!(numbers(&batch), [n]);
        healthy.release(&mut healthy.lock(), load_of(&batch));
    }
    // Whatever becomes of the stalled, all is given back.
    stalled[0].end();
    stalled[2].push_message(
        &room("b"),
        Overflow::CloseAndReconnect,
        &numbered(1, 900_000),
    );
    drop((stalled, healthy));
    assert_eq!(backlog.bytes(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Message { room: bool, padding: usize },
    Control,
    Take,
    Written,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<bool>(), 0_usize..300).prop_map(|(room, padding)| Step::Message { room, padding }),
        1 => Just(Step::Control),
        1 => Just(Step::Take),
        1 => Just(Step::Written),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Bounds hold at every moment, order is kept, only MESSAGE is
    /// dropped, and every dropped one is told before what came after it.
    #[test]
    fn drop_oldest_is_bounded_ordered_and_told(steps in steps()) {
        const BYTES: usize = 1000;
        const MESSAGES: usize = 8;
        let outbox = outbox(BYTES, MESSAGES);
        let cx = Context::from_waker(Waker::noop());
        let rooms = [room("a"), room("b")];
        let mut pushed = 0_u32;
        let mut controls = (0, 0);
        let mut told = 0;
        let mut seen = Vec::new();
        let mut batch = VecDeque::new();
        let mut unwritten = Load::default();
        let mut take = |unwritten: &mut Load, batch: &mut VecDeque<Entry>, seen: &mut Vec<u32>| {
            let take = outbox.take(&cx, std::mem::take(unwritten), batch);
            told += gaps(batch).iter().map(|(_, missed)| missed).sum::<u64>();
            controls.1 += batch.iter().filter(|e| e.frame == Frame::ping()).count();
            seen.extend(batch.iter().filter(|e| e.is_message()).map(number));
            // All that is missing before a message was told before it.
            if let Some(last) = seen.last().filter(|_| batch.iter().any(Entry::is_message)) {
                assert_eq!(u64::from(last + 1), seen.len() as u64 + told);
            }
            take
        };
        for step in steps {
            match step {
                Step::Message { room, padding } => {
                    outbox.push_message(
                        &rooms[usize::from(room)],
                        Overflow::DropOldest,
                        &numbered(pushed, padding),
                    );
                    pushed += 1;
                }
                Step::Control => {
                    outbox.push_control(Frame::ping());
                    controls.0 += 1;
                }
                Step::Take if batch.is_empty() => {
                    take(&mut unwritten, &mut batch, &mut seen);
                }
                Step::Take => {}
                Step::Written => {
                    batch.drain(..).for_each(|entry| unwritten.add(&entry));
                }
            }
            let load = outbox.lock().load;
            prop_assert!(load.messages as usize <= MESSAGES);
            prop_assert!(load.message_bytes as usize <= BYTES);
        }
        loop {
            batch.drain(..).for_each(|entry| unwritten.add(&entry));
            if take(&mut unwritten, &mut batch, &mut seen) == Take::Empty {
                break;
            }
        }
        prop_assert!(seen.is_sorted());
        prop_assert_eq!(controls.0, controls.1);
        prop_assert_eq!(u64::from(pushed), seen.len() as u64 + told);
        prop_assert_eq!(outbox.lock().load, Load::default());
    }
}
