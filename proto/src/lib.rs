//! What travels between an ArqonBus client, Shield and the Spine: the wire
//! types, the names, the codes and the headers of the protocol.
//!
//! One grammar, one parser and one encoder live here for the whole platform;
//! nothing else builds or takes apart a subject, a room name or an Envelope.

pub mod codes;
pub mod envelope;
pub mod headers;
pub mod json;
pub mod names;
pub mod presence;
pub mod v1;
