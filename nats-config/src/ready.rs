//! Whether a service of this machine says that it is ready: what health checks
//! of containers ask, where there is no curl.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long each step may take; a service that is well answers at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks `/readyz` of the listener at `listen`.
///
/// # Errors
/// Nobody answers, or the answer is another than 200.
pub fn ask(listen: SocketAddr) -> io::Result<()> {
    let address = reachable(listen);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut status = String::new();
    BufReader::new(io::Read::take(&mut stream, 1024)).read_line(&mut status)?;
    if status.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(format!("not ready: {}", status.trim())))
    }
}

/// Where a listener is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn answered(with: &'static str) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let read = stream.read(&mut asked).unwrap();
            stream.write_all(with.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let outcome = ask(SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            address.port(),
        ));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1"));
        outcome
    }

    #[test]
    fn only_200_is_ready() {
        answered("HTTP/1.1 200 OK\r\n\r\nready\n").unwrap();
        let refused = answered("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        assert!(refused.to_string().contains("503"), "{refused}");
        assert!(answered("").is_err());
        assert!(answered("SSH-2.0 200 what\r\n").is_err());
    }

    #[test]
    fn nobody_there_is_not_ready() {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(ask(address).is_err());
    }
}
