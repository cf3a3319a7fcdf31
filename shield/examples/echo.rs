//! `echo PORT`: Shield's WebSocket layer on 127.0.0.1, which says what it hears.
//!
//! For the public conformance suite of WebSocket (`scripts/conformance`). The
//! upgrade is the least that the suite takes; what follows it is Shield's.

use std::io;

use anyhow::Context as _;
use arqon_shield::session::Echo;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The suite sends messages of 16 MiB; Shield's own limit ends at 64 KiB.
const MAX_FRAME: usize = 16 * 1024 * 1024;
/// A request of the suite has some hundred bytes.
const MAX_REQUEST: usize = 16 * 1024;
const END: &[u8] = b"\r\n\r\n";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_default();
    let port: u16 = port.parse().context("usage: echo PORT")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(async {
            match upgrade(socket).await {
                Ok((socket, read_ahead)) => Echo::new(socket, read_ahead, MAX_FRAME).await,
                Err(error) => eprintln!("no upgrade: {error}"),
            }
        });
    }
}

/// Answers the request; what was read behind it belongs to the WebSocket.
async fn upgrade(mut socket: TcpStream) -> io::Result<(TcpStream, Bytes)> {
    socket.set_nodelay(true)?;
    let mut request = Vec::new();
    let end = loop {
        if let Some(end) = request.windows(END.len()).position(|bytes| bytes == END) {
            break end;
        }
        if request.len() > MAX_REQUEST || socket.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    };
    let key = String::from_utf8_lossy(&request[..end])
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, key)| derive_accept_key(key.trim().as_bytes()))
        .ok_or(io::ErrorKind::InvalidData)?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    let read_ahead = Bytes::from(request).slice(end + END.len()..);
    Ok((socket, read_ahead))
}
