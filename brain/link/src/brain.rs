//! The connection to BRAIN: changes, pages and queries in; events and orders out.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_spine::connect::{Connection, TenantOptions, connect_user};
use arqon_spine::credentials::read_creds;
use arqon_spine::{nats, subjects};
use arqon_telemetry::log::chain;
use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use tokio::sync::{mpsc, watch};
use tokio::task::coop::unconstrained;
use tracing::{debug, warn};

use crate::commands::Command;
use crate::counters::Counter;
use crate::inbound::{Event, Refused, Sent, Which};
use crate::outbound::{self, Outgoing};
use crate::outbox::Outbox;
use crate::pipe::Job;
use crate::spine::{Broken, Paced, Side, came, heed};

/// Messages waiting in one subscription. The task that takes them never waits
/// for Brain, so this is for the moments in which the machine is busy.
const SUBSCRIPTION: usize = 131_072;
/// Messages waiting to be written, each of up to 256 KiB.
const WRITES: usize = 64;
/// Messages taken before the others of this thread have their turn.
const GATHER: usize = 4096;

/// What the connection needs.
#[derive(Debug)]
pub(crate) struct BrainSide {
    pub(crate) id: NodeId,
    pub(crate) servers: Vec<String>,
    pub(crate) creds: PathBuf,
    /// How long the server may be silent.
    pub(crate) patience: Duration,
    pub(crate) serve: watch::Receiver<bool>,
    /// The client while there is one.
    pub(crate) client: watch::Sender<Option<nats::Client>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Changes,
    Pages,
    Queries,
}

/// Several subscriptions as one stream, each in its order and none starving
/// the others.
#[derive(Debug, Default)]
struct Feeds {
    feeds: Vec<(Source, nats::Subscriber)>,
    first: usize,
}

// === impl BrainSide ===

impl Side for BrainSide {
    const WHICH: Which = Which::Brain;

    async fn serve(&self, outbox: &Outbox) -> Result<(), Broken> {
        let options = TenantOptions {
            client_capacity: WRITES,
            subscription_capacity: SUBSCRIPTION,
            read_buffer_capacity: u16::MAX,
            ..TenantOptions::default()
        };
        let user = read_creds(&self.creds)?;
        let name = format!("{}/brain", self.id);
        let connection = connect_user(&self.servers, user, &name, &options).await?;
        let served = self.used(connection, outbox).await;
        self.client.send_replace(None);
        served
    }
}

impl BrainSide {
    async fn used(&self, mut connection: Connection, outbox: &Outbox) -> Result<(), Broken> {
        let mut serve = self.serve.clone();
        let client = connection.client.clone();
        let mut feeds = Feeds::default();
        let changes = client.subscribe(subjects::BRAIN_CHANGES).await?;
        let pages = client.subscribe(subjects::brain_pages(&self.id)).await?;
        feeds.add(Source::Changes, changes);
        feeds.add(Source::Pages, pages);
        if *serve.borrow_and_update() {
            feeds.add(Source::Queries, queries(&client).await?);
        }
        let mut pulse = match came(Which::Brain, &connection, self.patience, outbox).await {
            Ok(pulse) => pulse,
            Err(broken) => {
                connection.abort().await;
                return Err(broken);
            }
        };
        self.client.send_replace(Some(client.clone()));

        let (mut watched, mut served) = (true, true);
        let mut objections = Paced::default();
        let mut refusals = Paced::default();
        let ended = loop {
            tokio::select! {
                message = feeds.next() => {
                    let Some(message) = message else { break Ok(()) };
                    pulse.heard();
                    gather(message, &mut feeds, outbox, &mut refusals);
                }
                () = pulse.stopped() => match feeds.next().now_or_never() {
                    // It had come, and was not yet read.
                    Some(Some(message)) => {
                        pulse.heard();
                        gather(message, &mut feeds, outbox, &mut refusals);
                    }
                    // Its feeds may not end before 15 s, but nothing comes of them now.
                    _ => {
                        connection.abort().await;
                        break Err(Broken::Silent);
                    }
                },
                event = connection.events.recv(), if watched => match event {
                    Some(event) => {
                        if !heed(Which::Brain, &event, outbox, &mut objections) {
                            connection.abort().await;
                        }
                    }
                    None => watched = false,
                },
                changed = serve.changed(), if served => {
                    served = changed.is_ok();
                    // What fails here ends the feeds too.
                    if !*serve.borrow_and_update() {
                        feeds.drain_queries().await;
                    } else if let Ok(queries) = queries(&client).await {
                        feeds.drain_queries().await;
                        feeds.add(Source::Queries, queries);
                    }
                }
            }
        };
        // What the client was told of losses just before its end.
        while let Some(event) = connection.events.try_recv() {
            heed(Which::Brain, &event, outbox, &mut objections);
        }
        outbox.push([Event::spine(Which::Brain, false)]);
        ended
    }
}

