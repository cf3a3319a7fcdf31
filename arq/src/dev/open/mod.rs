//! `arq dev open`: serves the console, a page that speaks the protocol from a browser.
//!
//! The page itself holds nothing secret. What it may ask for — where Shield is, a development
//! token, why a token was refused — takes the key of this run, which is in the fragment of the
//! printed address and so in no request line, log or Referer. See `guard`.

mod answers;
mod desktop;
mod guard;
mod page;
mod peer;
mod serve;

use std::net::Ipv4Addr;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

use self::guard::Guard;
use self::serve::Server;
use super::ports;
use crate::Globals;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::stops::Stops;

/// How the console is served.
#[derive(Debug, Args)]
pub(crate) struct Open {
    /// Only print the address
    #[arg(long)]
    no_browser: bool,
    /// Serve the page on this port of 127.0.0.1; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

/// Serves until a signal.
pub(super) fn run(open: &Open, context: &Context, globals: &Globals) -> Result {
    globals.wait(Box::pin(serve(open, context, globals)))
}

async fn serve(open: &Open, context: &Context, globals: &Globals) -> Result {
    let output = &globals.output;
    let mut stops = Stops::new()?;
    let shield_url = page::socket_url(&context.settings.shield_url);
    page::policy(&shield_url)?;
    let listener = bind(open.port).await?;
    let port = listener.local_addr()?.port();
    let guard = Guard::new(port);
    let url = guard.address();
    let answers = answers::is_shield_there(context).await;
    if let Err(failure) = &answers {
        output.warn(&failure.message);
        output.note("hint: `arq dev up` starts it; the page connects as soon as it is there");
    }
    let asked = !open.no_browser && desktop::open(&url, *output);
    if output.json {
        output.object_line(&json!({
            "url": url,
            "port": port,
            "shield_url": shield_url,
            "shield_answers": answers.is_ok(),
            "browser_asked": asked,
        }))?;
    } else {
        output.line(&url)?;
        if !asked && !open.no_browser {
            output.note("no desktop was found here: open the address above in a browser");
        }
        output.note("the address is a key to development tokens: do not pass it on; Ctrl-C stops");
    }
    let server = Server::new(guard, globals);
    tokio::select! {
        outcome = server.run(listener) => outcome,
        () = stops.next() => Ok(()),
    }
}

async fn bind(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| {
            let failure = if error.kind() == std::io::ErrorKind::AddrInUse {
                let by = ports::holder(port)
                    .map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
                Failure::new(format!("port {port} for the console is taken by {by}"))
            } else {
                Failure::new(format!(
                    "port {port} for the console cannot be opened: {error}"
                ))
            };
            failure.hint("without --port it takes any free one")
        })
}
