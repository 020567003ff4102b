//! How a cluster's connections are secured: by what the endpoint is (`transport_socket_matches`), or else as the cluster says for all.
//!
//! Which socket an endpoint has is asked for every request and looked up once: the endpoint remembers it.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHasher;

use super::{Endpoint, Security};

/// What `envoy.transport_socket_match` says of an endpoint, or asks of one: each value in a spelling of its own.
pub(crate) type Labels = BTreeMap<Box<str>, Box<str>>;

/// One of `transport_socket_matches`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketMatch {
    /// `name`.
    pub(crate) name: Arc<str>,
    /// `match`: an endpoint must have all of it. Nothing is asked of every endpoint.
    pub(crate) labels: Labels,
    /// TLS; `None` for plaintext.
    pub(crate) security: Option<Security>,
}

/// The sockets of a cluster.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Tells what an endpoint remembers of these from what it remembers of others; never 0.
    id: u64,
    matches: Vec<SocketMatch>,
    /// `transport_socket`; `None` for plaintext.
    own: Option<Security>,
}

impl Default for Sockets {
    /// Plaintext.
    fn default() -> Self {
        Self::new(Vec::new(), None)
    }
}

impl PartialEq for Sockets {
    fn eq(&self, other: &Self) -> bool {
        self.matches == other.matches && self.own == other.own
    }
}

impl Sockets {
    /// In the order of the matches, the first that an endpoint meets; or else the cluster's own.
    pub(crate) fn new(matches: Vec<SocketMatch>, own: Option<Security>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), matches, own }
    }

    /// What connections to the endpoint are secured with; `None` is plaintext.
    pub(crate) fn of(&self, endpoint: &Endpoint) -> Option<&Security> {
        if self.matches.is_empty() {
            return self.own.as_ref();
        }
        match self.matches.get(self.place(endpoint)) {
            Some(met) => met.security.as_ref(),
            None => self.own.as_ref(),
        }
    }

    /// What it is called, for pages: the match's name, or whose it is.
    pub(crate) fn name_of(&self, endpoint: &Endpoint) -> &str {
        match self.matches.get(self.place(endpoint)) {
            Some(met) => &met.name,
            None if self.own.is_some() => "transport_socket",
            None => "plaintext",
        }
    }

    /// Everything that connections may be secured with.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Security> {
        self.matches.iter().filter_map(|met| met.security.as_ref()).chain(&self.own)
    }

    /// Differs when somebody may have been revoked, or is so no longer; never 0.
    pub(crate) fn revocation(&self) -> u64 {
        let mut hasher = FxHasher::default();
        self.all().for_each(|security| security.context.revocation().hash(&mut hasher));
        hasher.finish() | 1
    }

    /// The place of the first match; past the last one when there is none.
    fn place(&self, endpoint: &Endpoint) -> usize {
        let remembered = endpoint.socket.load(Ordering::Relaxed);
        if remembered >> PLACE_BITS == self.id {
            return (remembered & MOST_PLACES) as usize;
        }
        let found = self.find(endpoint.labels.as_deref());
        // Every thread finds the same; which one writes last does not matter.
        endpoint.socket.store((self.id << PLACE_BITS) | (found as u64), Ordering::Relaxed);
        found
    }

    fn find(&self, labels: Option<&Labels>) -> usize {
        let is_met = |entry: &SocketMatch| {
            let mut wanted = entry.labels.iter();
            wanted.all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
        };
        let met = self.matches.iter().position(is_met);
        met.unwrap_or(self.matches.len())
    }
}

/// Matches that a cluster may have: one for each identity behind a Service and more.
pub(crate) const MOST_MATCHES: usize = 10_000;
const PLACE_BITS: u32 = 16;
const MOST_PLACES: u64 = (1 << PLACE_BITS) - 1;
const _: () = assert!(MOST_MATCHES < MOST_PLACES as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::AskFor;
    use crate::tls::ClientContext;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn security() -> Security {
        Security { context: Arc::new(ClientContext::default()), ask_for: AskFor::Configured }
    }

    fn entry(name: &str, pairs: &[(&str, &str)], security: Option<Security>) -> SocketMatch {
        SocketMatch { name: name.into(), labels: labels(pairs), security }
    }

    fn endpoint(pairs: Option<&[(&str, &str)]>) -> Endpoint {
        let mut endpoint = Endpoint::new("127.0.0.1:80".parse().unwrap(), 1);
        endpoint.labels = pairs.map(|pairs| Arc::new(labels(pairs)));
        endpoint
    }

    #[test]
    fn the_first_match_whose_labels_an_endpoint_has_counts() {
        let sockets = Sockets::new(
            vec![
                entry("both", &[("a", "1"), ("b", "2")], Some(security())),
                entry("a", &[("a", "1")], None),
                entry("later", &[("a", "1")], Some(security())),
            ],
            Some(security()),
        );
        let name = |pairs: &[(&str, &str)]| sockets.name_of(&endpoint(Some(pairs))).to_owned();
        assert_eq!(name(&[("a", "1"), ("b", "2"), ("c", "3")]), "both");
        assert_eq!(name(&[("a", "1")]), "a");
        assert_eq!(name(&[("a", "1"), ("b", "3")]), "a");
        assert_eq!(name(&[("a", "2")]), "transport_socket");
        assert_eq!(name(&[]), "transport_socket");
        assert!(sockets.of(&endpoint(Some(&[("a", "1")]))).is_none(), "plaintext by a match");
        assert_eq!(sockets.of(&endpoint(None)), sockets.own.as_ref());
        let both = endpoint(Some(&[("a", "1"), ("b", "2")]));
        assert_eq!(sockets.of(&both), sockets.matches[0].security.as_ref());
        assert_eq!(sockets.all().count(), 3);
    }

    #[test]
    fn without_matches_there_is_one_socket_for_all() {
        assert!(Sockets::default().of(&endpoint(None)).is_none());
        assert_eq!(Sockets::default().name_of(&endpoint(None)), "plaintext");
        let sockets = Sockets::new(Vec::new(), Some(security()));
        assert!(sockets.of(&endpoint(Some(&[("a", "1")]))).is_some());
    }

    #[test]
    fn a_match_that_asks_nothing_is_met_by_every_endpoint() {
        let sockets = Sockets::new(vec![entry("any", &[], None)], Some(security()));
        assert_eq!(sockets.name_of(&endpoint(None)), "any");
        assert!(sockets.of(&endpoint(None)).is_none());
    }

    #[test]
    fn what_an_endpoint_remembers_holds_for_the_same_sockets_only() {
        let plain = Sockets::new(vec![entry("a", &[("a", "1")], None)], None);
        let secured = Sockets::new(vec![entry("x", &[("x", "1")], None)], Some(security()));
        let endpoint = endpoint(Some(&[("a", "1")]));
        for _ in 0..2 {
            assert_eq!(plain.name_of(&endpoint), "a");
            assert_eq!(secured.name_of(&endpoint), "transport_socket");
            assert!(secured.of(&endpoint).is_some(), "never plaintext where TLS is chosen");
        }
        assert_ne!(plain, secured);
    }
}
