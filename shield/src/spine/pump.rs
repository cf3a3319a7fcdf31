//! The pump: one task per connection carries its messages to the rooms.
//!
//! It never waits on anything but messages: outboxes are bounded and take or
//! drop at once. It works in bursts and yields between them, so sessions write
//! what they got in one call each. Messages of a room whose feed is held stay
//! in the subscription's queue: that is the buffer of a rotation.

use std::{future::poll_fn, sync::Arc, task::Poll, time::SystemTime};

use arqon_proto::names::{RoomId, TenantId};
use arqon_spine::nats;
use arqon_telemetry::{Span, Tracer, metrics::TenantMeter};
use tokio::sync::{mpsc, oneshot};

use super::{
    counters::Counters,
    feeds::{Feeds, Progress},
    origin::{Origin, Stamped},
    publisher::{BEACON, ORIGIN, TRACEPARENT},
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
    pub(super) fn spawn(counters: Arc<Counters>, tenant: Traced) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        // The burst is our own measure of a turn; tokio's would end each at 128 messages.
        tokio::spawn(tokio::task::unconstrained(run(receiver, counters, tenant)));
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

async fn run(mut orders: mpsc::UnboundedReceiver<Order>, counters: Arc<Counters>, tenant: Traced) {
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
                    carry(delivery, message, &counters, &tenant);
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

/// Whose messages are carried, for the traces of those that have one.
#[derive(Debug, Clone)]
pub(super) struct Traced {
    pub(super) tenant: TenantId,
    pub(super) meter: Arc<TenantMeter>,
}

/// Carries one message: without an origin it can neither be told from a
/// duplicate nor missed, so it counts as malformed.
fn carry(
    delivery: &mut Delivery<'_>,
    message: nats::Message,
    counters: &Counters,
    tenant: &Traced,
) {
    let header = |name: &nats::HeaderName| {
        let headers = message.headers.as_ref()?;
        Some(headers.get(name.clone())?.as_str())
    };
    if let Some(stamped) = header(&ORIGIN).and_then(Stamped::parse) {
        let span = tenant.begin(&message, stamped, counters.metrics.tracer());
        let bytes = message.payload.len();
        let queued = delivery.message(stamped, message.payload);
        span.end(Ok(()), |found| {
            found.text("messaging.system", "nats");
            found.text("messaging.operation.type", "process");
            found.text("messaging.operation.name", "deliver");
            found.text("messaging.destination.name", message.subject.as_str());
            found.number("messaging.message.body.size", bytes);
            found.text("arqon.tenant", tenant.tenant.as_str());
            found.text("arqon.room", delivery.room().as_str());
            found.number("arqon.members", queued);
        });
    } else if let Some(origin) = header(&BEACON).and_then(Origin::parse) {
        delivery.beacon(origin);
    } else {
        counters.malformed.inc();
    }
}

// === impl Traced ===

impl Traced {
    /// The delivery of a message, if its publication is traced. All others have one header.
    /// Its span begins when the message was published, so that it shows a late one.
    fn begin(&self, message: &nats::Message, stamped: Stamped, tracer: &Tracer) -> Span {
        let headers = message.headers.as_ref().filter(|all| all.len() > 1);
        let traced = headers.filter(|_| tracer.is_on());
        let cause = traced
            .and_then(|headers| headers.get(TRACEPARENT.clone()))
            .and_then(|value| value.as_str().parse().ok());
        match cause {
            Some(cause) => {
                let since = stamped.sent().unwrap_or_else(SystemTime::now);
                tracer.follow_delivery("shield.deliver", &self.meter, cause, since)
            }
            None => Span::none(),
        }
    }
}
