//! Whom each gate of a rotation waits for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::ledger::{LiveLeaf, SKEW};
use super::{Roots, Rotation, SEPARATOR, Settings, Witness, World};

/// Somebody whom a gate waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `sidecar shop/web-1`, or an identity when no proxy is known.
    pub who: String,
    /// Its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its node id, when a proxy is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// For what: completes `waiting for … `.
    pub what: String,
    /// When it was last connected, when it is not, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// When the wait ends by itself at the latest, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Waiting {
    fn connected(witness: &Witness, what: String) -> Self {
        let (identity, node) = (Some(witness.identity.clone()), Some(witness.proxy.clone()));
        Self { who: witness.title.clone(), identity, node, what, last_seen: None, until: None }
    }
}

impl Rotation {
    /// Before the new root signs: who may not trust it yet.
    pub(super) fn without_new(&self, now: u64, world: &World<'_>, settings: &Settings) -> Vec<Waiting> {
        let Some(next) = &self.next else { return Vec::new() };
        let mut waiting: Vec<Waiting> = world
            .witnesses
            .iter()
            .filter_map(|witness| {
                let what = match &witness.roots {
                    Roots::Confirmed(roots) if roots.contains(next) => return None,
                    Roots::NotAsked if witness.connected >= ASKING => return None,
                    Roots::Refused(text) => format!("to trust the new root; it refuses: {text}"),
                    _ => "to trust the new root".to_owned(),
                };
                Some(Waiting::connected(witness, what))
            })
            .collect();
        if settings.wait_for_absent {
            waiting.extend(self.absent(world, settings));
            waiting.extend(self.unknown(world));
            waiting.extend(self.too_many(now, world));
            if now < self.overlooked_until {
                waiting.push(Waiting {
                    who: "more proxies than can be remembered".to_owned(),
                    identity: None,
                    node: None,
                    what: "to come back, or their certificates to expire".to_owned(),
                    last_seen: None,
                    until: Some(self.overlooked_until),
                });
            }
        }
        waiting
    }

