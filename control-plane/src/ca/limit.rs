//! How often one identity may ask: so many certificates within a minute, counted over a sliding minute.

use std::collections::{HashMap, VecDeque};

/// The times at which each identity got certificates within the last minute.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    taken: HashMap<String, VecDeque<u64>>,
}

impl Limiter {
    /// Takes a place, or says for how many seconds there is none.
    pub(super) fn take(&mut self, identity: &str, limit: u32, now: u64) -> Result<(), u64> {
        if self.taken.len() > IDENTITIES {
            self.taken.retain(|_, times| times.back().is_some_and(|last| last.saturating_add(MINUTE) > now));
        }
        let times = self.taken.entry(identity.to_owned()).or_default();
        // A clock that was set back must not lock anybody out for longer than a minute.
        times.retain(|at| at.saturating_add(MINUTE) > now && *at <= now);
        if times.len() >= limit as usize {
            let first = times.front().copied().unwrap_or(now);
            return Err((first + MINUTE).saturating_sub(now).max(1));
        }
        times.push_back(now);
        Ok(())
    }
}

const MINUTE: u64 = 60;

/// Above so many identities those that have been quiet for a minute are forgotten.
const IDENTITIES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_does_not_use_up_anothers_share() {
        let mut limiter = Limiter::default();
        for _ in 0..3 {
            assert_eq!(limiter.take("a", 3, 100), Ok(()));
        }
        assert_eq!(limiter.take("a", 3, 110), Err(50));
        assert_eq!(limiter.take("b", 3, 110), Ok(()));
        assert_eq!(limiter.take("a", 3, 159), Err(1));
        assert_eq!(limiter.take("a", 3, 160), Ok(()));
        assert_eq!(limiter.take("a", 3, 10), Ok(()), "a clock that was set back");
    }
}
