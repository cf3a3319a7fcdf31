//! What policies blocked, written into the stream once a second at most.

use arqon_policy::{AuditBatch, AuditEvent, AuditReceiver};
use arqon_proto::{names::NodeId, v1};
use arqon_spine::control::ControlStore;
use arqon_telemetry::{Metrics, log::chain};
use tokio::sync::watch;

use super::report::Reporter;

/// Writes batches as they come. While CONTROL is away one batch waits here, and
/// further events in their bounded place, which counts those it cannot hold.
pub(super) async fn write(
    mut events: AuditReceiver,
    node: NodeId,
    reporter: Reporter,
    mut store: watch::Receiver<Option<ControlStore>>,
    metrics: Metrics,
) {
    loop {
        let batch = events.next().await;
        metrics.policy_audit_lost.inc_by(batch.lost);
        for audit in messages(&reporter, batch) {
            loop {
                // The sender lives as long as the deployer.
                let current = store.wait_for(Option::is_some).await;
                let Ok(current) = current.map(|store| store.clone()) else {
                    return;
                };
                let Some(current) = current else { continue };
                match current.publish_audit(&node, &audit).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "Audit of policies not written yet");
                        tokio::time::sleep(super::PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Of a size that any server takes.
fn messages(reporter: &Reporter, batch: AuditBatch) -> Vec<v1::PolicyAudit> {
    const EVENTS: usize = 200;
    let mut lost = batch.lost;
    let empty = batch.events.is_empty();
    let chunks = batch.events.chunks(EVENTS);
    let chunks: Vec<&[AuditEvent]> = if empty { vec![&[]] } else { chunks.collect() };
    let messages = chunks.into_iter().map(|events| v1::PolicyAudit {
        shield: reporter.shield.clone(),
        incarnation: reporter.incarnation.clone(),
        events: events.iter().map(event).collect(),
        lost: std::mem::take(&mut lost),
    });
    messages.collect()
}

fn event(event: &AuditEvent) -> v1::PolicyEvent {
    v1::PolicyEvent {
        time_ms: event.time_ms,
        tenant: event.tenant.to_string(),
        room: event.room.to_string(),
        user: event.user.to_string(),
        session: event.session.to_string(),
        binding: event.binding.to_string(),
        policy: event.policy.to_string(),
        version: event.version,
        class: event.class.to_owned(),
        reason: event.reason.clone(),
        payload_digest: event.payload_digest.as_bytes().to_vec().into(),
        payload_bytes: u32::try_from(event.payload_bytes).unwrap_or(u32::MAX),
        count: event.count,
        shadow: event.shadow,
    }
}
