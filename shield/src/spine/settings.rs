//! What the Spine side of a Shield is set to.

use std::{path::PathBuf, time::Duration};

use arqon_proto::names::NodeId;
use arqon_spine::{
    accounts,
    manifest::{Manifest, Overflow},
};

use crate::presence::PresenceSettings;

/// Both connections of a rotation are read for so long after the new one is
/// proven. The server may hold a message that it routed before it knew the new
/// subscription and delivers late; this is far more than it holds one under load.
const OVERLAP: Duration = Duration::from_millis(50);

/// The settings of a `SpinePool`.
#[derive(Clone, Debug)]
pub struct SpineParams {
    /// NATS servers.
    pub servers: Vec<String>,
    /// This Shield.
    pub node: NodeId,
    /// The pool it serves.
    pub pool: NodeId,
    /// The seed that mints tenant users.
    pub fleet_key_file: PathBuf,
    /// The life of a minted user; rotated at 80 % of it.
    pub user_ttl: Duration,
    /// A connection unused for so long is closed.
    pub idle_close: Duration,
    /// How long a barrier, and whoever waits for a connection, waits.
    pub ack_timeout: Duration,
    /// Messages that wait for the pump, per room.
    pub pump_capacity: usize,
    /// What becomes of messages for a slow reader, where a tenant says nothing else.
    pub overflow: Overflow,
    /// Rooms of one tenant.
    pub max_rooms: usize,
    /// Joins of one tenant a second.
    pub joins_per_sec: u32,
    /// A subscription outlives its last member by so much.
    pub linger: Duration,
    /// Silence after which a room's beacon is sent.
    pub beacon_after: Duration,
    /// The account's limit for one message, headers included.
    pub max_message_bytes: usize,
    /// How long both connections of a rotation are read.
    pub overlap: Duration,
    /// Presence of the tenants' sessions.
    pub presence: PresenceSettings,
}

// === impl SpineParams ===

impl SpineParams {
    /// The settings of this manifest.
    pub fn from_manifest(manifest: &Manifest) -> Self {
        let (spine, rooms) = (&manifest.spine, &manifest.rooms);
        let max_message_bytes = max_message_bytes(manifest.session.max_frame_bytes);
        Self {
            servers: spine.servers.clone(),
            node: manifest.node.id.clone(),
            pool: manifest.node.pool.clone(),
            fleet_key_file: spine.fleet_key_file.clone(),
            user_ttl: spine.user_ttl,
            idle_close: spine.idle_close,
            ack_timeout: spine.ack_timeout,
            pump_capacity: spine.pump_capacity,
            overflow: manifest.session.overflow,
            max_rooms: rooms.max_per_tenant,
            joins_per_sec: rooms.joins_per_sec,
            linger: rooms.linger,
            beacon_after: rooms.beacon_after,
            max_message_bytes,
            overlap: OVERLAP,
            presence: PresenceSettings::from_manifest(manifest, max_message_bytes),
        }
    }
}

fn max_message_bytes(max_frame_bytes: usize) -> usize {
    let max_frame_bytes = u32::try_from(max_frame_bytes).unwrap_or(u32::MAX);
    usize::try_from(accounts::account_payload(max_frame_bytes)).unwrap_or(usize::MAX)
}
