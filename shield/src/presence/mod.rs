//! Presence as this Shield takes part in it; docs/presence.md has the rules.
//!
//! `writer` tells Brains of this Shield's sessions, `view` keeps how far the
//! watchers of a room were told: both pure. `tenant` joins them under one lock
//! that sessions take for a moment, `link` is the task that sends and receives
//! on the tenant's connection, `registry` is what a beat says of all tenants.

mod coverage;
mod link;
mod registry;
mod tenant;
mod view;
mod writer;

pub(crate) use link::{listen, run};
pub use registry::Presence;
pub use tenant::PresenceSettings;
pub(crate) use tenant::{Entrant, TenantPresence};
