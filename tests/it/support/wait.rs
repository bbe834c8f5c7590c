//! Has it happened yet? Waiting for an observed fact, with a deadline that says what was waited for.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

/// Asks `probe` until it gives a value, and returns that; panics with `what` and the caller's line after `within`. The
/// deadline is a bound for a hopeless case: a test's result must not depend on how soon the fact comes.
#[track_caller]
pub(crate) fn eventually<T, F>(within: Duration, what: &str, mut probe: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            assert!(began.elapsed() < within, "{caller}: waited {within:?} in vain: {what}");
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
    }
}
