//! The life of a link: dormant, connecting, up, down, closed.
//!
//! One task per link owns the connection of the moment and is the only one to
//! subscribe, rotate and reconnect. It carries no message. Once up, it ends
//! only by idleness or order; a lost connection is opened again for ever, with
//! growing pauses, and every room is told of the gap once it is live again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arqon_proto::{codes::ErrorCode, names::RoomId};
use arqon_telemetry::{Span, log::chain, trace::Kind};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{
    connection::{Choice, Connection, OpenError},
    link::{LinkState, Shared},
    restore::restore,
    serving::Serving,
};

/// The first pause between attempts to connect, doubled up to the longest; a
/// server that restarts is back within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// See `FIRST_PAUSE`.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a link asks of its driver.
#[derive(Debug)]
pub(super) enum Command {
    /// Connect if dormant.
    Wake,
    /// A room is wanted.
    Subscribe(RoomId),
    /// Rotate the credentials; true once new ones are in force.
    Rotate(oneshot::Sender<bool>),
    /// Another account: connect anew.
    Rebuild,
    /// End for good.
    Close,
}

/// Why a stretch of a link's life is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Idle,
    Lost,
    Closed,
}

/// Runs a link until it is closed.
pub(super) async fn run(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut end = End::Idle;
    loop {
        if end == End::Idle {
            shared.set_state(LinkState::Dormant);
            end = dormant(&mut commands).await;
        }
        if end == End::Closed {
            break;
        }
        end = match connect(&shared, &mut commands, end == End::Lost).await {
            Err(end) => end,
            Ok(connection) => Serving::new(&shared, connection).run(&mut commands).await,
        };
    }
    shared.set_state(LinkState::Closed);
    shared.publisher.set_line(None);
    shared.set_key_in_use(None);
    shared.rooms.give_up_waiting(ErrorCode::SpineUnavailable);
}

/// Waits for a use of the link. The reason it returns for stands for what comes next.
async fn dormant(commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
    loop {
        match commands.recv().await {
            Some(Command::Wake | Command::Subscribe(_)) => return End::Idle,
            Some(Command::Rotate(done)) => drop(done.send(true)),
            Some(Command::Rebuild) => {}
            Some(Command::Close) | None => return End::Closed,
        }
    }
}

/// Connects, as often as it takes, and brings all rooms to life.
async fn connect(
    shared: &Arc<Shared>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    again: bool,
) -> Result<Connection, End> {
    let first = if again {
        LinkState::Down
    } else {
        LinkState::Connecting
    };
    shared.set_state(first);
    let mut pause = FIRST_PAUSE;
    let mut idle_since = Instant::now();
    loop {
        let attempt = async {
            let mut connection = shared.open(Choice::default()).await?;
            restore(shared, &mut connection).await?;
            Ok::<_, OpenError>(connection)
        };
        let error = match until_closed(commands, attempt).await? {
            Ok(connection) => {
                // Whoever woke it meanwhile has this connection, and no later one.
                shared.cause().take();
                if again {
                    shared.counters.metrics.spine_reconnects.inc();
                    info!(tenant = %shared.tenant, server = connection.server(), "Spine connection is back");
                }
                return Ok(connection);
            }
            Err(error) => error,
        };
        if pause == FIRST_PAUSE {
            warn!(tenant = %shared.tenant, error = chain(&error), "Cannot connect to the Spine, trying on");
        } else {
            debug!(tenant = %shared.tenant, error = chain(&error), "Still no connection to the Spine");
        }
        shared.set_state(LinkState::Down);
        let wait = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        until_closed(commands, tokio::time::sleep(wait)).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);

        shared
            .rooms
            .expire(Instant::now().into_std(), shared.params.linger);
        if shared.used.swap(false, Ordering::Relaxed) || shared.rooms.len() > 0 {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= shared.params.idle_close {
            return Err(End::Idle);
        }
    }
}

/// Performs `work`, and whatever of the orders can be done without a connection.
async fn until_closed<T>(
    commands: &mut mpsc::UnboundedReceiver<Command>,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Close) | None => return Err(End::Closed),
                // The connection that is being opened has fresh credentials.
                Some(Command::Rotate(done)) => drop(done.send(true)),
                // All rooms of the table are subscribed to once connected.
                Some(Command::Subscribe(_) | Command::Wake | Command::Rebuild) => {}
            },
            result = &mut work => return Ok(result),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Opens a connection for the account of the present record.
    pub(super) async fn open(&self, choice: Choice) -> Result<Connection, OpenError> {
        let _opening = self.openings.acquire().await.map_err(|_| OpenError::Lost)?;
        let account = self.record.load().record.account.clone();
        let fleet_key = self.fleet_key.load_full();
        let (tenant, counters) = (&self.tenant, &self.counters);
        let presence = &self.presence;
        let open = Connection::open(
            &self.params,
            &fleet_key,
            tenant,
            &account,
            choice,
            counters,
            presence,
            &self.meter,
        );
        let cause = self.cause().take();
        let span = match cause {
            Some(cause) => {
                let tracer = counters.metrics.tracer();
                tracer.follow("shield.exchange", Kind::Client, cause)
            }
            None => Span::none(),
        };
        // Large, and of use for milliseconds of a link's life.
        let opened = Box::pin(open).await;
        let outcome = opened.as_ref().map(drop).map_err(|_| "connect_failed");
        span.end(outcome, |found| {
            found.text("arqon.tenant", tenant.as_str());
            found.text("messaging.system", "nats");
            if let Ok(connection) = &opened {
                found.text("server.address", connection.server());
            }
        });
        opened
    }
}
