//! `arq status --watch`: a live view.
//!
//! [`listen`] hears, [`view`] remembers, with [`rates`] from counters; a [`picture`] of it is what
//! there is to see at one moment. [`page`] makes lines of it, [`terminal`] draws them. Only the
//! first and the last know of anything outside.

mod lines;
mod listen;
mod page;
mod picture;
mod rates;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::Globals;
use crate::admin::connect;
use crate::failure::Result;
use crate::output::Output;
use crate::stops::Stops;
use terminal::{Input, Terminal};
use view::{Heard, View};

/// Reports come once a second, so a shorter time shows nothing new.
const EVERY: Duration = Duration::from_secs(1);

/// After this long everybody had time to report, so what is missing is missing.
const FIRST: Duration = Duration::from_secs(2);

/// What was heard and not yet taken in: some seconds of a large fleet.
const QUEUE: usize = 1_024;

/// A time between two pictures.
pub(super) fn parse_every(text: &str) -> Result<Duration, String> {
    let every = crate::duration::parse(text)?;
    if every > Duration::from_secs(3_600) {
        return Err(format!("`{text}` is over an hour"));
    }
    Ok(every)
}

/// Watches until a person has seen enough, or for some time.
pub(super) fn run(every: Option<Duration>, lasting: Option<Duration>, globals: &Globals) -> Result {
    let every = every.unwrap_or(EVERY);
    globals.wait(async {
        let context = globals.context()?;
        let mut stops = Stops::new()?;
        // Whoever named a wrong folder or address is told at once; later losses are waited out.
        let admin = Box::pin(connect(&context)).await?;
        let (sender, heard) = mpsc::channel(QUEUE);
        let ended = async {
            match lasting {
                Some(lasting) => tokio::time::sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            shown = show(heard, every, &globals.output) => shown,
            () = Box::pin(listen::run(&context, admin, &sender)) => Ok(()),
            () = ended => Ok(()),
            () = stops.next() => Ok(()),
        }
    })
}

/// Shows it in the way that fits where stdout leads.
async fn show(heard: mpsc::Receiver<Heard>, every: Duration, output: &Output) -> Result {
    let terminal = std::io::stdout().is_terminal() && !output.json && !dumb();
    // Without a keyboard there is no such screen either.
    match terminal.then(|| Terminal::take(output.colour)) {
        Some(Ok(terminal)) => on_screen(terminal, heard, every).await,
        _ => in_blocks(heard, every, output).await,
    }
}

/// A terminal that cannot place text.
fn dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

async fn on_screen(
    mut terminal: Terminal,
    mut heard: mpsc::Receiver<Heard>,
    every: Duration,
) -> Result {
    let mut view = View::new(Instant::now());
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What there is can be seen a moment after the start, however long `every` is.
    let first = tokio::time::sleep(FIRST);
    tokio::pin!(first);
    let mut first_shown = false;
    loop {
        tokio::select! {
            what = heard.recv() => match what {
                Some(what) => {
                    let awaited = matches!(what, Heard::Up | Heard::Down(_));
                    view.hear(what, Instant::now());
                    if !awaited {
                        continue;
                    }
                }
                None => return Ok(()),
            },
            _ = ticks.tick() => view.advance(Instant::now()),
            () = &mut first, if !first_shown => first_shown = true,
            input = terminal.input() => match input? {
                Input::Quit => return Ok(()),
                Input::Suspend => terminal.suspend()?,
                Input::Redraw => {}
            },
        }
        let picture = view.picture(Instant::now(), OffsetDateTime::now_utc());
        let (width, height) = terminal.size();
        terminal.draw(&page::screen(&picture, width, height, every.as_secs()))?;
    }
}

/// A block of text each time, or a line of JSON.
async fn in_blocks(mut heard: mpsc::Receiver<Heard>, every: Duration, output: &Output) -> Result {
    let mut view = View::new(Instant::now());
    let start = tokio::time::Instant::now() + every.max(FIRST);
    let mut ticks = tokio::time::interval_at(start, every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            what = heard.recv() => match what {
                Some(what) => view.hear(what, Instant::now()),
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let now = Instant::now();
                view.advance(now);
                let picture = view.picture(now, OffsetDateTime::now_utc());
                if output.json {
                    output.object_line(&picture.json())?;
                    continue;
                }
                for line in page::block(&picture) {
                    output.line(line.render(usize::MAX, output.colour).trim_end())?;
                }
                output.line("")?;
            }
        }
    }
}
