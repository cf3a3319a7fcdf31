#![allow(clippy::unwrap_used)]

use std::{future::poll_fn, time::Duration};

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame as ClientFrame,
    coding::{Control, Data, OpCode},
};

use super::*;

const MAX_FRAME: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's wire and a client's WebSocket, over memory.
async fn pair(capacity: usize) -> (Wire<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (server, client) = duplex(capacity);
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (Wire::new(server, Bytes::new(), MAX_FRAME), client)
}

async fn tcp_pair() -> (Wire<TcpStream>, WebSocketStream<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (Wire::new(server, Bytes::new(), MAX_FRAME), client)
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Inbound {
    tokio::time::timeout(PATIENCE, poll_fn(|cx| wire.poll_read(cx)))
        .await
        .unwrap()
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, frames: &[Frame]) -> Load {
    let mut batch = frames.iter().cloned().map(Entry::control).collect();
    let mut written = Load::default();
    let all = poll_fn(|cx| {
        ready!(wire.poll_write(cx, &mut batch, &mut written))?;
        wire.poll_flush(cx)
    });
    tokio::time::timeout(PATIENCE, all).await.unwrap().unwrap();
    assert!(batch.is_empty());
    written
}

/// A masked client frame with these bits, as bytes.
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    bytes
}

/// What the wire makes of raw bytes.
async fn inbound(bytes: &[u8]) -> Vec<Inbound> {
    let (server, mut client) = duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut wire = Wire::new(server, Bytes::new(), MAX_FRAME);
    let mut all = Vec::new();
    loop {
        let inbound = read(&mut wire).await;
        let last = matches!(
            inbound,
            Inbound::Close(_) | Inbound::Illegal(_) | Inbound::Lost
        );
        all.push(inbound);
        if last {
            return all;
        }
    }
}

#[tokio::test]
async fn fragments_with_control_frames_between_them_are_one_message() {
    let (mut wire, mut client) = tcp_pair().await;
    let fragments = [
        ClientFrame::message("one ", OpCode::Data(Data::Binary), false),
        ClientFrame::ping("ping"),
        ClientFrame::message("two ", OpCode::Data(Data::Continue), false),
        ClientFrame::pong(""),
        ClientFrame::message("three", OpCode::Data(Data::Continue), true),
    ];
    for fragment in fragments {
        client.send(Message::Frame(fragment)).await.unwrap();
    }
    assert_eq!(read(&mut wire).await, Inbound::Control);
    assert_eq!(read(&mut wire).await, Inbound::Control);
    assert_eq!(
        read(&mut wire).await,
        Inbound::Binary(Bytes::from_static(b"one two three"))
    );
    write(&mut wire, &[]).await;
    let answer = client.next().await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong(Bytes::from_static(b"ping")));
}

