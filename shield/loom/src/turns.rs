//! `pace`: turns taken by many at once.

use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::pace::Pace;

/// How many of `threads` get a turn at once of a burst of `burst`.
pub fn at_once(threads: usize, burst: u32) -> usize {
    let now = Instant::now();
    let pace = Arc::new(Pace::new(1, burst, now));
    let take = move |pace: &Pace| pace.take(now, Duration::ZERO).is_ok();
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let pace = pace.clone();
            thread::spawn(move || take(&pace))
        })
        .collect();
    let own = usize::from(take(&pace));
    let others = others.into_iter().map(|it| it.join().expect("no panic"));
    own + others.filter(|took| *took).count()
}
