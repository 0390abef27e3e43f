//! Waiting for a level: looked at again and again, with a deadline, and with the last state seen when it passes.

use std::{
    future::Future,
    time::{Duration, Instant},
};

const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Until `probe` gives what is waited for; it says what it saw otherwise.
pub async fn until<T, F>(what: &str, within: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        let seen = match probe().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            started.elapsed() < within,
            "{what}: not within {within:?}; last seen: {seen}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same where there is no runtime, as in `Drop`.
pub fn blocking<T>(within: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if started.elapsed() >= within {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
