//! The pump: one task per connection carries its messages to the rooms.
//!
//! It never waits on anything but messages: outboxes are bounded and take or
//! drop at once. It works in bursts and yields between them, so sessions write
//! what they got in one call each. Messages of a room whose feed is held stay
//! in the subscription's queue: that is the buffer of a rotation.

use std::{future::poll_fn, sync::Arc, task::Poll};

use arqon_proto::names::RoomId;
use arqon_spine::nats;
use tokio::sync::{mpsc, oneshot};

use super::{
    counters::Counters,
    feeds::{Feeds, Progress},
    origin::Origin,
    publisher::{BEACON, ORIGIN},
};
use crate::rooms::{Delivery, Room};

/// Messages carried before the task yields: enough to make vectored writes
/// worth while, about a millisecond of work at a hundred members.
const BURST: usize = 256;

/// The handle of a pump; dropping it ends the task, and with it the subscriptions.
#[derive(Debug)]
pub(super) struct Pump {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Add(Arc<Room>, nats::Subscriber, bool),
    Remove(RoomId),
    Release,
    Finish(oneshot::Sender<()>),
}

// === impl Pump ===

impl Pump {
    pub(super) fn spawn(counters: Arc<Counters>) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        // The burst is our own measure of a turn; tokio's would end each at 128 messages.
        tokio::spawn(tokio::task::unconstrained(run(receiver, counters)));
        Self { orders }
    }

    /// Carries the messages of a subscription, or holds them until `release`.
    pub(super) fn add(&self, room: Arc<Room>, subscriber: nats::Subscriber, held: bool) {
        let _ = self.orders.send(Order::Add(room, subscriber, held));
    }

    /// Ends the subscription of a room.
    pub(super) fn remove(&self, room: RoomId) {
        let _ = self.orders.send(Order::Remove(room));
    }

    /// Lets held messages go.
    pub(super) fn release(&self) {
        let _ = self.orders.send(Order::Release);
    }

    /// Returns once all that is queued now was carried, and ends.
    pub(super) async fn finish(self) {
        let (sender, done) = oneshot::channel();
        let _ = self.orders.send(Order::Finish(sender));
        // An error means that it has ended already.
        let _ = done.await;
    }
}

async fn run(mut orders: mpsc::UnboundedReceiver<Order>, counters: Arc<Counters>) {
    let mut feeds: Feeds<RoomId, Arc<Room>, nats::Subscriber> = Feeds::new();
    let mut finish = None;
    loop {
        let over = poll_fn(|cx| {
            while let Poll::Ready(order) = orders.poll_recv(cx) {
                match order {
                    Some(Order::Add(room, subscriber, held)) => {
                        feeds.insert(room.id().clone(), room, subscriber, held);
                    }
                    Some(Order::Remove(room)) => feeds.remove(&room),
                    Some(Order::Release) => feeds.release(),
                    Some(Order::Finish(done)) => finish = Some(done),
                    None => return Poll::Ready(true),
                }
            }
            let progress = feeds.poll(cx, BURST, |room, next| {
                let mut delivery = None;
                while let Some(message) = next() {
                    let delivery = delivery.get_or_insert_with(|| room.deliver(&counters));
                    carry(delivery, message, &counters);
                }
            });
            match progress {
                Progress::More => Poll::Ready(false),
                Progress::Idle if finish.is_some() => Poll::Ready(true),
                Progress::Idle => Poll::Pending,
            }
        })
        .await;
        if over {
            break;
        }
        tokio::task::yield_now().await;
    }
    if let Some(done) = finish {
        let _ = done.send(());
    }
}

/// Carries one message: without an origin it can neither be told from a
/// duplicate nor missed, so it counts as malformed.
fn carry(delivery: &mut Delivery<'_>, message: nats::Message, counters: &Counters) {
    let header = |name: &nats::HeaderName| {
        let headers = message.headers.as_ref()?;
        Origin::parse(headers.get(name.clone())?.as_str())
    };
    if let Some(origin) = header(&ORIGIN) {
        delivery.message(origin, message.payload);
    } else if let Some(origin) = header(&BEACON) {
        delivery.beacon(origin);
    } else {
        counters.malformed.inc();
    }
}
