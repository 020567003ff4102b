//! A number of places for each of many: whoever takes all of its own takes none of anybody else's.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// The same number of places for each key.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    each: usize,
    /// Locked for a map operation, never across an await.
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    shares: HashMap<K, Arc<Semaphore>>,
    /// At how many keys those that nobody uses are let go of.
    sweep_at: usize,
}

impl<K: Eq + Hash> Shares<K> {
    /// `each` places for every key.
    pub(crate) fn new(each: usize) -> Self {
        let taken = Taken { shares: HashMap::new(), sweep_at: SWEEP };
        Self { each, taken: Mutex::new(taken) }
    }

    /// The places of one. They are its own for as long as somebody holds them, or one of them.
    pub(crate) fn of(&self, key: K) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.shares.len() >= taken.sweep_at {
            taken.shares.retain(|_, share| Arc::strong_count(share) > 1);
            taken.sweep_at = SWEEP.max(taken.shares.len() * 2);
        }
        let fresh = || Arc::new(Semaphore::new(self.each));
        Arc::clone(taken.shares.entry(key).or_insert_with(fresh))
    }
}

/// Fewer keys than these are not worth a look.
const SWEEP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_who_is_gone_is_forgotten() {
        let shares = Shares::new(1);
        let held = shares.of(0).try_acquire_owned().unwrap();
        assert!(shares.of(0).try_acquire_owned().is_err());
        assert!(shares.of(1).try_acquire_owned().is_ok());
        for key in 0..SWEEP * 3 {
            shares.of(key);
        }
        assert!(shares.taken.lock().unwrap().shares.len() <= SWEEP + 1);
        assert!(shares.of(0).try_acquire_owned().is_err(), "whoever is here keeps its place");
        drop(held);
        assert!(shares.of(0).try_acquire_owned().is_ok());
    }
}
