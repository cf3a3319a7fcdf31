//! `arq pub`: publishes to a room.

use std::io::Read;

use arqon_client::Client;
use arqon_proto::names::RoomId;
use arqon_proto::v1::Join;
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::Globals;
use crate::failure::{Doing, Failure, Result};
use crate::session::{SessionOptions, connect, explain};

/// Publish a message to a room
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq pub lobby hello\n  date | arq pub lobby -\n  tail -f app.log | arq pub logs - --lines"
)]
pub(crate) struct Publish {
    /// The room
    room: String,
    /// The message, or `-` for stdin
    text: String,
    /// Print the X-Twist-ID of each message that the Spine has taken
    #[arg(long)]
    ack: bool,
    /// With `-`: every line is a message of its own
    #[arg(long)]
    lines: bool,
    #[command(flatten)]
    session: SessionOptions,
}

/// Does what was asked.
pub(crate) fn run(args: &Publish, globals: &Globals) -> Result {
    let room = parse_room(&args.room)?;
    if args.lines && args.text != "-" {
        return Err(Failure::usage(
            "--lines reads stdin; write `-` in place of the text",
        ));
    }
    globals.wait(async {
        let context = globals.context()?;
        let url = args.session.url(&context);
        let token = args.session.credential(&context, globals)?;
        let joins = !token.as_deref().is_some_and(publishes_unjoined);
        let (mut client, _) = connect(&context, &url, token, globals.otlp.traceparent()).await?;
        if joins {
            let quiet = Join {
                echo: Some(false),
                ..Join::default()
            };
            let joined = client.join(room.as_str(), quiet).await;
            joined.map_err(|error| explain(&url, &error))?;
        }
        let mut publisher = Publisher {
            client,
            url,
            room,
            tell: args.ack,
        };
        if args.lines {
            use tokio::io::AsyncBufReadExt;
            let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) = lines.next_line().await.doing("cannot read stdin")? {
                publisher.publish(line.into(), globals).await?;
            }
            return Ok(());
        }
        let payload = if args.text == "-" {
            let mut input = Vec::new();
            std::io::stdin()
                .read_to_end(&mut input)
                .doing("cannot read stdin")?;
            input.into()
        } else {
            Bytes::from(args.text.clone())
        };
        publisher.publish(payload, globals).await
    })
}

/// A room's name as it was typed.
pub(crate) fn parse_room(text: &str) -> Result<RoomId> {
    RoomId::parse(text).map_err(|error| {
        Failure::usage(format!("`{text}` is no room: {error}")).hint(
            "a room is 1 to 4 tokens of A-Z a-z 0-9 _ - joined by dots, and does not start with _",
        )
    })
}

struct Publisher {
    client: Client,
    url: String,
    room: RoomId,
    tell: bool,
}

impl Publisher {
    async fn publish(&mut self, payload: Bytes, globals: &Globals) -> Result {
        // Asked for in any case, so that `arq pub` never reports as done what did not happen.
        let ack = self
            .client
            .publish(self.room.as_str(), payload, true)
            .await
            .map_err(|error| explain(&self.url, &error))?;
        let twist_id = ack.map(|ack| ack.twist_id).unwrap_or_default();
        if globals.output.json {
            globals
                .output
                .object_line(&json!({"room": self.room.as_str(), "twist_id": twist_id}))
        } else if self.tell {
            globals.output.line(twist_id)
        } else {
            Ok(())
        }
    }
}

/// Whether a token is for a service, which publishes without joining. Who signed it does not
/// matter here: Shield decides, and answers NOT_JOINED to whoever is none.
fn publishes_unjoined(token: &str) -> bool {
    let claims = token.split('.').nth(1).unwrap_or_default();
    data_encoding::BASE64URL_NOPAD
        .decode(claims.as_bytes())
        .ok()
        .and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok())
        .is_some_and(|claims| claims["role"] == "service")
}
