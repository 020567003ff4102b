//! Every leaf that may still be in use: what the second gate of a rotation waits for. In memory; `journal` keeps it on disk.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// One certificate that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveLeaf {
    /// Its serial number, in hex digits.
    pub serial: String,
    /// Whose it is.
    pub identity: String,
    /// SHA-256 of the root that it chains to.
    pub root: String,
    /// SHA-256 of its public key.
    pub key: String,
    /// When it was given, in seconds since 1970.
    pub issued: u64,
    /// When it expires.
    pub until: u64,
    /// By what proof it was given.
    pub proof: String,
    /// When its holder got another one for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<u64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// SHA-256 of the public key that has signed it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The control plane's own: it knows by itself when to change it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
}

/// All of them, by serial number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    leaves: BTreeMap<String, LiveLeaf>,
    by_identity: HashMap<String, usize>,
    /// Which identity shows a public key, and in how many leaves.
    by_key: HashMap<String, (String, usize)>,
}

impl Ledger {
    pub(super) fn insert(&mut self, leaf: LiveLeaf) {
        *self.by_identity.entry(leaf.identity.clone()).or_default() += 1;
        self.by_key.entry(leaf.key.clone()).or_insert_with(|| (leaf.identity.clone(), 0)).1 += 1;
        if let Some(earlier) = self.leaves.insert(leaf.serial.clone(), leaf) {
            self.uncount(&earlier);
        }
    }

    pub(super) fn remove(&mut self, serial: &str) {
        if let Some(leaf) = self.leaves.remove(serial) {
            self.uncount(&leaf);
        }
    }

    /// Notes that the holder of a leaf has got another one. Who shows an old one again still uses it, so that the time counts anew.
    pub(super) fn supersede(&mut self, serial: &str, identity: &str, now: u64) {
        if let Some(leaf) = self.leaves.get_mut(serial).filter(|leaf| leaf.identity == identity) {
            leaf.superseded = Some(now);
        }
    }

    /// Notes that it was revoked. It stays until it expires, however often its holder has got others.
    pub(super) fn revoke(&mut self, serial: &str, now: u64) {
        if let Some(leaf) = self.leaves.get_mut(serial) {
            leaf.revoked.get_or_insert(now);
        }
    }

    /// Forgets what expired, and what its holder replaced long enough ago.
    pub(super) fn expire(&mut self, now: u64, grace: u64) {
        let over: Vec<String> = self
            .leaves
            .values()
            .filter(|leaf| !lives(leaf, now, grace))
            .map(|leaf| leaf.serial.clone())
            .collect();
        over.iter().for_each(|serial| self.remove(serial));
    }

    pub(super) fn get(&self, serial: &str) -> Option<&LiveLeaf> {
        self.leaves.get(serial)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LiveLeaf> {
        self.leaves.values()
    }

    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn count_of(&self, identity: &str) -> usize {
        self.by_identity.get(identity).copied().unwrap_or_default()
    }

    /// Who shows this public key in a live leaf.
    pub(super) fn holder_of_key(&self, key: &str) -> Option<&str> {
        self.by_key.get(key).map(|(identity, _)| identity.as_str())
    }

    fn uncount(&mut self, leaf: &LiveLeaf) {
        if let Some(count) = self.by_identity.get_mut(&leaf.identity) {
            *count -= 1;
            if *count == 0 {
                self.by_identity.remove(&leaf.identity);
            }
        }
        if let Some((_, count)) = self.by_key.get_mut(&leaf.key) {
            *count -= 1;
            if *count == 0 {
                self.by_key.remove(&leaf.key);
            }
        }
    }
}

/// Whether somebody may still show it. Another machine's clock may be behind ours.
fn lives(leaf: &LiveLeaf, now: u64, grace: u64) -> bool {
    let replaced = leaf.superseded.is_some_and(|since| since.saturating_add(grace) <= now);
    (!replaced || leaf.revoked.is_some()) && leaf.until.saturating_add(SKEW) > now
}

/// How far apart clocks may be, in seconds.
pub(super) const SKEW: u64 = 60;
