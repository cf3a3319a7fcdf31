//! Ports for servers that this machine is about to start.
//!
//! A port that the system chose lies where it also takes the ports of outgoing
//! connections from, so it can be gone again before a server listens on it.
//! Those given here lie below, and no two processes that ask here get the same:
//! the UDP port of the same number is held as the mark of a promise.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// Below the ports of outgoing connections of Linux (32768), macOS and Windows (49152).
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// What was promised, until this process ends.
static PROMISED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// A loopback TCP port that nobody listens on and nobody else is promised.
///
/// # Errors
/// If there is none.
pub fn free_port() -> io::Result<u16> {
    let begin = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
    let begin = u16::try_from(begin).unwrap_or_default();
    (0..COUNT)
        .map(|by| FIRST + (begin + by) % COUNT)
        .find_map(promise)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("no port from {FIRST} to {} is free", FIRST + COUNT - 1),
            )
        })
}

fn promise(port: u16) -> Option<u16> {
    let mark = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    PROMISED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(mark);
    Some(port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_port_is_promised_twice_and_each_can_be_listened_on() {
        let ports: std::collections::HashSet<_> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert_eq!(promise(port), None);
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_not_promised() {
        let port = free_port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        PROMISED
            .lock()
            .unwrap()
            .retain(|mark| mark.local_addr().unwrap().port() != port);
        assert_eq!(promise(port), None);
        drop(listener);
    }
}
