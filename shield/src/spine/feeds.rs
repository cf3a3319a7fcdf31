//! Many streams read by one task, at a cost that does not grow with their number.
//!
//! Each stream has a waker of its own that puts it on a list of ready ones, so
//! a quiet stream costs nothing, a busy one is read in runs, and nothing is
//! allocated per item. A held stream is not read until it is released.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use futures_util::Stream;

use crate::sync::{AtomicBool, AtomicWaker, Mutex, Ordering};

/// Items read from one stream before the next has its turn.
const RUN: usize = 64;

/// The streams, by key, each with a value of the reader's.
pub(super) struct Feeds<K, V, S> {
    feeds: HashMap<K, Feed<V, S>>,
    ready: Arc<Ready<K>>,
    /// Taken from `ready` and not yet read.
    turns: VecDeque<Arc<Turn<K>>>,
}

struct Feed<V, S> {
    value: V,
    stream: S,
    waker: Waker,
    held: bool,
}

struct Ready<K> {
    list: Mutex<Vec<Arc<Turn<K>>>>,
    reader: AtomicWaker,
}

struct Turn<K> {
    key: K,
    /// On the list, or taken from it and not yet read.
    listed: AtomicBool,
    ready: Arc<Ready<K>>,
}

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is ready; the task will be woken.
    Idle,
    /// The budget is used up, and more is ready.
    More,
}

// === impl Feeds ===

impl<K, V, S> Feeds<K, V, S>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    S: Stream + Unpin,
{
    pub(super) fn new() -> Self {
        Self {
            feeds: HashMap::new(),
            ready: Arc::new(Ready {
                list: Mutex::default(),
                reader: AtomicWaker::new(),
            }),
            turns: VecDeque::new(),
        }
    }

    /// Adds a stream; one of the same key is replaced.
    pub(super) fn insert(&mut self, key: K, value: V, stream: S, held: bool) {
        let turn = Arc::new(Turn {
            key: key.clone(),
            listed: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        let waker = Waker::from(turn);
        if !held {
            waker.wake_by_ref();
        }
        let feed = Feed {
            value,
            stream,
            waker,
            held,
        };
        self.feeds.insert(key, feed);
    }

    /// Removes a stream and what is unread in it.
    pub(super) fn remove(&mut self, key: &K) {
        self.feeds.remove(key);
    }

    /// Lets the held streams be read.
    pub(super) fn release(&mut self) {
        for feed in self.feeds.values_mut() {
            if std::mem::take(&mut feed.held) {
                feed.waker.wake_by_ref();
            }
        }
    }

    /// Reads at most about `budget` items, in runs of one stream each. `run` is
    /// given the value and a source of items, which it reads until `None`.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        mut budget: usize,
        mut run: impl FnMut(&V, &mut dyn FnMut() -> Option<S::Item>),
    ) -> Progress {
        // Registered before looking, so that no wake-up falls in between.
        self.ready.reader.register(cx.waker());
        self.turns.extend(self.ready.take());
        while let Some(turn) = self.turns.pop_front() {
            turn.listed.store(false, Ordering::Release);
            let Some(feed) = self.feeds.get_mut(&turn.key).filter(|feed| !feed.held) else {
                continue;
            };
            let mut left = RUN;
            let mut over = false;
            let mut feed_cx = Context::from_waker(&feed.waker);
            run(&feed.value, &mut || {
                left = left.checked_sub(1)?;
                match Pin::new(&mut feed.stream).poll_next(&mut feed_cx) {
                    Poll::Ready(Some(item)) => Some(item),
                    Poll::Ready(None) => {
                        over = true;
                        None
                    }
                    Poll::Pending => None,
                }
            });
            if over {
                self.feeds.remove(&turn.key);
            } else if left == 0 {
                feed.waker.wake_by_ref();
            }
            budget = budget.saturating_sub(RUN - left);
            if budget == 0 {
                return Progress::More;
            }
            if self.turns.is_empty() {
                self.turns.extend(self.ready.take());
            }
        }
        Progress::Idle
    }
}

// === impl Ready ===

impl<K> Ready<K> {
    fn take(&self) -> Vec<Arc<Turn<K>>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *list)
    }
}

// === impl Turn ===

impl<K: Send + Sync + 'static> Wake for Turn<K> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        {
            let list = &self.ready.list;
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(self.clone());
        }
        self.ready.reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::stream;
    use tokio::sync::mpsc;

    use super::*;

    struct Receiver(mpsc::Receiver<u32>);

    impl Stream for Receiver {
        type Item = u32;
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
            self.0.poll_recv(cx)
        }
    }

    fn read<S: Stream<Item = u32> + Unpin>(
        feeds: &mut Feeds<&'static str, &'static str, S>,
        cx: &Context<'_>,
        budget: usize,
    ) -> (Vec<(&'static str, u32)>, Progress) {
        let mut seen = Vec::new();
        let progress = feeds.poll(cx, budget, |key, next| {
            while let Some(item) = next() {
                seen.push((*key, item));
            }
        });
        (seen, progress)
    }

    #[tokio::test]
    async fn what_is_ready_is_read_and_what_comes_later_wakes() {
        let (one, first) = mpsc::channel(16);
        let (_two, second) = mpsc::channel(16);
        let mut feeds = Feeds::new();
        feeds.insert("one", "one", Receiver(first), false);
        feeds.insert("two", "two", Receiver(second), false);
        let sender = tokio::spawn(async move {
            for n in 0..1000 {
                one.send(n).await.expect("the reader lives");
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 1000 {
            poll_fn(|cx| {
                let (more, progress) = read(&mut feeds, cx, 10);
                seen.extend(more);
                match progress {
                    Progress::Idle if seen.len() < 1000 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            })
            .await;
            tokio::task::yield_now().await;
        }
        sender.await.expect("no panic");
        assert!(
            seen.iter()
                .enumerate()
                .all(|(n, (_, item))| *item == n as u32)
        );
    }

    #[test]
    fn runs_take_turns_and_a_budget_ends_them() {
        let mut feeds = Feeds::new();
        feeds.insert("a", "a", stream::iter(0..200), false);
        feeds.insert("b", "b", stream::iter(0..200), false);
        let cx = Context::from_waker(Waker::noop());
        let (seen, progress) = read(&mut feeds, &cx, RUN);
        assert_eq!((seen.len(), progress), (RUN, Progress::More));
        let (more, progress) = read(&mut feeds, &cx, 10_000);
        assert_eq!((more.len(), progress), (400 - RUN, Progress::Idle));
        assert_ne!(seen[0].0, more[0].0, "the other has its turn");
        assert!(feeds.feeds.is_empty(), "ended streams are gone");
    }

    #[test]
    fn held_streams_wait_for_their_release() {
        let mut feeds = Feeds::new();
        feeds.insert("a", "a", stream::iter(0..3), true);
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(read(&mut feeds, &cx, 100).0, []);
        feeds.release();
        assert_eq!(read(&mut feeds, &cx, 100).0.len(), 3);
    }
}
