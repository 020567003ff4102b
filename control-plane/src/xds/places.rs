//! Places for streams: so many in all, and so many for one identity, so that no workload takes everybody's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one port. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    most: usize,
    of_one: usize,
    /// How many each identity has; those without any are not kept, so that the map is as large as the streams are many.
    taken: Arc<Mutex<BTreeMap<SpiffeId, usize>>>,
}

/// One place, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Place {
    _one: OwnedSemaphorePermit,
    _holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    places: Places,
    identity: SpiffeId,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    /// For anybody.
    #[error("{0} streams are open; try again later")]
    Full(usize),
    /// For this identity.
    #[error(
        "{0} streams of this identity are open, as many as one may have (--streams-per-identity); close some, or try again later"
    )]
    FullForOne(usize),
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), most, of_one: most, taken: Arc::default() }
    }

    /// The same places; one identity may have so many of them.
    pub(super) fn with_share(self, of_one: usize) -> Self {
        Self { of_one, ..self }
    }

    /// Takes a place, for this identity where callers are known.
    pub(super) fn take(&self, identity: Option<&SpiffeId>) -> Result<Place, NoPlace> {
        let holder = identity.map(|identity| self.hold(identity)).transpose()?;
        let one = Arc::clone(&self.all).try_acquire_owned().map_err(|_| NoPlace::Full(self.most))?;
        Ok(Place { _one: one, _holder: holder })
    }

    fn hold(&self, identity: &SpiffeId) -> Result<Holder, NoPlace> {
        let mut taken = self.taken();
        let own = taken.get(identity).copied().unwrap_or_default();
        if own >= self.of_one {
            return Err(NoPlace::FullForOne(self.of_one));
        }
        taken.insert(identity.clone(), own + 1);
        Ok(Holder { places: self.clone(), identity: identity.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, usize>> {
        // A number is replaced as a whole, so that a panic elsewhere does not spoil the map.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NoPlace {
    /// The label on the counter of refused streams.
    pub(super) const fn cause(self) -> &'static str {
        match self {
            Self::Full(_) => "limit",
            Self::FullForOne(_) => "identity_limit",
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let left = taken.get(&self.identity).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.identity);
        } else {
            taken.insert(self.identity.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_takes_its_share_and_no_more() {
        let (web, db) = ("spiffe://td/ns/shop/sa/web", "spiffe://td/ns/shop/sa/db");
        let (web, db): (SpiffeId, SpiffeId) = (web.parse().unwrap(), db.parse().unwrap());
        let shared = Places::new(4).with_share(2);
        let first = shared.take(Some(&web)).unwrap();
        let _second = shared.take(Some(&web)).unwrap();
        assert_eq!(shared.take(Some(&web)).unwrap_err(), NoPlace::FullForOne(2));
        let _other = shared.take(Some(&db)).unwrap();
        drop(first);
        let _again = shared.take(Some(&web)).unwrap();
        let _nobody = shared.take(None).unwrap();
        assert_eq!(shared.take(None).unwrap_err(), NoPlace::Full(4));
        assert_eq!(shared.take(Some(&db)).unwrap_err(), NoPlace::Full(4));
        assert_eq!(shared.taken().get(&db), Some(&1), "what was not given is not counted");
    }
}
