//! A TCP proxy that can delay, pause, trickle and cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;

/// What a proxy does with the bytes it gets.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Nothing passes from the client to the server.
    up_paused: bool,
    /// Nothing passes from the server to the client.
    down_paused: bool,
    /// Nothing passes either way on connections taken before this many.
    frozen: usize,
    /// Each chunk waits this long, on every second connection only.
    lag: Duration,
    /// Nothing passes faster.
    slow: Option<Slow>,
    /// Counts cuts: a connection that began before the last one is closed.
    cuts: u64,
}

/// A slow way: each piece waits this long, more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Half of it is chance.
    pub delay: Duration,
    /// Bytes of a piece.
    pub piece: usize,
}

/// A running proxy; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where to connect to.
    pub addr: SocketAddr,
    weather: watch::Sender<Weather>,
    refusing: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy to `upstream` on a free port.
    ///
    /// # Errors
    /// If no port can be listened on.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::default());
        let refusing = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(
            listener,
            upstream,
            seen,
            refusing.clone(),
            accepted.clone(),
            open.clone(),
        ));
        Ok(Self {
            addr,
            weather,
            refusing,
            accepted,
            open,
            task,
        })
    }

    /// As a NATS address.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Holds back what clients send.
    pub fn pause_up(&self) {
        self.weather.send_modify(|weather| weather.up_paused = true);
    }

    /// Holds back what the server sends.
    pub fn pause_down(&self) {
        self.weather
            .send_modify(|weather| weather.down_paused = true);
    }

    /// Holds back everything on the first connections, so many of them; they
    /// stay open, and new ones are closed at once.
    pub fn freeze_first(&self, connections: usize) {
        self.refuse(true);
        self.weather
            .send_modify(|weather| weather.frozen = connections);
    }

    /// Ends all pauses; what was held back passes.
    pub fn resume(&self) {
        self.refuse(false);
        self.weather.send_modify(|weather| {
            weather.frozen = 0;
            weather.up_paused = false;
            weather.down_paused = false;
        });
    }

    /// Has each chunk on every second connection wait this long.
    pub fn slow_every_second(&self, lag: Duration) {
        self.weather.send_modify(|weather| weather.lag = lag);
    }

    /// Has everything pass as slowly as this.
    pub fn slow(&self, slow: Option<Slow>) {
        self.weather.send_modify(|weather| weather.slow = slow);
    }

    /// Closes every connection, those that are being opened too; does not wait for it.
    pub fn break_all(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Closes every connection; new ones are taken. What a pause held back is lost.
    pub async fn cut(&self) {
        self.refuse(true);
        // Again and again: one that was being opened may have missed the first.
        crate::eventually!({
            self.weather.send_modify(|weather| weather.cuts += 1);
            self.open.load(Ordering::SeqCst) == 0
        });
        self.refuse(false);
    }

    /// Closes new connections at once, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    upstream: SocketAddr,
    weather: watch::Receiver<Weather>,
    refusing: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        if refusing.load(Ordering::SeqCst) {
            continue;
        }
        let mut cut = weather.clone();
        let begun = cut.borrow().cuts;
        let weather = weather.clone();
        let open = open.clone();
        open.fetch_add(1, Ordering::SeqCst);
        connections.spawn(async move {
            let whole = async {
                if let Ok(server) = TcpStream::connect(upstream).await {
                    // A proxy that waited for full segments would be a fault of its own.
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    carry(client, server, weather, number).await;
                }
            };
            tokio::select! {
                () = whole => {}
                _ = cut.wait_for(|now| now.cuts > begun) => {}
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    weather: watch::Receiver<Weather>,
    number: usize,
) {
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pump(client_read, server_write, weather.clone(), number, |now| {
        now.up_paused
    });
    let down = pump(server_read, client_write, weather, number, |now| {
        now.down_paused
    });
    // Whichever way ends first ends the connection, as a reset would.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    number: usize,
    paused: fn(&Weather) -> bool,
) {
    let mut chunk = vec![0; 16 * 1024];
    let mut chance = Chance::new(number as u64);
    loop {
        let Ok(len @ 1..) = from.read(&mut chunk).await else {
            return;
        };
        let lag = weather.borrow().lag;
        if number % 2 == 1 && !lag.is_zero() {
            tokio::time::sleep(lag).await;
        }
        let held = |now: &Weather| paused(now) || number < now.frozen;
        if weather.wait_for(|now| !held(now)).await.is_err() {
            return;
        }
        if write(&mut to, &chunk[..len], &weather, &mut chance)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Writes at the pace of the moment.
async fn write(
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut bytes: &[u8],
    weather: &watch::Receiver<Weather>,
    chance: &mut Chance,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let slow = weather.borrow().slow;
        let piece = slow.map_or(bytes.len(), |slow| slow.piece.clamp(1, bytes.len()));
        if let Some(slow) = slow {
            tokio::time::sleep(slow.delay / 2 + slow.delay.mul_f64(chance.share())).await;
        }
        to.write_all(&bytes[..piece]).await?;
        bytes = &bytes[piece..];
    }
    Ok(())
}
