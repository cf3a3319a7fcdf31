//! What is to be heard of a fleet: reports, records and the NATS servers, for as long as anybody
//! wants it. A connection that is lost is opened again.

use std::time::Duration;

use arqon_spine::admin::Admin;
use futures_util::StreamExt;
use tokio::sync::mpsc::Sender;

use super::view::Heard;
use crate::admin::connect;
use crate::context::Context;
use crate::failure::{Failure, chain};

/// How often the NATS servers are asked. One answer takes half a second, for nobody knows how many
/// there are; and no answer is how a server that hangs is noticed.
const ASK_SERVERS: Duration = Duration::from_secs(2);

/// Between attempts to connect: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A connection that is given up gets so long to end in good order.
const CLOSE: Duration = Duration::from_secs(1);

/// Nobody listens any more.
struct Unheard;

/// Tells what is heard until nobody takes it.
pub(super) async fn run(context: &Context, mut admin: Admin, heard: &Sender<Heard>) {
    loop {
        let ended = Box::pin(follow(&admin, heard)).await;
        // A server that does not answer must not hold the next attempt up.
        let _ = tokio::time::timeout(CLOSE, admin.close()).await;
        let Ok(why) = ended else { return };
        if heard.send(Heard::Down(why)).await.is_err() {
            return;
        }
        admin = match again(context, heard).await {
            Ok(admin) => admin,
            Err(Unheard) => return,
        };
    }
}

/// Tells what one connection brings, and why it ended.
async fn follow(admin: &Admin, heard: &Sender<Heard>) -> Result<String, Unheard> {
    tokio::select! {
        ended = Box::pin(reports(admin, heard)) => ended,
        ended = Box::pin(servers(admin, heard)) => ended,
        () = admin.control().closed().closed() => Ok("the connection broke".to_owned()),
    }
}

async fn reports(admin: &Admin, heard: &Sender<Heard>) -> Result<String, Unheard> {
    let control = admin.control();
    let opened = async {
        tokio::try_join!(
            control.subscribe_beats(),
            control.subscribe_brain_beats(),
            control.watch_tenants(),
            control.watch_pools(),
        )
    };
    let (mut shields, mut brains, mut tenants, mut pools) = match opened.await {
        Ok(streams) => streams,
        Err(error) => return Ok(chain(&error)),
    };
    tell(heard, Heard::Up).await?;
    loop {
        let next = tokio::select! {
            beat = shields.next() => beat.map(|beat| Ok(Heard::Shield(Box::new(beat)))),
            beat = brains.next() => beat.map(|beat| Ok(Heard::Brain(beat))),
            event = tenants.next() => event.map(|event| event.map(Heard::Tenant)),
            event = pools.next() => event.map(|event| event.map(Heard::Pool)),
        };
        match next {
            Some(Ok(what)) => tell(heard, what).await?,
            Some(Err(error)) => return Ok(chain(&error)),
            None => return Ok("the connection broke".to_owned()),
        }
    }
}

async fn servers(admin: &Admin, heard: &Sender<Heard>) -> Result<String, Unheard> {
    loop {
        match admin.servers().await {
            Ok(servers) => tell(heard, Heard::Servers(servers)).await?,
            Err(error) => return Ok(chain(&error)),
        }
        tokio::time::sleep(ASK_SERVERS).await;
    }
}

/// Connects again, for as long as it takes.
async fn again(context: &Context, heard: &Sender<Heard>) -> Result<Admin, Unheard> {
    let (mut wait, longest) = RETRY;
    loop {
        tokio::time::sleep(wait).await;
        match Box::pin(connect(context)).await {
            Ok(admin) => return Ok(admin),
            Err(Failure { message, .. }) => tell(heard, Heard::Down(message)).await?,
        }
        wait = longest.min(wait * 2);
    }
}

async fn tell(heard: &Sender<Heard>, what: Heard) -> Result<(), Unheard> {
    heard.send(what).await.map_err(|_| Unheard)
}
