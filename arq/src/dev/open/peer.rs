//! Whose connection it is: the kernel tells the user of every TCP socket of this machine.

use std::net::SocketAddr;

/// How the table writes it.
const ESTABLISHED: &str = "01";

/// Whether a connection to this machine's own address is of this user, or of root, who could read
/// the key file anyway.
pub(super) fn is_own(peer: SocketAddr, local: SocketAddr) -> bool {
    let me = rustix::process::getuid().as_raw();
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| user_of(&table, peer, local))
        .is_some_and(|user| user == me || user == 0)
}

/// The user of the socket with these ends.
fn user_of(table: &str, own_end: SocketAddr, other_end: SocketAddr) -> Option<u32> {
    let (SocketAddr::V4(own), SocketAddr::V4(other)) = (own_end, other_end) else {
        return None;
    };
    // Addresses stand as the four bytes in this machine's order; a socket of IPv6 that speaks
    // IPv4 has them at the end of sixteen.
    let end = |address: std::net::SocketAddrV4| {
        let number = u32::from_ne_bytes(address.ip().octets());
        format!("{number:08X}:{:04X}", address.port())
    };
    let (own, other) = (end(own), end(other));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        // One that was closed stands there as root's, whoever's it was.
        if !local.ends_with(&own) || !remote.ends_with(&other) || state != ESTABLISHED {
            return None;
        }
        // The queues, tr and tm->when, retrnsmt, then uid.
        fields.nth(3)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[cfg(target_endian = "little")]
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 3 1 0 20 4 30 10 -1
   3: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 4 1 0 20 4 30 10 -1
   4: 0100007F:C353 0100007F:1F90 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_user_is_that_of_the_other_end() {
        let console = "127.0.0.1:8080".parse().unwrap();
        let of = |port: u16| user_of(TABLE, SocketAddr::from(([127, 0, 0, 1], port)), console);
        assert_eq!(of(50_000), Some(1001));
        assert_eq!(of(50_001), Some(1002), "IPv4 over a socket of IPv6");
        assert_eq!(of(50_002), None);
        assert_eq!(of(50_003), None, "closed meanwhile");
    }

    #[test]
    fn a_connection_of_this_user_is_its_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(is_own(peer, server.local_addr().unwrap()));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(!is_own(nobody, server.local_addr().unwrap()));
    }
}
