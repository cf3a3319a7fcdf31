//! What Shield knows from the control plane, and what it reports to it.
//!
//! One task holds the one CONTROL connection. It reads the tenants to their
//! end, the policies and the revocations with them, follows their changes,
//! obeys orders, and beats once a second. When the
//! connection ends it opens another and reads everything again; until then the
//! last snapshot stands, and grows stale. No session is accepted before the
//! first full read: unreadable is not empty.

mod beat;
mod revocations;
mod sessions;
mod task;
mod tenants;

pub(crate) use beat::incarnation;
pub use revocations::Revocations;
pub use task::{Control, ControlContext, ControlParams};
pub use tenants::{STALE_AFTER, Tenant, TenantChange, Tenants};
