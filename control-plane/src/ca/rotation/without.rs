//! Those whom a rotation was told not to wait for: a proxy that is gone for good and still holds a stream, or a certificate that lives.
//!
//! Being left out takes somebody off the lists of the gates, and does nothing else: everybody else is waited for as before.

use std::collections::BTreeMap;

use super::{LiveLeaf, Phase, Refusal, Rotation, SEPARATOR, Waiting, key};

impl Rotation {
    /// Waits until its end no longer for one proxy, by its node id, its title (`sidecar shop/web-1`) or what it serves (`shop/web-1`);
    /// or, by a SPIFFE id, for the proxies of an identity that are waited for now and the leaves that it was given so far. Who comes or
    /// renews later is waited for. Says whom, for people.
    ///
    /// # Errors
    /// When there is no rotation, or `waiting` has no such proxy or identity, or several proxies are called so.
    pub fn leave_out(&mut self, name: &str, now: u64, waiting: &[Waiting]) -> Result<String, Refusal> {
        if self.phase == Phase::Stable {
            return Err(Refusal::None);
        }
        let of_identity =
            |one: &&Waiting| one.identity.as_deref() == Some(name) && (one.node.is_some() || one.who == name);
        if !waiting.iter().any(|one| of_identity(&one)) {
            let proxy = find(name, waiting)?;
            let whom = for_people(&proxy);
            self.without.insert(proxy);
            return Ok(whom);
        }
        self.without.extend(waiting.iter().filter(of_identity).filter_map(proxy));
        self.without_leaves.insert(name.to_owned(), now);
        Ok(leaves_for_people(name))
    }

    /// Whom it does not wait for, for people.
    pub fn left_out(&self) -> Vec<String> {
        let proxies = self.without.iter().map(|one| for_people(one));
        proxies.chain(self.without_leaves.keys().map(|identity| leaves_for_people(identity))).collect()
    }

    /// Whether no gate waits for this proxy.
    pub(in crate::ca) fn is_left_out(&self, waiting: &Waiting) -> bool {
        proxy(waiting).is_some_and(|proxy| self.without.contains(&proxy))
    }

    /// Whether no gate waits for the end of this leaf.
    pub(super) fn is_leaf_left_out(&self, leaf: &LiveLeaf) -> bool {
        self.without_leaves.get(&leaf.identity).is_some_and(|until| leaf.issued <= *until)
    }
}

/// What a proxy is remembered by, when one is waited for.
fn proxy(waiting: &Waiting) -> Option<String> {
    Some(key(waiting.identity.as_deref()?, &waiting.who, waiting.node.as_deref()?))
}

/// The one proxy that is called so.
fn find(name: &str, waiting: &[Waiting]) -> Result<String, Refusal> {
    let called = |one: &&Waiting| {
        let node = one.node.as_deref();
        node.is_some() && (node == Some(name) || one.who == name || served(&one.who) == Some(name))
    };
    let found: BTreeMap<String, &str> =
        waiting.iter().filter(called).filter_map(|one| Some((proxy(one)?, one.node.as_deref()?))).collect();
    let name = || name.to_owned();
    match found.len() {
        0 => Err(Refusal::NotWaited { name: name(), waiting: listed(waiting.iter().map(called_as)) }),
        1 => Ok(found.into_keys().next().unwrap_or_default()),
        many => {
            let nodes = listed(found.into_values().map(str::to_owned));
            Err(Refusal::Ambiguous { name: name(), many, nodes })
        }
    }
}

/// `shop/web-1` of `sidecar shop/web-1`.
fn served(title: &str) -> Option<&str> {
    title.split_whitespace().nth(1)
}

fn called_as(waiting: &Waiting) -> String {
    match &waiting.node {
        Some(node) => format!("{} (node {node})", waiting.who),
        None => waiting.who.clone(),
    }
}

fn for_people(proxy: &str) -> String {
    let mut parts = proxy.split(SEPARATOR).skip(1);
    format!("{} (node {})", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn leaves_for_people(identity: &str) -> String {
    format!("certificates of {identity} from before it was left out")
}

/// The first of them, each once, and how many more there are.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.dedup();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), more) {
        (true, _) => "nobody".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// How many a refusal names.
const NAMED: usize = 20;
