//! `arq` as a program: what it prints, where, and with which exit code.
//!
//! `offline` and `policy_offline` need nothing; `live`, `policy_live` and `revoke` start a real nats-server
//! and Shield through `arq dev up`, `presence` a real Brain too; `trace` and `watch` do both.

#![allow(clippy::unwrap_used)]

mod common;
mod context;
mod crash_files;
mod crash_records;
mod dev;
mod every_command;
mod help;
mod keys;
mod live;
mod offline;
mod open;
mod otlp;
mod policy_live;
mod policy_offline;
mod presence;
mod revoke;
mod shell;
mod trace;
mod watch;
