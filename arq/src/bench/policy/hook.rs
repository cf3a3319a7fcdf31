//! The rival: an HTTP hook that makes the same check, in a process of its own.
//!
//! Kept alive, on loopback, without TLS, with a body of raw bytes and an empty
//! answer: the least a hook can cost.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Instant,
};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::WORDS;
use crate::failure::{Doing, Failure, Result};

/// The hook's process; dropping it ends it.
pub(super) struct Hook {
    child: Child,
    address: String,
}

/// One kept-alive connection to it.
pub(super) struct Client {
    stream: TcpStream,
}

// === impl Hook ===

impl Hook {
    pub(super) fn start() -> Result<Self> {
        let program = std::env::current_exe().doing("cannot find this program")?;
        let mut child = Command::new(program)
            .args(["bench", "policy-hook"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing("cannot start the hook")?;
        let stdout = child.stdout.take();
        let mut address = String::new();
        BufReader::new(stdout.ok_or_else(|| Failure::new("the hook has no output"))?)
            .read_line(&mut address)
            .doing("the hook does not say where it is")?;
        Ok(Self {
            child,
            address: address.trim().to_owned(),
        })
    }

    pub(super) fn client(&self) -> Result<Client> {
        let stream = TcpStream::connect(&self.address).doing("cannot reach the hook")?;
        stream
            .set_nodelay(true)
            .doing("cannot set up the connection")?;
        Ok(Client { stream })
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Client ===

impl Client {
    /// Asks so often, and keeps the time of each answer.
    pub(super) fn ask(
        &mut self,
        payload: &Bytes,
        times: usize,
        into: &mut Histogram<u64>,
    ) -> Result<()> {
        let head = format!(
            "POST /check HTTP/1.1\r\nHost: hook\r\nContent-Length: {}\r\n\r\n",
            payload.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(payload);
        let mut answer = [0; 512];
        for _ in 0..times {
            let begun = Instant::now();
            self.stream
                .write_all(&request)
                .doing("cannot ask the hook")?;
            let mut len = 0;
            while !answer[..len].ends_with(b"\r\n\r\n") {
                let read = self
                    .stream
                    .read(&mut answer[len..])
                    .doing("no answer of the hook")?;
                if read == 0 {
                    return Err(Failure::new("the hook ended"));
                }
                len += read;
            }
            into.saturating_record(begun.elapsed().as_nanos() as u64);
            if !answer.starts_with(b"HTTP/1.1 204") {
                return Err(Failure::new("the hook refused a good message"));
            }
        }
        Ok(())
    }
}

/// `arq bench policy-hook`: serves until its standard input ends.
pub(in crate::bench) fn serve() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").doing("cannot listen")?;
    let address = listener.local_addr().doing("cannot listen")?;
    println!("{address}");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// Answers one connection's requests.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(128 << 10, stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body).to_lowercase();
        let blocked = WORDS.iter().any(|word| text.contains(word));
        writer.write_all(if blocked {
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        } else {
            b"HTTP/1.1 204 No Content\r\n\r\n"
        })?;
    }
}
