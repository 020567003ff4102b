//! A listener: where it is bound, what it asks of a connection before it looks for its filter chain, and listeners by address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::chain::Chains;

/// A listener (`envoy.config.listener.v3.Listener`).
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its name; "listeners are updated by name".
    pub(crate) name: Arc<str>,
    /// Where it is bound; `address` and `additional_addresses`.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Whether it is bound at all; `bind_to_port: false` is kept for traffic that other listeners hand over.
    pub(crate) bind: bool,
    /// How its sockets are made.
    pub(crate) socket: SocketSettings,
    /// What comes before a filter chain is chosen.
    pub(crate) preamble: Preamble,
    /// `use_original_dst`: a connection goes to the listener of its original destination, if there is one.
    pub(crate) hand_over: bool,
    /// What to do with a connection.
    pub(crate) chains: Chains,
    /// Whether traffic through it is inbound (towards the workload): Istio's `reporter` label.
    pub(crate) direction: Direction,
}

/// `traffic_direction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// Towards the workload: reporter `destination`.
    Inbound,
    /// From the workload, or a gateway: reporter `source`.
    #[default]
    Outbound,
}

/// How a listening socket is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketSettings {
    /// `transparent`: for connections to any address (TPROXY).
    pub(crate) transparent: bool,
    /// `freebind`: to an address that no interface has yet.
    pub(crate) freebind: bool,
    /// `ipv4_compat` of an IPv6 wildcard address: IPv4 too.
    pub(crate) dual_stack: bool,
    /// `tcp_backlog_size`.
    pub(crate) backlog: Option<u32>,
    /// `socket_options` of keep-alive: a probe after so much silence, so much between probes, so many probes.
    pub(crate) keepalive: Option<Keepalive>,
    /// `socket_options` TCP_USER_TIMEOUT: bytes that nobody acknowledges end a connection.
    pub(crate) user_timeout: Option<Duration>,
    /// `socket_options` SO_MARK.
    pub(crate) mark: Option<u32>,
}

/// TCP keep-alive; what is `None` is the system's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// TCP_KEEPIDLE.
    pub(crate) idle: Option<Duration>,
    /// TCP_KEEPINTVL.
    pub(crate) interval: Option<Duration>,
    /// TCP_KEEPCNT.
    pub(crate) probes: Option<u32>,
}

/// What comes before a filter chain is chosen: listener filters and their bound of time.
#[derive(Debug)]
pub(crate) struct Preamble {
    /// `listener_filters`, in order.
    pub(crate) filters: Vec<ListenerFilter>,
    /// `listener_filters_timeout`, default 15 s.
    pub(crate) timeout: Option<Duration>,
    /// `continue_on_listener_filters_timeout`: go on with what is known.
    pub(crate) goes_on_late: bool,
}

impl Default for Preamble {
    fn default() -> Self {
        Self { filters: Vec::new(), timeout: Some(Duration::from_secs(15)), goes_on_late: false }
    }
}

/// A listener filter, and for which connections it is left out.
#[derive(Debug)]
pub(crate) struct ListenerFilter {
    /// What it does.
    pub(crate) kind: Inspection,
    /// `filter_disabled`.
    pub(crate) disabled: Option<PortRule>,
}

/// What a listener filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inspection {
    /// `tls_inspector`: server name and ALPN of a ClientHello.
    Tls,
    /// `http_inspector`: the version of HTTP.
    Http,
    /// `original_dst`: where the connection went before it was redirected here.
    OriginalDestination,
    /// `proxy_protocol`: who is behind the load balancer that connects to us.
    ProxyHeader(ProxyHeaderRule),
}

/// Which PROXY headers are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyHeaderRule {
    /// `allow_requests_without_proxy_protocol`.
    pub(crate) optional: bool,
    /// Version 1 is not in `disallowed_versions`.
    pub(crate) v1: bool,
    /// Version 2 is not in `disallowed_versions`.
    pub(crate) v2: bool,
}

/// `ListenerFilterChainMatchPredicate`: a rule over destination ports.
#[derive(Debug)]
pub(crate) enum PortRule {
    /// Every port.
    Always,
    /// These ports.
    Ports(Range<u32>),
    /// One of them holds.
    Any(Vec<PortRule>),
    /// All of them hold.
    All(Vec<PortRule>),
    /// It does not hold.
    Not(Box<PortRule>),
}

