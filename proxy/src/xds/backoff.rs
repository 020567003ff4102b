//! How long to wait before the next attempt to reach the control plane.

use std::time::Duration;

/// Jittered exponential back-off. A response resets it; a connection alone does not, or a server that accepts and drops
/// would be hammered.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `roll` is uniform over 0..1. All of the interval is random: thousands of proxies lose a restarting
    /// control plane in the same moment.
    pub(crate) fn next(&mut self, roll: f64) -> Duration {
        let ceiling = (LOWEST * 2).saturating_mul(1 << self.failures.min(8)).min(HIGHEST);
        self.failures = self.failures.saturating_add(1);
        LOWEST + (ceiling - LOWEST).mul_f64(roll.clamp(0.0, 1.0))
    }

    /// The control plane answered.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

const LOWEST: Duration = Duration::from_millis(200);
const HIGHEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_ceiling_and_starts_again_after_an_answer() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..7).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.next(0.0), LOWEST);
        backoff.reset();
        assert_eq!(backoff.next(0.5).as_millis(), 300);
    }
}
