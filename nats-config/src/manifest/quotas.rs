//! `[quotas]`.

use arqon_proto::v1::TenantLimits;

use super::reader::Reader;

/// What holds where a tenant's record says nothing.
pub(super) fn read(from: &mut Reader<'_>) -> TenantLimits {
    // The schema's ranges fit.
    let mut limit = |path| u32::try_from(from.integer(path)).unwrap_or(u32::MAX);
    TenantLimits {
        max_connections: limit("quotas.max_connections"),
        max_rooms: limit("quotas.max_rooms"),
        max_members_per_room: limit("quotas.max_members_per_room"),
        messages_per_sec: limit("quotas.messages_per_sec"),
        bytes_per_sec: limit("quotas.bytes_per_sec"),
        session_messages_per_sec: limit("quotas.session_messages_per_sec"),
        session_bytes_per_sec: limit("quotas.session_bytes_per_sec"),
        ..TenantLimits::default()
    }
}
