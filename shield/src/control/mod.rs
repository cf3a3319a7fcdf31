//! The control plane as this Shield knows it: tenants and orders.

mod tenants;

pub use tenants::{Tenant, TenantChange, Tenants};