#[tokio::test]
async fn a_frame_over_the_cap_is_refused_by_its_header_alone() {
    // 1 GiB is announced, nothing of it sent.
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend((1_u64 << 30).to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    assert_eq!(inbound(&bytes).await, [Inbound::Illegal(CLOSE_TOO_BIG)]);
    let exact = client_frame(0x82, &[7; MAX_FRAME]);
    assert_eq!(
        inbound(&exact).await[0],
        Inbound::Binary(vec![7; MAX_FRAME].into())
    );
    let over = client_frame(0x82, &[7; MAX_FRAME + 1]);
    assert_eq!(inbound(&over).await, [Inbound::Illegal(CLOSE_TOO_BIG)]);
    // Fragments add up.
    let mut fragments = client_frame(0x02, &[7; MAX_FRAME]);
    fragments.extend(client_frame(0x80, &[7]));
    assert_eq!(inbound(&fragments).await, [Inbound::Illegal(CLOSE_TOO_BIG)]);
}

#[tokio::test]
async fn illegal_framing_is_a_protocol_error() {
    let unmasked = vec![0x82, 1, 7];
    let cases: [(&str, Vec<u8>); 8] = [
        ("unmasked", unmasked),
        (
            "reserved bit, as compression would set",
            client_frame(0xc2, b"a"),
        ),
        ("reserved opcode", client_frame(0x83, b"a")),
        ("reserved control opcode", client_frame(0x8b, b"")),
        ("fragmented ping", client_frame(0x09, b"a")),
        ("ping of 126 bytes", client_frame(0x89, &[0; 126])),
        ("continuation of nothing", client_frame(0x80, b"a")),
        (
            "a message within a message",
            [client_frame(0x02, b"a"), client_frame(0x82, b"b")].concat(),
        ),
    ];
    for (what, bytes) in cases {
        assert_eq!(
            inbound(&bytes).await,
            [Inbound::Illegal(CLOSE_PROTOCOL_ERROR)],
            "{what}"
        );
    }
}

#[tokio::test]
async fn text_is_told_apart_and_must_be_utf8() {
    let text = client_frame(0x81, "grüße".as_bytes());
    let told = Inbound::Text("grüße".into());
    assert_eq!(inbound(&text).await, [told, Inbound::Lost]);
    let broken = client_frame(0x81, &[0xff]);
    assert_eq!(inbound(&broken).await, [Inbound::Illegal(CLOSE_NOT_UTF8)]);
}

#[tokio::test]
async fn a_clients_close_is_told_with_its_code() {
    let mut payload = 1000_u16.to_be_bytes().to_vec();
    payload.extend(b"bye");
    assert_eq!(
        inbound(&client_frame(0x88, &payload)).await,
        [Inbound::Close(Some(1000))]
    );
    assert_eq!(
        inbound(&client_frame(0x88, b"")).await,
        [Inbound::Close(None)]
    );
    assert_eq!(inbound(b"").await, [Inbound::Lost]);
    assert_eq!(
        inbound(&client_frame(0x82, b"half")[..3]).await,
        [Inbound::Lost]
    );
}

#[tokio::test]
async fn what_was_read_with_the_handshake_comes_first() {
    let (server, mut client) = duplex(1 << 16);
    let bytes = client_frame(0x82, b"early");
    let (ahead, rest) = bytes.split_at(4);
    client.write_all(rest).await.unwrap();
    let mut wire = Wire::new(server, Bytes::copy_from_slice(ahead), MAX_FRAME);
    assert_eq!(
        read(&mut wire).await,
        Inbound::Binary(Bytes::from_static(b"early"))
    );
    assert_eq!(wire.take_heard(), bytes.len() as u64);
}

#[tokio::test]
async fn thousands_of_frames_arrive_whole_and_in_order_over_tcp() {
    let (mut wire, mut client) = tcp_pair().await;
    let reader = tokio::spawn(async move {
        for n in 0..5000_u32 {
            let expected = vec![n as u8; (n as usize * 37) % 3000];
            let message = client.next().await.unwrap().unwrap();
            assert_eq!(message.into_data(), expected, "frame {n}");
        }
    });
    let frames: Vec<_> = (0..5000_u32)
        .map(|n| Frame::binary(&vec![n as u8; (n as usize * 37) % 3000]))
        .collect();
    let mut written = 0;
    for batch in frames.chunks(BATCH_FRAMES) {
        written += write(&mut wire, batch).await.control;
    }
    assert_eq!(written, 5000);
    tokio::time::timeout(PATIENCE, reader)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_flood_of_pings_pauses_reading_instead_of_growing() {
    let (mut wire, mut client) = pair(1 << 20).await;
    for _ in 0..200 {
        client
            .send(Message::Ping(vec![7; 125].into()))
            .await
            .unwrap();
    }
    let mut read_now = 0;
    poll_fn(|cx| {
        while wire.poll_read(cx).is_ready() {
            read_now += 1;
        }
        Poll::Ready(())
    })
    .await;
    assert!(read_now < 40, "{read_now}");
    assert!(wire.socket().control.len() < 2 * CONTROL_MAX);
    for _ in read_now..200 {
        write(&mut wire, &[]).await;
        assert_eq!(read(&mut wire).await, Inbound::Control);
    }
    // tungstenite hands the last answer over when it is asked for more.
    let more = poll_fn(|cx| Poll::Ready(wire.poll_read(cx))).await;
    assert!(more.is_pending());
    write(&mut wire, &[]).await;
    for _ in 0..200 {
        assert!(client.next().await.unwrap().unwrap().is_pong());
    }
}

proptest! {
    /// However small the pieces are that the socket takes, and whenever control
    /// frames come in between: no frame is torn, all data comes in order.
    #[test]
    fn control_frames_never_split_a_data_frame(
        capacity in 1_usize..400,
        steps in proptest::collection::vec((0_usize..300, any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async move {
            let (server, mut client) = duplex(capacity);
            let mut wire = Wire::new(server, Bytes::new(), MAX_FRAME);
            let mut batch = VecDeque::new();
            let mut written = Load::default();
            let mut expected = Vec::new();
            let mut pings = 0;
            let mut raw = Vec::new();
            for (n, (len, ping)) in steps.iter().enumerate() {
                let payload = vec![n as u8; *len];
                batch.push_back(Entry::control(Frame::binary(&payload)));
                expected.push(payload);
                if *ping {
                    wire.push_ping();
                    pings += 1;
                }
                let poll = poll_fn(|cx| Poll::Ready(wire.poll_write(cx, &mut batch, &mut written))).await;
                prop_assert!(!matches!(poll, Poll::Ready(Err(_))));
                // The client takes some of it, so that writes end anywhere.
                let mut some = vec![0; 1 + capacity / 2];
                if let Ok(n) = tokio::time::timeout(Duration::ZERO, client.read(&mut some)).await {
                    raw.extend(&some[..n.unwrap()]);
                }
            }
            let writer = async {
                poll_fn(|cx| wire.poll_write(cx, &mut batch, &mut written)).await.unwrap();
                poll_fn(|cx| wire.poll_shutdown(cx)).await.unwrap();
            };
            let reader = client.read_to_end(&mut raw);
            let ((), read) = tokio::join!(writer, reader);
            read.unwrap();
            prop_assert_eq!(written.control as usize, steps.len());

            // It stays open the other way, with space for the answers to pings.
            let (mut from, to) = duplex(4 * raw.len() + 1024);
            from.write_all(&raw).await.unwrap();
            from.shutdown().await.unwrap();
            let mut parsed = WebSocketStream::from_raw_socket(to, Role::Client, None).await;
            let mut data = Vec::new();
            let mut seen = 0;
            while let Some(Ok(message)) = parsed.next().await {
                match message {
                    Message::Binary(payload) => data.push(payload.to_vec()),
                    Message::Ping(_) => seen += 1,
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(data, expected);
            prop_assert_eq!(seen, pings);
            Ok(())
        })?;
    }
}

#[test]
fn opcodes_used_here_are_those_of_the_frame_module() {
    assert_eq!(
        u8::from(OpCode::Control(Control::Ping)),
        Frame::ping().as_bytes()[0] & 0x0f
    );
}
