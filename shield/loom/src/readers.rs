//! `feeds`: what comes while the reader looks elsewhere is read all the same.
//!
//! A wake-up that is lost leaves the reader asleep for ever, which loom finds.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use loom::future::block_on;
use loom::thread;

use crate::feeds::{Feeds, Progress};
use crate::sync::{AtomicWaker, Mutex};

/// A channel like tokio's, as small as can be.
struct Inbox {
    items: Mutex<VecDeque<u32>>,
    reader: AtomicWaker,
}

struct Receiver(Arc<Inbox>);

/// What the reader does beside reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// Streams begin held, and are released after a first look.
    Release,
    /// The first stream is replaced by the second one, under its key, after a first look.
    Replace,
}

// === impl Inbox ===

impl Inbox {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            items: Mutex::new(VecDeque::new()),
            reader: AtomicWaker::new(),
        })
    }

    fn send(&self, item: u32) {
        self.items.lock().expect("no panic").push_back(item);
        self.reader.wake();
    }
}

impl Stream for Receiver {
    type Item = u32;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        self.0.reader.register(cx.waker());
        match self.0.items.lock().expect("no panic").pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None => Poll::Pending,
        }
    }
}

/// One thread for each inbox sends so many items, and the reader takes them
/// with this budget a look. What it has read, by inbox.
pub fn read(inboxes: usize, items: u32, budget: usize, beside: Beside) -> Vec<Vec<u32>> {
    let all: Vec<_> = (0..inboxes).map(|_| Inbox::new()).collect();
    let senders: Vec<_> = all
        .iter()
        .cloned()
        .map(|inbox| thread::spawn(move || (0..items).for_each(|item| inbox.send(item))))
        .collect();
    let mut feeds = Feeds::new();
    let mut fresh = all.into_iter().enumerate();
    let at_first = if beside == Beside::Replace {
        1
    } else {
        inboxes
    };
    for (number, inbox) in fresh.by_ref().take(at_first) {
        feeds.insert(number, number, Receiver(inbox), beside == Beside::Release);
    }
    let mut seen = vec![Vec::new(); inboxes];
    let mut first = true;
    block_on(poll_fn(|cx| {
        let progress = feeds.poll(cx, budget, |number: &usize, next| {
            while let Some(item) = next() {
                seen[*number].push(item);
            }
        });
        if std::mem::take(&mut first) {
            feeds.release();
            for (number, inbox) in fresh.by_ref() {
                feeds.insert(0, number, Receiver(inbox), false);
            }
        }
        // The stream that was replaced is not read to its end.
        let wanted = seen.iter().skip(usize::from(beside == Beside::Replace));
        if wanted.clone().all(|it| it.len() == items as usize) {
            return Poll::Ready(());
        }
        if progress == Progress::More {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }));
    senders
        .into_iter()
        .for_each(|it| it.join().expect("no panic"));
    seen
}
