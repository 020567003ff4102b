//! The filter chains of a listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::matching::{Criteria, Facts, Found, Matcher};
use super::{Http, Tcp};
use crate::filter::authz::Gate;
use crate::tls::ServerContext;

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Debug)]
pub(crate) struct FilterChain {
    /// Which chain this is, across updates of its listener.
    pub(crate) id: ChainId,
    /// `name`, or its place in the listener.
    pub(crate) name: Arc<str>,
    /// TLS; `None` is plaintext.
    pub(crate) security: Option<Security>,
    /// What its connections are for.
    pub(crate) road: Road,
    /// `rbac` network filters: who may have a connection.
    pub(crate) gate: Arc<Gate>,
    /// `connection_limit` network filter; `None` is the process bound alone.
    pub(crate) max_connections: Option<u32>,
    /// Connections open now, over all workers; carried over when the chain is updated.
    pub(crate) open: Arc<AtomicU32>,
}

impl FilterChain {
    /// The connection manager, unless connections are opaque.
    pub(crate) fn http(&self) -> Option<&Arc<Http>> {
        match &self.road {
            Road::Http(http) => Some(http),
            Road::Tcp(_) => None,
        }
    }

    /// `stat_prefix` of what it ends in.
    pub(crate) fn stat_prefix(&self) -> &Arc<str> {
        match &self.road {
            Road::Http(http) => &http.stat_prefix,
            Road::Tcp(tcp) => &tcp.stat_prefix,
        }
    }
}

/// How a chain's connections are secured.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    /// What handshakes use.
    pub(crate) context: Arc<ServerContext>,
    /// `transport_socket_connect_timeout`: how long a handshake may take.
    pub(crate) time_limit: Duration,
    /// Clients must show a certificate (`require_client_certificate`).
    pub(crate) mutual: bool,
}

/// A chain's identity: two forms of a chain are the same one when they match the same connections, secured the same way, on the
/// same road. Connections of a chain that is still there by this measure go on, served by its current form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChainId(u64);

impl ChainId {
    /// One that no other chain has.
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A number that no other chain has while the program runs.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// What a filter chain ends in.
#[derive(Debug)]
pub(crate) enum Road {
    /// `http_connection_manager`.
    Http(Arc<Http>),
    /// `tcp_proxy`.
    Tcp(Arc<Tcp>),
}

/// The chains of a listener, and which connection is for which.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    all: Vec<Arc<FilterChain>>,
    by_id: FxHashMap<ChainId, usize>,
    matcher: Matcher,
    /// `default_filter_chain`.
    default: Option<usize>,
    /// One of them is for mutual TLS.
    mutual: bool,
}

/// The chain for a connection.
#[derive(Debug)]
pub(crate) enum Choice<'a> {
    /// This one.
    Chain(&'a Arc<FilterChain>),
    /// There is none: the connection is closed.
    Nothing,
    /// Its first bytes must be looked at.
    NeedsBytes,
}

impl Chains {
    /// Adds a chain.
    ///
    /// # Errors
    /// The place of the chain that takes connections that this one would take too.
    pub(crate) fn add(&mut self, criteria: &Criteria, chain: Arc<FilterChain>) -> Result<(), usize> {
        self.matcher.insert(criteria, self.all.len())?;
        self.push(chain);
        Ok(())
    }

    /// Adds the chain for what no other one takes.
    pub(crate) fn set_default(&mut self, chain: Arc<FilterChain>) {
        self.default = Some(self.all.len());
        self.push(chain);
    }

    fn push(&mut self, chain: Arc<FilterChain>) {
        self.mutual |= chain.security.as_ref().is_some_and(|security| security.mutual);
        self.by_id.insert(chain.id, self.all.len());
        self.all.push(chain);
    }

    /// The chain for a connection.
    pub(crate) fn choose(&self, facts: &Facts<'_>) -> Choice<'_> {
        let place = match self.matcher.find(facts) {
            Found::Chain(place) => Some(place),
            Found::Nothing => self.default,
            Found::NeedsBytes => return Choice::NeedsBytes,
        };
        place.and_then(|place| self.all.get(place)).map_or(Choice::Nothing, Choice::Chain)
    }

    /// Whether one of them is for mutual TLS.
    pub(crate) fn has_mutual(&self) -> bool {
        self.mutual
    }

    /// Whether a connection of a client that proves nothing comes where others must prove who they are.
    pub(crate) fn accepts_unproven(&self, chain: &FilterChain) -> bool {
        self.mutual && chain.security.is_none()
    }

    /// The current form of a chain; `None` when it is gone.
    pub(crate) fn get(&self, id: ChainId) -> Option<&Arc<FilterChain>> {
        self.by_id.get(&id).and_then(|place| self.all.get(*place))
    }

    /// Every chain, the default one last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.all.iter()
    }
}

impl FromIterator<(Criteria, Arc<FilterChain>)> for Chains {
    /// A table of chains; one that takes what another one takes already is left out.
    fn from_iter<I: IntoIterator<Item = (Criteria, Arc<FilterChain>)>>(chains: I) -> Self {
        let mut all = Self::default();
        for (criteria, chain) in chains {
            let _ = all.add(&criteria, chain);
        }
        all
    }
}
