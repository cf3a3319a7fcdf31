//! The wire types of package `arqon.v1`, generated from `arqon/v1/*.proto`,
//! whose comments are the documentation (`docs/protocol.md`).

#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/arqon.v1.rs"));

impl fmt::Debug for Envelope {
    // Payload and header values belong to tenants: they must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("op", &self.op())
            .field("room", &self.room)
            .field("ref", &self.r#ref)
            .field("headers", &self.headers.keys())
            .field("payload_len", &self.payload.len())
            .field("body", &self.body)
            .finish()
    }
}

impl fmt::Debug for Refresh {
    // A token must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("token_len", &self.token.len())
            .finish()
    }
}
