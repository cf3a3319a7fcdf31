//! A server of the WebSocket library itself, for one connection.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::future::Future;
use std::net::SocketAddr;

use arqon_client::{Client, ConnectParams, RawMessage};
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, Sender};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// The server's end.
pub type Socket = WebSocketStream<TcpStream>;

/// Serves one connection with `serve`; its outcome is in the handle.
pub async fn serve_one<F, R>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<R>)
where
    F: Future<Output = R> + Send,
    R: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await
    });
    (address, task)
}

/// Upgrades as Shield does; gives the request's path and headers too.
pub async fn accept<S>(stream: S) -> (WebSocketStream<S>, String, HeaderMap)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = None;
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let callback = |request: &Request, mut response: Response| {
        if request.headers().contains_key("sec-websocket-protocol") {
            let ours = "arqon.v1".parse().unwrap();
            response
                .headers_mut()
                .insert("sec-websocket-protocol", ours);
        }
        seen = Some((request.uri().to_string(), request.headers().clone()));
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, callback)
        .await
        .unwrap();
    let (path, headers) = seen.unwrap();
    (socket, path, headers)
}

/// A server that upgrades and then follows `script`.
pub async fn scripted<F, R>(
    script: impl FnOnce(Socket) -> F + Send + 'static,
) -> (Client, JoinHandle<R>)
where
    F: Future<Output = R> + Send,
    R: Send + 'static,
{
    let (address, task) = serve_one(async move |stream| script(accept(stream).await.0).await).await;
    let client = Client::connect(ConnectParams::new(url(address), "t")).await;
    (client.unwrap(), task)
}

/// Where to connect.
pub fn url(address: SocketAddr) -> String {
    format!("ws://{address}")
}

/// Sends a frame as Shield would.
pub async fn send(socket: &mut Socket, frame: Envelope) {
    let message = RawMessage::Binary(frame.encode_to_vec().into());
    socket.send(message).await.unwrap();
}

/// The next frame, which must be a good one.
pub async fn receive(socket: &mut Socket) -> Envelope {
    match socket.next().await.unwrap().unwrap() {
        RawMessage::Binary(bytes) => envelope::decode_client(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A MESSAGE of room `lobby`.
pub fn message(text: &'static str) -> Envelope {
    let payload = Bytes::from_static(text.as_bytes());
    envelope::message("lobby", Default::default(), payload, Sender::default())
}