impl PortRule {
    /// Whether it holds for a connection to that port.
    pub(crate) fn holds(&self, port: u16) -> bool {
        match self {
            Self::Always => true,
            Self::Ports(range) => range.contains(&u32::from(port)),
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(port)),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(port)),
            Self::Not(rule) => !rule.holds(port),
        }
    }
}

/// Listeners by address.
#[derive(Debug, Default)]
pub(crate) struct ByAddress {
    bound: FxHashMap<SocketAddr, Arc<Listener>>,
    all: FxHashMap<SocketAddr, Arc<Listener>>,
}

impl ByAddress {
    /// The table of these listeners. Of two on one address the first by name has it.
    pub(super) fn of<'a>(listeners: impl IntoIterator<Item = &'a Arc<Listener>>) -> Self {
        let mut sorted: Vec<_> = listeners.into_iter().collect();
        sorted.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut table = Self::default();
        for listener in sorted {
            for address in &listener.addresses {
                if listener.bind {
                    table.bound.entry(*address).or_insert_with(|| listener.clone());
                }
                table.all.entry(*address).or_insert_with(|| listener.clone());
            }
        }
        table
    }

    /// The listener that is bound to the address.
    pub(crate) fn bound(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.bound.get(&address)
    }

    /// Where listeners are bound, and how.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (SocketAddr, &SocketSettings)> {
        self.bound.iter().map(|(address, listener)| (*address, &listener.socket))
    }

    /// The listener for a connection that wanted to go to the address, bound or not: the one on exactly that address, or the one on
    /// its port of any address.
    pub(crate) fn for_destination(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let port = destination.port();
        let any = |ip: std::net::IpAddr| self.all.get(&SocketAddr::new(ip, port));
        self.all.get(&destination).or_else(|| match destination {
            SocketAddr::V4(_) => any(Ipv4Addr::UNSPECIFIED.into())
                .or_else(|| any(Ipv6Addr::UNSPECIFIED.into()).filter(|listener| listener.socket.dual_stack)),
            SocketAddr::V6(_) => any(Ipv6Addr::UNSPECIFIED.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, address: &str, bind: bool, dual_stack: bool) -> Arc<Listener> {
        Arc::new(Listener {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            bind,
            socket: SocketSettings { dual_stack, ..SocketSettings::default() },
            preamble: Preamble::default(),
            hand_over: false,
            chains: Chains::default(),
            direction: Direction::Outbound,
        })
    }

    #[test]
    fn destinations_exactly_then_by_port() {
        let listeners = [
            listener("catch-all", "0.0.0.0:15001", true, false),
            listener("exact", "10.0.0.1:80", false, false),
            listener("wildcard", "0.0.0.0:80", false, false),
            listener("both", "[::]:81", false, true),
            listener("six", "[::]:82", false, false),
        ];
        let table = ByAddress::of(&listeners);
        let found = |text: &str| table.for_destination(text.parse().unwrap()).map(|listener| &*listener.name);
        assert_eq!(found("10.0.0.1:80"), Some("exact"));
        assert_eq!(found("10.0.0.2:80"), Some("wildcard"));
        assert_eq!(found("10.0.0.2:81"), Some("both"));
        assert_eq!(found("[fd00::1]:81"), Some("both"));
        assert_eq!(found("10.0.0.2:82"), None);
        assert_eq!(found("[fd00::1]:80"), None);
        assert!(table.bound("10.0.0.1:80".parse().unwrap()).is_none());
        assert_eq!(table.sockets().count(), 1);
    }

    #[test]
    fn of_two_on_one_address_the_first_by_name_has_it() {
        let listeners =
            [listener("b", "10.0.0.1:80", true, false), listener("a", "10.0.0.1:80", true, false)];
        let table = ByAddress::of(&listeners);
        assert_eq!(&*table.bound("10.0.0.1:80".parse().unwrap()).unwrap().name, "a");
    }

    #[test]
    fn rules_over_ports() {
        let ports = || PortRule::Ports(80..82);
        assert!(ports().holds(80) && ports().holds(81) && !ports().holds(82));
        assert!(PortRule::Not(Box::new(ports())).holds(82));
        assert!(PortRule::Any(vec![ports(), PortRule::Always]).holds(9));
        assert!(!PortRule::All(vec![ports(), PortRule::Not(Box::new(PortRule::Always))]).holds(80));
    }
}
