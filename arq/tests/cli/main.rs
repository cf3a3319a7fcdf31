//! `arq` as a program: what it prints, where, and with which exit code.
//!
//! `offline` needs nothing; `live` starts a real nats-server and Shield through `arq dev up`,
//! `presence` a real Brain too.

#![allow(clippy::unwrap_used)]

mod common;
mod help;
mod live;
mod offline;
mod presence;
