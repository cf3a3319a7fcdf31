//! Shield, the WebSocket edge of ArqonBus.
//!
//! In: socket → session → Spine. Out: tenant pump → room registry → session
//! queue → socket. No other queue stands between, and nothing here talks to
//! Brain: everything between them is a subject on the Spine (`presence`).
//!
//! `app` composes the parts; each part is a module with one owner of state.

pub mod app;
pub mod auth;
pub mod control;
pub mod edge;
mod pace;
pub mod policy;
pub mod presence;
pub mod quota;
pub mod rooms;
pub mod session;
pub mod spine;
mod sync;
