//! Which names of one type a client asked for: the rules of the xDS protocol on wildcards and names.

use std::collections::BTreeSet;

use sidegate_xds::resource::ResourceType;

/// The name that stands for every resource of a type.
const WILDCARD: &str = "*";

/// How many bytes of names one client may subscribe to for one type (D10).
const NAME_BYTES_LIMIT: usize = 16 * 1024 * 1024;

/// What one client asked for, of one type.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    requested: bool,
    /// Once a client named anything, an empty list no longer means "everything" (the legacy form).
    ever_named: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    name_bytes: usize,
}

/// Whether a client may ask for every resource of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wildcard {
    /// By naming nothing at first, or by `*`.
    Legacy,
    /// By `*`.
    Explicit,
    /// Not at all: `*` is no name.
    Never,
}

impl Wildcard {
    /// What holds for a type.
    pub(super) fn of(kind: ResourceType) -> Self {
        match kind {
            kind if kind.is_wildcard() => Self::Legacy,
            kind if kind.is_by_name_only() => Self::Never,
            _ => Self::Explicit,
        }
    }
}

/// What a request changed.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Whether this was the first request for the type on the stream.
    pub(super) first: bool,
    /// Names that must be answered, whether or not the client is thought to hold them.
    pub(super) owed: BTreeSet<String>,
    /// Names that the client no longer wants; empty when `lost_wildcard` says that all others are meant.
    pub(super) dropped: Vec<String>,
    /// Whether the wildcard subscription ended.
    pub(super) lost_wildcard: bool,
}

/// A client subscribed to more names than one stream may hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {NAME_BYTES_LIMIT} bytes of resource names on one stream")]
pub struct TooManyNames;

impl Subscription {
    /// Takes the names of one request. Subscriptions come before unsubscriptions, so that `*` in both lists
    /// means "nothing", as ztunnel uses it.
    pub(super) fn ask(
        &mut self,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        wildcard: Wildcard,
    ) -> Result<Asked, TooManyNames> {
        let mut asked = Asked { first: !self.requested, ..Asked::default() };
        self.requested = true;
        self.ever_named |= !subscribe.is_empty();
        if asked.first && !self.ever_named && wildcard == Wildcard::Legacy {
            self.wildcard = true;
        }
        let counts = |name: &String| wildcard != Wildcard::Never || name != WILDCARD;
        for name in subscribe.into_iter().filter(counts) {
            self.add(name, &mut asked)?;
        }
        for name in unsubscribe.into_iter().filter(counts) {
            self.drop_name(name, &mut asked);
        }
        Ok(asked)
    }

    fn add(&mut self, name: String, asked: &mut Asked) -> Result<(), TooManyNames> {
        if name == WILDCARD {
            self.wildcard = true;
            return Ok(());
        }
        if self.names.insert(name.clone()) {
            self.name_bytes += name.len();
        }
        asked.owed.insert(name);
        if self.name_bytes > NAME_BYTES_LIMIT { Err(TooManyNames) } else { Ok(()) }
    }

    fn drop_name(&mut self, name: String, asked: &mut Asked) {
        if name == WILDCARD {
            self.ever_named = true;
            asked.lost_wildcard |= self.wildcard;
            self.wildcard = false;
            // The client cannot know which of its names the wildcard brought: answer those that remain.
            asked.owed.extend(self.names.iter().cloned());
            return;
        }
        if self.names.remove(&name) {
            self.name_bytes -= name.len();
        }
        if self.wildcard {
            // Overlap: the client dropped its copy, the wildcard still covers the name.
            asked.owed.insert(name);
        } else {
            asked.owed.remove(&name);
            asked.dropped.push(name);
        }
    }

    /// Whether there was a request for the type on this stream.
    pub(super) fn is_requested(&self) -> bool {
        self.requested
    }

    /// Whether the client wants every resource of the type.
    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether the client wants this name.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The names that were asked for one by one.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_first_request_means_everything_for_wildcard_types_only() {
        let mut clusters = Subscription::default();
        clusters.ask(vec![], vec![], Wildcard::Legacy).unwrap();
        assert!(clusters.is_wildcard());
        let mut endpoints = Subscription::default();
        endpoints.ask(vec![], vec![], Wildcard::Explicit).unwrap();
        assert!(!endpoints.is_wildcard());
    }

    #[test]
    fn names_first_then_nothing_is_not_a_wildcard() {
        let mut subscription = Subscription::default();
        let asked = subscription.ask(names(&["a"]), vec![], Wildcard::Legacy).unwrap();
        assert!(asked.first && asked.owed.contains("a"));
        let asked = subscription.ask(vec![], names(&["a"]), Wildcard::Legacy).unwrap();
        assert_eq!(asked.dropped, names(&["a"]));
        subscription.ask(vec![], vec![], Wildcard::Legacy).unwrap();
        assert!(!subscription.is_wildcard() && !subscription.covers("a"));
    }

    #[test]
    fn a_name_on_top_of_the_legacy_wildcard_leaves_the_wildcard_in_place() {
        let mut subscription = Subscription::default();
        subscription.ask(vec![], vec![], Wildcard::Legacy).unwrap();
        subscription.ask(names(&["a"]), vec![], Wildcard::Legacy).unwrap();
        assert!(subscription.covers("b"));
        let asked = subscription.ask(vec![], names(&["a"]), Wildcard::Legacy).unwrap();
        assert!(asked.owed.contains("a"), "an unsubscribed name under a wildcard gets an answer");
        assert!(subscription.covers("a"));
    }

    #[test]
    fn a_wildcard_in_both_lists_is_nothing_and_stays_nothing() {
        let mut subscription = Subscription::default();
        subscription.ask(names(&["*"]), names(&["*"]), Wildcard::Legacy).unwrap();
        assert!(!subscription.covers("a"));
        subscription.ask(vec![], vec![], Wildcard::Legacy).unwrap();
        assert!(!subscription.covers("a"));
    }

    #[test]
    fn losing_the_wildcard_keeps_the_names_and_answers_them() {
        let mut subscription = Subscription::default();
        subscription.ask(names(&["*", "a"]), vec![], Wildcard::Legacy).unwrap();
        let asked = subscription.ask(vec![], names(&["*"]), Wildcard::Legacy).unwrap();
        assert!(asked.lost_wildcard && asked.owed.contains("a"));
        assert!(subscription.covers("a") && !subscription.covers("b"));
    }

    #[test]
    fn names_have_a_bound() {
        let mut subscription = Subscription::default();
        let long = "n".repeat(NAME_BYTES_LIMIT);
        assert!(subscription.ask(vec![long], vec![], Wildcard::Legacy).is_ok());
        assert_eq!(subscription.ask(names(&["a"]), vec![], Wildcard::Legacy).unwrap_err(), TooManyNames);
    }
}
