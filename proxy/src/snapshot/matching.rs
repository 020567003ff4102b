//! Which filter chain is a connection for? Envoy's order, level by level, without going back: at each level the most specific value
//! that any chain of the level names is followed, and nothing but it (`envoy.config.listener.v3.FilterChainMatch`).

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;

/// What a chain asks of a connection; an empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Criteria {
    /// `destination_port`.
    pub(crate) destination_port: Option<u16>,
    /// `prefix_ranges`: of the address that the client connected to.
    pub(crate) destinations: Vec<Prefix>,
    /// `server_names`.
    pub(crate) server_names: Vec<ServerName>,
    /// `transport_protocol`: `tls` or `raw_buffer`, or a name that no inspector here tells.
    pub(crate) transport: Option<Box<str>>,
    /// `application_protocols`.
    pub(crate) protocols: Vec<Box<str>>,
    /// `direct_source_prefix_ranges`: of the connection's own other end.
    pub(crate) direct_sources: Vec<Prefix>,
    /// `source_type`.
    pub(crate) source_kind: SourceKind,
    /// `source_prefix_ranges`: of the client, which a PROXY header may name.
    pub(crate) sources: Vec<Prefix>,
    /// `source_ports`.
    pub(crate) source_ports: Vec<u16>,
}

impl Criteria {
    /// Places in the table that the chain takes: one for each combination.
    pub(crate) fn combinations(&self) -> usize {
        let lists = [
            self.destinations.len(),
            self.server_names.len(),
            self.protocols.len(),
            self.direct_sources.len(),
            self.sources.len(),
            self.source_ports.len(),
        ];
        lists.iter().fold(1, |product: usize, length| product.saturating_mul((*length).max(1)))
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The range of all addresses that share the first `length` bits; at most 32 bits of an IPv4 address and 128 of an IPv6 one count.
    pub(crate) fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Self { address: masked(address, length), length }
    }

    /// Whether the address is in the range.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.address
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// One of `server_names`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// This name.
    Exact(Box<str>),
    /// Every name that ends like this, the leading dot included: `*.example.com` is `.example.com`.
    Suffix(Box<str>),
}

/// `source_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// Wherever it comes from.
    #[default]
    Any,
    /// From this host: the loopback, or the address that it connected to.
    Local,
    /// From another host.
    External,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// Where it wanted to go: the original destination, or the local address.
    pub(crate) destination: SocketAddr,
    /// The other end of the connection itself.
    pub(crate) direct_source: SocketAddr,
    /// The client: what a PROXY header says, or the other end.
    pub(crate) source: SocketAddr,
    /// What its first bytes tell; `None` when nobody has looked yet.
    pub(crate) told: Option<Told<'a>>,
}

/// What a connection's first bytes tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    /// The name in the ClientHello, in lower case; empty when there is none.
    pub(crate) server_name: &'a str,
    /// `tls`, or `raw_buffer` for everything else.
    pub(crate) transport: &'a str,
    /// ALPN of the ClientHello, or what an HTTP inspector found; the client's order.
    pub(crate) protocols: &'a [Box<str>],
}

impl Told<'_> {
    /// A connection whose first bytes say nothing.
    pub(crate) const NOTHING: Self = Told { server_name: "", transport: RAW, protocols: &[] };
}

/// `transport_protocol` of what is not TLS.
pub(crate) const RAW: &str = "raw_buffer";

/// `transport_protocol` of TLS.
pub(crate) const TLS: &str = "tls";

/// What a look into the table gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This chain.
    Chain(usize),
    /// None.
    Nothing,
    /// The first bytes decide.
    NeedsBytes,
}

/// The table of chains, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    ports: Keyed<u16, Prefixes<Servers>>,
}

type Servers = Names<Keyed<Box<str>, Keyed<Box<str>, Sources>>>;
type Sources = Prefixes<Kinds<Prefixes<Keyed<u16, Leaf>>>>;

