//! Connections of tenants to the Spine.
