//! Bringing rooms to life: subscriptions, and the proof that the server has them.

use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, parse_room_subject},
    v1,
};
use arqon_spine::connect::SpineEvent;
use arqon_telemetry::labels::GapReason;
use tracing::warn;

use super::{
    connection::{Connection, OpenError},
    link::{LinkState, Shared},
};

/// Turns given to the client's event task after a barrier: an error that the
/// server sent before the barrier came back is queued by then.
const EVENT_TURNS: usize = 16;

/// Subscribes to every room, and brings all to life once the server knows.
pub(super) async fn restore(shared: &Shared, connection: &mut Connection) -> Result<(), OpenError> {
    let rooms = shared.rooms.all();
    for room in &rooms {
        if !connection.subscribe(room, false).await {
            return Err(OpenError::Lost);
        }
    }
    let proof = connection.barrier.round_trip().await;
    proof.map_err(|_| OpenError::Lost)?;
    late_errors().await;
    while let Some(event) = connection.events().try_recv() {
        if let SpineEvent::ServerError(text) = event {
            refused(shared, &text).inspect(|room| connection.unsubscribe(room));
        }
    }
    for room in rooms {
        shared.rooms.settle(room.id(), &shared.counters);
    }
    // A record may have changed while this was opened.
    if connection.account != shared.record.load().record.account {
        return Err(OpenError::Lost);
    }
    shared.set_key_in_use(Some(connection.fleet_key.clone()));
    shared.publisher.set_line(Some(connection.line()));
    shared.presence.reconnected();
    shared.set_state(LinkState::Up);
    Ok(())
}

/// If the server refused a subscription, nobody can be in that room.
pub(super) fn refused(shared: &Shared, text: &str) -> Option<RoomId> {
    const DENIED: &str = "Permissions Violation for Subscription to \"";
    let Some((_, rest)) = text.split_once(DENIED) else {
        warn!(tenant = %shared.tenant, text, "Error from the Spine");
        if text.contains("maximum subscriptions exceeded") {
            // The server does not say which subscription it dropped.
            let reason = v1::GapReason::ShieldOverloaded;
            let rooms = &shared.rooms;
            rooms.lost_everywhere(reason, GapReason::Overflow, &shared.counters);
        }
        return None;
    };
    let (subject, _) = rest.split_once('"')?;
    warn!(tenant = %shared.tenant, subject, "The Spine refused a subscription");
    let (tenant, room) = parse_room_subject(subject).ok()?;
    if tenant != shared.tenant {
        return None;
    }
    shared.rooms.refuse(&room, ErrorCode::JoinRefused);
    shared.presence.evict(&room);
    Some(room)
}

/// Lets the client's event task run, after a barrier came back.
pub(super) async fn late_errors() {
    for _ in 0..EVENT_TURNS {
        tokio::task::yield_now().await;
    }
}
