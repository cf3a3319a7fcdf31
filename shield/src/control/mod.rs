//! The control plane as this Shield knows it: tenants and orders.
