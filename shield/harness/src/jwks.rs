//! An issuer's JWKS document, served over HTTP and changed while it is.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http;
use crate::keys::IssuerKey;

/// A running JWKS server; stops when dropped.
#[derive(Debug)]
pub struct JwksServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// None: answer 500.
    document: Mutex<Option<String>>,
    requests: AtomicUsize,
}

// === impl JwksServer ===

impl JwksServer {
    /// Serves these keys on a free port.
    ///
    /// # Errors
    /// If no port can be listened on.
    pub async fn start(keys: &[(&str, &IssuerKey)]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, serving.clone()));
            }
        });
        let server = Self { addr, shared, task };
        server.publish(keys);
        Ok(server)
    }

    /// The document's address.
    pub fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.addr)
    }

    /// Replaces the document.
    pub fn publish(&self, keys: &[(&str, &IssuerKey)]) {
        let keys: Vec<_> = keys.iter().map(|(kid, key)| key.jwk(kid)).collect();
        self.set(Some(json!({ "keys": keys }).to_string()));
    }

    /// Answers 500 from now on.
    pub fn fail(&self) {
        self.set(None);
    }

    /// Requests served so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    fn set(&self, document: Option<String>) {
        *self
            .shared
            .document
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = document;
    }
}

impl Drop for JwksServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    // One request a connection: the answer closes it.
    let _request = http::read_until_blank(&mut stream).await?;
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let document = shared
        .document
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let (status, body) = match document {
        Some(body) => ("200 OK", body),
        None => ("500 Internal Server Error", String::new()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await
}