async fn queries(client: &nats::Client) -> Result<nats::Subscriber, nats::client::SubscribeError> {
    let group = subjects::BRAIN_QUEUE.to_owned();
    client.queue_subscribe(subjects::BRAIN_QUERIES, group).await
}

/// Tells Brain of a message and of what else is there already, as one.
fn gather(
    first: (Source, nats::Message),
    feeds: &mut Feeds,
    outbox: &Outbox,
    refusals: &mut Paced,
) {
    let mut events = Vec::new();
    let mut taken = 0;
    let mut next = Some(first);
    while let Some((source, message)) = next {
        let refused = match event(source, &message.subject, &message.payload, &mut events) {
            Ok(0) => None,
            Ok(traces) => {
                outbox.count(Counter::Malformed, traces as u64);
                Some(Refused::Malformed("traces"))
            }
            Err(refused) => {
                outbox.count(refused.counter(), 1);
                Some(refused)
            }
        };
        if let Some(refused) = refused
            && let Some(unsaid) = refusals.now(Instant::now())
        {
            let subject = message.subject.as_str();
            warn!(subject, reason = ?refused, unsaid, "A message was refused");
        }
        taken += 1;
        next = if taken < GATHER {
            // Without tokio's budget, which would end the turn at 128 messages while
            // the client reads on without one, and fills the subscription.
            unconstrained(feeds.next()).now_or_never().flatten()
        } else {
            None
        };
    }
    outbox.push(events);
}

/// How many parts of the message were dropped from it.
fn event(
    source: Source,
    subject: &str,
    body: &Bytes,
    events: &mut Vec<Event>,
) -> Result<usize, Refused> {
    let account = subjects::account_of(subject).unwrap_or_default();
    let sent = Sent { account, body };
    match source {
        Source::Changes => return sent.changes(events),
        Source::Pages => events.push(sent.page()?),
        Source::Queries => events.push(sent.query()?),
    }
    Ok(0)
}

/// Publishes what Brain says, in order. While there is no connection it is
/// dropped: nothing of it is worth keeping until there is one.
pub(crate) async fn publish(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    mut clients: watch::Receiver<Option<nats::Client>>,
    outbox: Outbox,
) {
    let mut failures = Paced::default();
    while let Some(job) = jobs.recv().await {
        let Some(client) = clients.borrow_and_update().clone() else {
            outbox.count(Counter::Dropped, 1);
            continue;
        };
        let most = client.max_payload();
        let Job { command, _spent } = job;
        let messages = match command {
            Command::Order {
                account,
                shield,
                order,
            } => outbound::order(&account, &shield, order, most),
            Command::Events { account, events } => outbound::events(&account, events, most),
            Command::Serve(_) | Command::Ask { .. } | Command::Beat(_) | Command::Spans(_) => {
                Vec::new()
            }
        };
        for Outgoing { subject, payload } in messages {
            let sent = tokio::select! {
                sent = client.publish(subject, payload) => sent.map_err(|error| chain(&error)),
                // A client that is stuck would hold what belongs to the next.
                _ = clients.changed() => Err("the connection is over".to_owned()),
            };
            let Err(error) = sent else { continue };
            outbox.count(Counter::Dropped, 1);
            if let Some(unsaid) = failures.now(Instant::now()) {
                debug!(error, unsaid, "Cannot publish");
            }
        }
    }
}

// === impl Feeds ===

impl Feeds {
    fn add(&mut self, source: Source, feed: nats::Subscriber) {
        self.feeds.push((source, feed));
    }

    /// Leaves the queue group; what came before is still told.
    async fn drain_queries(&mut self) {
        for (source, feed) in &mut self.feeds {
            if *source == Source::Queries {
                // Fails only where the connection is over, and with it the feed.
                let _ = feed.drain().await;
            }
        }
    }

    /// The next message; None when the connection is over and all was taken.
    async fn next(&mut self) -> Option<(Source, nats::Message)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(Source, nats::Message)>> {
        let mut looked = 0;
        while looked < self.feeds.len() {
            let index = (self.first + looked) % self.feeds.len();
            let (source, feed) = &mut self.feeds[index];
            match Pin::new(feed).poll_next(context) {
                Poll::Ready(Some(message)) => {
                    let source = *source;
                    self.first = index + 1;
                    return Poll::Ready(Some((source, message)));
                }
                Poll::Ready(None) => {
                    self.feeds.remove(index);
                    (self.first, looked) = (0, 0);
                }
                Poll::Pending => looked += 1,
            }
        }
        if self.feeds.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}