    /// Proxies that went away without a word on the new root, while their leaves may live.
    fn absent<'a>(&'a self, world: &World<'a>, settings: &'a Settings) -> impl Iterator<Item = Waiting> + 'a {
        let connected: BTreeSet<String> = world.witnesses.iter().map(Witness::key).collect();
        // Somebody of whose identity no leaf lives cannot take part in a handshake.
        let live: BTreeSet<&str> = in_use(world.leaves).map(|leaf| leaf.identity.as_str()).collect();
        let absent = self.seen.iter().filter(move |(proxy, seen)| {
            !seen.confirmed && !connected.contains(*proxy) && live.contains(seen.identity.as_str())
        });
        absent.map(|(proxy, seen)| Waiting {
            who: seen.title.clone(),
            identity: Some(seen.identity.clone()),
            node: proxy.rsplit(SEPARATOR).next().map(str::to_owned),
            what: "to come back and trust the new root, or its certificate to expire".to_owned(),
            last_seen: Some(seen.last),
            until: Some(seen.last + settings.leaf_life + SKEW),
        })
    }

    /// Identities that have shown more proxies than are remembered of one: deny those that made them up.
    fn too_many<'a>(&'a self, now: u64, world: &World<'a>) -> impl Iterator<Item = Waiting> + 'a {
        let live: BTreeSet<&str> = in_use(world.leaves).map(|leaf| leaf.identity.as_str()).collect();
        let many = self.overlooked.iter();
        let many = many.filter(move |(identity, until)| now < **until && live.contains(identity.as_str()));
        many.map(|(identity, until)| Waiting {
            who: format!("more proxies of {identity} than can be remembered"),
            identity: Some(identity.clone()),
            node: None,
            what: "to come back, or their certificates to expire".to_owned(),
            last_seen: None,
            until: Some(*until),
        })
    }

    /// Holders of leaves of whom no proxy is known: after a restart of ours, or who use the certificate service alone. Each proxy has
    /// one leaf in use, so an identity with more leaves than proxies has such a holder; it is waited for until no leaf of the
    /// identity is from before the rotation, or from before the restart.
    fn unknown(&self, world: &World<'_>) -> Vec<Waiting> {
        let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for witness in world.witnesses {
            known.entry(&witness.identity).or_default().insert(witness.key());
        }
        // One that confirmed and went may be dead; its leaf is not to stand for somebody else's.
        for (proxy, seen) in self.seen.iter().filter(|(_, seen)| !seen.confirmed) {
            known.entry(&seen.identity).or_default().insert(proxy.clone());
        }
        let all = by_identity(in_use(world.leaves));
        let early = by_identity(
            in_use(world.leaves).filter(|leaf| leaf.issued <= self.baseline && !self.is_leaf_left_out(leaf)),
        );
        let more_than_known = |identity: &str| {
            let (leaves, _) = all.get(identity).copied().unwrap_or_default();
            leaves > known.get(identity).map_or(0, BTreeSet::len)
        };
        let waiting = early.into_iter().filter(|(identity, _)| more_than_known(identity));
        waiting
            .map(|(identity, (_, until))| Waiting {
                who: identity.to_owned(),
                identity: Some(identity.to_owned()),
                node: None,
                what: "to connect and trust the new root, or to renew its certificate, or the certificate to expire"
                    .to_owned(),
                last_seen: None,
                until: Some(until + SKEW),
            })
            .collect()
    }

    /// Before the old root is forgotten: who still shows a leaf that it signed.
    pub(super) fn leaves_of_old(&self, now: u64, world: &World<'_>, settings: &Settings) -> Vec<Waiting> {
        let leaves = world.leaves.iter().filter(|leaf| {
            let replaced = leaf.superseded.is_some_and(|at| at.saturating_add(settings.grace) <= now);
            let lives = !replaced && leaf.until.saturating_add(SKEW) > now;
            leaf.root == self.current && !leaf.own && lives && !self.is_leaf_left_out(leaf)
        });
        by_identity(leaves)
            .into_iter()
            .map(|(identity, (count, until))| Waiting {
                who: identity.to_owned(),
                identity: Some(identity.to_owned()),
                node: None,
                what: match count {
                    1 => {
                        "to replace its certificate of the old root, or the certificate to expire".to_owned()
                    }
                    _ => format!(
                        "to replace {count} certificates of the old root, or the certificates to expire"
                    ),
                },
                last_seen: None,
                until: Some(until + SKEW),
            })
            .collect()
    }

    /// Before the old key is destroyed: who is connected and still trusts the old root.
    pub(super) fn with_old(&self, world: &World<'_>) -> Vec<Waiting> {
        let waits = |witness: &&Witness| match &witness.roots {
            Roots::Confirmed(roots) => roots.contains(&self.current),
            Roots::NotAsked => witness.connected < ASKING,
            Roots::Unconfirmed | Roots::Refused(_) => true,
        };
        let waiting = world.witnesses.iter().filter(waits);
        waiting.map(|witness| Waiting::connected(witness, "to forget the old root".to_owned())).collect()
    }
}

fn in_use(leaves: &[LiveLeaf]) -> impl Iterator<Item = &LiveLeaf> {
    leaves.iter().filter(|leaf| !leaf.own && leaf.superseded.is_none())
}

/// How many leaves each identity has among these, and when the last of them ends.
fn by_identity<'a>(leaves: impl Iterator<Item = &'a LiveLeaf>) -> BTreeMap<&'a str, (usize, u64)> {
    let mut counted: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for leaf in leaves {
        let entry = counted.entry(leaf.identity.as_str()).or_default();
        entry.0 += 1;
        entry.1 = entry.1.max(leaf.until);
    }
    counted
}

/// A proxy that has been connected for so long without asking for roots uses none, in seconds.
const ASKING: u64 = 30;
