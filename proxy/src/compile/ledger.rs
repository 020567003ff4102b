//! What was accepted, as it came: for comparing bodies, for config dumps and for status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::ResourceType;

/// Every resource by type and name. Cloning shares it.
///
/// The compiler writes; admin reads, on the same thread: the lock is never waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    entries: Arc<Mutex<Entries>>,
}

type Entries = BTreeMap<(ResourceType, Arc<str>), Entry>;

/// One resource.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The last good form, with its version; `None` when there never was one.
    pub(crate) accepted: Option<Accepted>,
    /// The refusal of a later form, if the last one that came was refused.
    pub(crate) refused: Option<Refused>,
    /// From the bootstrap, not from the control plane.
    pub(crate) fixed: bool,
}

/// A resource as accepted.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// The version that it came with; may be empty.
    pub(crate) version: String,
    /// Its bytes.
    pub(crate) body: Arc<Any>,
    /// When it came.
    pub(crate) at: SystemTime,
}

/// A resource as refused.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) message: String,
    /// The version that was refused.
    pub(crate) version: String,
    /// When it came.
    pub(crate) at: SystemTime,
}

impl Ledger {
    /// The names of the listeners that were accepted.
    pub(crate) fn listeners(&self) -> Vec<Arc<str>> {
        let listeners = self.entries(ResourceType::Listener).into_iter();
        listeners.filter(|entry| entry.accepted.is_some()).map(|entry| entry.name).collect()
    }

    /// Every resource of a type, by name.
    pub(crate) fn entries(&self, kind: ResourceType) -> Vec<Entry> {
        let entries = self.lock();
        entries.iter().filter(|((held, _), _)| *held == kind).map(|(_, entry)| entry.clone()).collect()
    }

    #[cfg(test)]
    pub(super) fn entry(&self, kind: ResourceType, name: &str) -> Option<Entry> {
        self.lock().get(&(kind, name.into())).cloned()
    }

    /// Whether the body is the accepted one's. If so, its version becomes the newer one, and an older refusal is over.
    pub(super) fn confirm(&self, kind: ResourceType, name: &Arc<str>, body: &Any, version: &str) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&(kind, name.clone())) else { return false };
        let Some(accepted) = entry.accepted.as_mut().filter(|accepted| *accepted.body == *body) else {
            return false;
        };
        version.clone_into(&mut accepted.version);
        entry.refused = None;
        true
    }

    pub(super) fn accept(&self, kind: ResourceType, name: Arc<str>, fixed: bool, accepted: Accepted) {
        let entry = Entry { name: name.clone(), accepted: Some(accepted), refused: None, fixed };
        self.lock().insert((kind, name), entry);
    }

    pub(super) fn refuse(&self, kind: ResourceType, name: Arc<str>, refused: Refused) {
        let mut entries = self.lock();
        let entry = entries.entry((kind, name.clone()));
        entry.or_insert(Entry { name, accepted: None, refused: None, fixed: false }).refused = Some(refused);
    }

    pub(super) fn remove(&self, kind: ResourceType, name: &Arc<str>) {
        self.lock().remove(&(kind, name.clone()));
    }

    /// Forgets the children that nothing refers to any more.
    pub(super) fn retain(&self, kind: ResourceType, wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|(held, name), entry| *held != kind || entry.fixed || wanted(name));
    }

    pub(super) fn is_fixed(&self, kind: ResourceType, name: &Arc<str>) -> bool {
        self.lock().get(&(kind, name.clone())).is_some_and(|entry| entry.fixed)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
