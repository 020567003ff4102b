//! Waiting for something to become true, never longer than a deadline.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Long enough for a loaded machine; a scenario that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `look` gives something.
///
/// # Panics
/// When the deadline passes; names what was awaited.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Polls until `look` gives what is expected; says what it gave last when it never does.
///
/// # Panics
/// When the deadline passes.
pub async fn until_equal<T: PartialEq + Debug>(what: &str, expected: T, mut look: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = look().await;
        if found == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not within {DEADLINE:?}: {what} should be {expected:?}, is {found:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Awaits something that must happen.
///
/// # Panics
/// When the deadline passes; names what was awaited.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
