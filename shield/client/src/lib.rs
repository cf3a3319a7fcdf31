//! A small WebSocket client of the ArqonBus protocol, for `arq`, the tests
//! and the benchmarks: one connection, small buffers, typed errors, and no
//! policy of its own (it neither reconnects nor joins again).

mod client;
mod connect;
mod error;
mod handshake;
mod split;
mod stream;
mod tls;

pub use client::Client;
pub use connect::{ConnectParams, TokenIn};
pub use error::{ClientError, Rejection};
pub use split::{Receiver, Sender};
pub use tls::tls_config;

pub use tokio_tungstenite::tungstenite::Message as RawMessage;