impl Matcher {
    /// Adds a chain.
    ///
    /// # Errors
    /// The number of the chain that takes connections that this one would take too.
    pub(crate) fn insert(&mut self, criteria: &Criteria, chain: usize) -> Result<(), usize> {
        let port: Vec<u16> = criteria.destination_port.into_iter().collect();
        let transport: Vec<Box<str>> = criteria.transport.iter().cloned().collect();
        self.ports.each(&port, &mut |destinations| {
            destinations.each(&criteria.destinations, &mut |names| {
                names.each(&criteria.server_names, &mut |transports| {
                    transports.each(&transport, &mut |protocols| {
                        protocols
                            .each(&criteria.protocols, &mut |sources| insert_source(sources, criteria, chain))
                    })
                })
            })
        })
    }

    /// The chain of a connection. Bytes are asked for only where some chain that the addresses leave depends on them.
    pub(crate) fn find(&self, facts: &Facts<'_>) -> Found {
        let servers = self.ports.get(&facts.destination.port());
        let Some(servers) = servers.and_then(|destinations| destinations.get(facts.destination.ip())) else {
            return Found::Nothing;
        };
        let sources = match &facts.told {
            Some(told) => servers
                .get(told.server_name)
                .and_then(|transports| transports.get(told.transport))
                .and_then(|protocols| protocols.first(told.protocols)),
            None => {
                let Ok(transports) = servers.only() else { return Found::NeedsBytes };
                let Ok(protocols) = transports.map_or(Ok(None), Keyed::only) else {
                    return Found::NeedsBytes;
                };
                let Ok(sources) = protocols.map_or(Ok(None), Keyed::only) else { return Found::NeedsBytes };
                sources
            }
        };
        match sources.and_then(|sources| find_source(sources, facts)) {
            Some(chain) => Found::Chain(chain),
            None => Found::Nothing,
        }
    }
}

fn insert_source(sources: &mut Sources, criteria: &Criteria, chain: usize) -> Result<(), usize> {
    sources.each(&criteria.direct_sources, &mut |kinds| {
        let sources = kinds.0[criteria.source_kind as usize].get_or_insert_default();
        sources.each(&criteria.sources, &mut |ports| {
            ports.each(&criteria.source_ports, &mut |leaf| match *leaf.0.get_or_insert(chain) {
                taken if taken == chain => Ok(()),
                taken => Err(taken),
            })
        })
    })
}

fn find_source(sources: &Sources, facts: &Facts<'_>) -> Option<usize> {
    let kinds = sources.get(facts.direct_source.ip())?;
    let [any, local, external] = &kinds.0;
    let specific = if is_local(facts) { local } else { external };
    let sources = specific.as_deref().or(any.as_deref())?;
    sources.get(facts.source.ip())?.get(&facts.source.port())?.0
}

/// Whether the client is on this host, as Envoy has it: it comes from the loopback, or from the very address that it connected to.
fn is_local(facts: &Facts<'_>) -> bool {
    facts.source.ip().is_loopback() || facts.source.ip() == facts.destination.ip()
}

/// A level of exact values, and what asks nothing there.
#[derive(Debug)]
struct Keyed<K, T> {
    exact: FxHashMap<K, T>,
    any: Option<Box<T>>,
}

impl<K, T> Default for Keyed<K, T> {
    fn default() -> Self {
        Self { exact: FxHashMap::default(), any: None }
    }
}

type Visit<'a, T> = &'a mut dyn FnMut(&mut T) -> Result<(), usize>;

