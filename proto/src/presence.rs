//! The digests by which Shield and Brain agree on who is present.
//!
//! One function for both sides: a digest that two programs computed on their
//! own would only ever prove that the programs differ.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use crate::names::SessionId;

/// Digests have 59 bits: larger numbers are no small integers on the BEAM.
const MASK: u64 = (1 << 59) - 1;

/// An entry's share of its tenant's and its room's digest: both are the xor of
/// their entries. `seq` stands for user and meta, for it is new with each change.
#[must_use]
pub fn entry_hash(epoch: u64, room: &str, session: SessionId, seq: u64) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&epoch.to_le_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(session.as_bytes());
    hasher.update(room.as_bytes());
    hasher.digest() & MASK
}

/// A tenant's share of its Shield's root digest: a hash that the BEAM has too,
/// since a Brain keeps roots of its own. The first eight bytes, little-endian.
#[must_use]
pub fn tenant_hash(account: &str, seq: u64, digest: u64) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seq.to_le_bytes());
    hasher.update(digest.to_le_bytes());
    hasher.update(account.as_bytes());
    let hash = hasher.finalize();
    let first = hash.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first) & MASK
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Fixed for ever: Shields and Brains of different versions meet.
    #[test]
    fn the_digests_are_those_of_every_version() {
        let session = SessionId::parse("01929d1c-7e3a-7b6c-8d2e-1f0a9b8c7d6e").unwrap();
        assert_eq!(entry_hash(1, "lobby", session, 1), ENTRY);
        assert_eq!(tenant_hash("ACME", 7, 12_345), TENANT);
        assert_ne!(entry_hash(2, "lobby", session, 1), ENTRY);
        assert_ne!(entry_hash(1, "lobby2", session, 1), ENTRY);
        assert_ne!(entry_hash(1, "lobby", session, 2), ENTRY);
    }

    const ENTRY: u64 = 332_370_012_613_955_199;
    const TENANT: u64 = 140_009_995_193_868_655;
}
