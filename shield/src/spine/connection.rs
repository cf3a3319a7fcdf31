//! One NATS connection of a tenant, with its barrier, its pump and its subscriptions.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arqon_proto::names::{RoomId, TenantId};
use arqon_spine::{
    connect::{self, ConnectError, Events, TenantOptions},
    credentials::{FleetKey, mint_tenant_user},
    subjects,
};

use super::{
    barrier::Barrier,
    counters::Counters,
    publisher::Line,
    pump::{Pump, Traced},
    settings::SpineParams,
};
use arqon_telemetry::metrics::TenantMeter;

use crate::{
    presence::{self, TenantPresence},
    rooms::Room,
};

/// Commands queued to the connection before publishers wait. Large enough to
/// keep the socket busy, small enough that what waits here is gone in milliseconds.
const CLIENT_CAPACITY: usize = 1024;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    spine: connect::Connection,
    pub(super) barrier: Arc<Barrier>,
    pub(super) pump: Pump,
    /// The public fleet key that minted its user.
    pub(super) fleet_key: String,
    /// The account it belongs to.
    pub(super) account: String,
    /// What is left of the credential's life, at opening.
    pub(super) life: Option<Duration>,
    subscriptions: Subscriptions,
}

/// async-nats numbers subscriptions from 1 in the order they are made, and
/// names a slow one by that number only.
#[derive(Debug)]
struct Subscriptions {
    by_room: HashMap<RoomId, u64>,
    by_number: HashMap<u64, RoomId>,
    last: u64,
}

/// The first numbers are those of the barrier and of presence's two.
const OWN: u64 = 3;

/// Where to connect.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    /// Try this server first.
    pub(super) prefer: Option<String>,
    /// Do not try this server.
    pub(super) avoid: Option<String>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// There is no other server than the one to avoid.
    #[error("there is no other NATS server")]
    NoOther,
    /// The server cannot be had.
    #[error("no connection for the tenant")]
    Connect(#[from] ConnectError),
    /// It ended before it was of use.
    #[error("the connection ended at once")]
    Lost,
}

// === impl Connection ===

impl Connection {
    /// Mints a user and connects it.
    #[allow(
        clippy::too_many_arguments,
        reason = "all of it is the link's, which opens one now and then"
    )]
    pub(super) async fn open(
        params: &SpineParams,
        fleet_key: &FleetKey,
        tenant: &TenantId,
        account: &str,
        choice: Choice,
        counters: &Arc<Counters>,
        presence: &Arc<TenantPresence>,
        meter: &Arc<TenantMeter>,
    ) -> Result<Self, OpenError> {
        let servers: Vec<String> = params
            .servers
            .iter()
            .filter(|server| Some(*server) != choice.avoid.as_ref())
            .cloned()
            .collect();
        if servers.is_empty() {
            return Err(OpenError::NoOther);
        }
        let node = params.node.as_str();
        let minted = mint_tenant_user(fleet_key, account, tenant, node, params.user_ttl);
        counters.metrics.token_exchanges.inc();
        let name = format!("{node}/{tenant}");
        let options = TenantOptions {
            client_capacity: CLIENT_CAPACITY,
            subscription_capacity: params.pump_capacity,
            prefer: choice.prefer,
            ..TenantOptions::default()
        };
        let spine = connect::connect_tenant(&servers, minted, &name, options).await?;

        let (client, user) = (spine.client.clone(), spine.user.clone());
        let echo = client.subscribe(subjects::barrier(&user)).await;
        let echo = echo.map_err(|_| OpenError::Lost)?;
        if !presence::listen(presence, &client, tenant, &params.node).await {
            return Err(OpenError::Lost);
        }
        let barrier = Barrier::new(counters.clone());
        let run = barrier
            .clone()
            .run(client, user, echo, spine.closed.clone(), params.ack_timeout);
        tokio::spawn(run);
        Ok(Self {
            pump: Pump::spawn(
                counters.clone(),
                Traced {
                    tenant: tenant.clone(),
                    meter: meter.clone(),
                },
            ),
            barrier,
            fleet_key: fleet_key.public().to_owned(),
            account: account.to_owned(),
            life: spine
                .expires_at
                .and_then(|at| at.duration_since(SystemTime::now()).ok()),
            spine,
            subscriptions: Subscriptions::after_own(),
        })
    }

    /// What publishers need of it.
    pub(super) fn line(&self) -> Line {
        Line {
            client: self.spine.client.clone(),
            closed: self.spine.closed.clone(),
            barrier: self.barrier.clone(),
        }
    }

    /// Subscribes to a room, once. False: the connection is over.
    pub(super) async fn subscribe(&mut self, room: &Arc<Room>, held: bool) -> bool {
        if self.is_subscribed(room.id()) {
            return true;
        }
        let Ok(subscriber) = self.spine.client.subscribe(room.subject().clone()).await else {
            return false;
        };
        self.subscriptions.add(room.id().clone());
        self.pump.add(room.clone(), subscriber, held);
        true
    }

    /// Ends the subscription to a room, if there is one.
    pub(super) fn unsubscribe(&mut self, room: &RoomId) {
        if self.subscriptions.remove(room) {
            self.pump.remove(room.clone());
        }
    }

    pub(super) fn is_subscribed(&self, room: &RoomId) -> bool {
        self.subscriptions.by_room.contains_key(room)
    }

    /// Whether the subscription of this number is one of presence's.
    pub(super) fn is_presence(number: u64) -> bool {
        (2..=OWN).contains(&number)
    }

    /// The room of a subscription's number.
    pub(super) fn room_of(&self, number: u64) -> Option<&RoomId> {
        self.subscriptions.by_number.get(&number)
    }

    /// The rooms subscribed to here and not there.
    pub(super) fn only_here(&self, there: &Self) -> Vec<RoomId> {
        let rooms = self.subscriptions.by_room.keys();
        rooms
            .filter(|room| !there.is_subscribed(room))
            .cloned()
            .collect()
    }

    /// The server it leads to.
    pub(super) fn server(&self) -> &str {
        &self.spine.server
    }

    /// What happens to it.
    pub(super) fn events(&mut self) -> &mut Events {
        &mut self.spine.events
    }

    /// Carries what the server sent, and ends in order.
    pub(super) async fn close(self) {
        self.pump.finish().await;
        self.spine.close().await;
    }

    /// Ends at once, for a server that does not answer.
    pub(super) async fn abort(&self) {
        self.spine.abort().await;
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    fn after_own() -> Self {
        Self {
            by_room: HashMap::new(),
            by_number: HashMap::new(),
            last: OWN,
        }
    }

    fn add(&mut self, room: RoomId) {
        self.last += 1;
        self.by_number.insert(self.last, room.clone());
        self.by_room.insert(room, self.last);
    }

    fn remove(&mut self, room: &RoomId) -> bool {
        let number = self.by_room.remove(room);
        number.is_some_and(|number| self.by_number.remove(&number).is_some())
    }
}