impl<K: Eq + Hash + Clone, T: Default> Keyed<K, T> {
    fn each(&mut self, keys: &[K], visit: Visit<'_, T>) -> Result<(), usize> {
        if keys.is_empty() {
            return visit(self.any.get_or_insert_default());
        }
        keys.iter().try_for_each(|key| visit(self.exact.entry(key.clone()).or_default()))
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        K: std::borrow::Borrow<Q>,
    {
        // Most levels name nothing.
        let exact = if self.exact.is_empty() { None } else { self.exact.get(key) };
        exact.or(self.any.as_deref())
    }

    /// What asks nothing, when there is nothing else.
    fn only(&self) -> Result<Option<&T>, Undecided> {
        if self.exact.is_empty() { Ok(self.any.as_deref()) } else { Err(Undecided) }
    }
}

impl<T: Default> Keyed<Box<str>, T> {
    /// What the first of the keys that is there leads to.
    fn first(&self, keys: &[Box<str>]) -> Option<&T> {
        let exact = || keys.iter().find_map(|key| self.exact.get(key));
        if self.exact.is_empty() { self.any.as_deref() } else { exact().or(self.any.as_deref()) }
    }
}

/// The level's values depend on what is not known yet.
struct Undecided;

/// A level of address ranges: the longest one that holds the address is followed.
#[derive(Debug)]
struct Prefixes<T> {
    /// By length, the longest first, IPv4 and IPv6 apart.
    lengths: [Vec<(u8, FxHashMap<IpAddr, T>)>; 2],
    any: Option<Box<T>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { lengths: Default::default(), any: None }
    }
}

impl<T: Default> Prefixes<T> {
    fn each(&mut self, ranges: &[Prefix], visit: Visit<'_, T>) -> Result<(), usize> {
        if ranges.is_empty() {
            return visit(self.any.get_or_insert_default());
        }
        ranges.iter().try_for_each(|range| visit(self.entry(*range)))
    }

    fn entry(&mut self, range: Prefix) -> &mut T {
        let lengths = &mut self.lengths[usize::from(range.address.is_ipv6())];
        let place = match lengths.binary_search_by(|(length, _)| range.length.cmp(length)) {
            Ok(place) => place,
            Err(place) => {
                lengths.insert(place, (range.length, FxHashMap::default()));
                place
            }
        };
        lengths[place].1.entry(range.address).or_default()
    }

    fn get(&self, address: IpAddr) -> Option<&T> {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        let longest = lengths.iter().find_map(|(length, ranges)| ranges.get(&masked(address, *length)));
        longest.or(self.any.as_deref())
    }
}

/// The level of server names.
#[derive(Debug)]
struct Names<T> {
    exact: FxHashMap<Box<str>, T>,
    suffixes: FxHashMap<Box<str>, T>,
    any: Option<Box<T>>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: FxHashMap::default(), suffixes: FxHashMap::default(), any: None }
    }
}

impl<T: Default> Names<T> {
    fn each(&mut self, names: &[ServerName], visit: Visit<'_, T>) -> Result<(), usize> {
        if names.is_empty() {
            return visit(self.any.get_or_insert_default());
        }
        names.iter().try_for_each(|name| {
            visit(match name {
                ServerName::Exact(name) => self.exact.entry(name.clone()).or_default(),
                ServerName::Suffix(name) => self.suffixes.entry(name.clone()).or_default(),
            })
        })
    }

    fn get(&self, name: &str) -> Option<&T> {
        if let Some(exact) = self.exact.get(name) {
            return Some(exact);
        }
        // From the second character on: `.example.com` itself is no name below example.com.
        let dots = name.char_indices().skip(1).filter(|(_, character)| *character == '.');
        let mut suffixes = dots.map(|(index, _)| &name[index..]).filter(|suffix| suffix.len() > 1);
        let longest = if self.suffixes.is_empty() {
            None
        } else {
            suffixes.find_map(|suffix| self.suffixes.get(suffix))
        };
        longest.or(self.any.as_deref())
    }

    fn only(&self) -> Result<Option<&T>, Undecided> {
        let named = !self.exact.is_empty() || !self.suffixes.is_empty();
        if named { Err(Undecided) } else { Ok(self.any.as_deref()) }
    }
}

/// The level of source kinds: any, local, external.
#[derive(Debug)]
struct Kinds<T>([Option<Box<T>>; 3]);

impl<T> Default for Kinds<T> {
    fn default() -> Self {
        Self([const { None }; 3])
    }
}

/// The chain.
#[derive(Debug, Default)]
struct Leaf(Option<usize>);

#[cfg(test)]
mod tests;
