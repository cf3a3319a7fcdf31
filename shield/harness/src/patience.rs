//! Waiting on state: bounded, with a failure that says what was waited for.

use std::future::Future;
use std::time::Duration;

/// How long a story waits for what must happen. Long, for a busy machine is no
/// failure; nothing asserts how fast it was.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks at a state.
pub const GLANCE: Duration = Duration::from_millis(10);

/// What `future` yields, or a panic naming `what` was waited for.
///
/// # Panics
/// After [`PATIENCE`].
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    // Boxed: futures of whole clients are large, and tests hold many.
    let future = Box::pin(future);
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: waited {PATIENCE:?} for {what}"),
        }
    }
}

/// Looks at a condition until it holds; the condition may await.
///
/// `eventually!(cond)`, or with a message that is made only on failure:
/// `eventually!(cond, "{} sessions", n)`.
#[macro_export]
macro_rules! eventually {
    ($condition:expr $(,)?) => {
        $crate::eventually!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {{
        let started = ::std::time::Instant::now();
        while !$condition {
            if started.elapsed() > $crate::PATIENCE {
                panic!(
                    "after {:?} still not: {}: {}",
                    $crate::PATIENCE,
                    stringify!($condition),
                    format!($($message)+)
                );
            }
            ::tokio::time::sleep($crate::GLANCE).await;
        }
    }};
}
