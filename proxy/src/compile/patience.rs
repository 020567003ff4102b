//! How long something new waits for what it needs before it goes on without.

use std::time::Duration;

use tokio::time::Instant;

/// How long a cluster waits for its first addresses when its configuration does not say.
pub(crate) const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A wait with an end, or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// A wait from now on; `None` is for ever.
    pub(crate) fn from(now: Instant, patience: Option<Duration>) -> Self {
        Self { until: patience.and_then(|patience| now.checked_add(patience)) }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// When it ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.until
    }
}
