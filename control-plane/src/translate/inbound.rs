//! A sidecar's port in front of its app: which connections it takes, and what becomes of them (ADR 11).
//!
//! | mode | mutual TLS of the mesh | plaintext | the app's own TLS |
//! |---|---|---|---|
//! | `PERMISSIVE` | served, the client's id is known | served, marked by having none | passed to the app untouched |
//! | `STRICT` | served | refused | refused, without a certificate of the mesh |
//! | `DISABLE`, and proxies that have no identity | – | served | not told from plaintext |
//!
//! Served means HTTP, unless a Service says that the port is opaque: then bytes are copied.

use std::net::IpAddr;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::TrafficDirection;
use sidegate_xds::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::listener::Filters;
use super::security::{Inside, MESH_PROTOCOLS};
use super::{cluster, listener, security, wire};

/// How long a client of an opaque port may be silent until it is taken for one of a protocol in which the server speaks first.
const SILENT_CLIENT: Duration = Duration::from_millis(500);

/// Which connections are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// All, and none is looked at.
    Plaintext,
    /// Those of the mesh by mutual TLS, and all others as they are.
    Any,
    /// Those of the mesh by mutual TLS, and no others.
    Mesh,
}

/// One pair of the Pod's annotation, and what is said about it.
#[derive(Debug)]
pub(super) struct Port<'a> {
    pub(super) app: u16,
    pub(super) sidecar: u16,
    pub(super) intake: Intake,
    /// Not HTTP.
    pub(super) opaque: bool,
    /// Who may ask for what, where there is HTTP.
    pub(super) access: Vec<HttpFilter>,
    /// Who may connect, where bytes are copied: nothing passes by HTTP's policies because it is not HTTP.
    pub(super) access_by_connection: Vec<Filter>,
    /// Whose certificates are refused.
    pub(super) denied: &'a [String],
}

impl Port<'_> {
    /// The listener.
    pub(super) fn listener(&self, address: IpAddr, routes: &RouteConfiguration) -> Listener {
        let name = format!("inbound|{}||", self.sidecar);
        let frame = Listener {
            address: wire::socket(address, self.sidecar),
            metadata: match self.intake {
                Intake::Plaintext => None,
                Intake::Any | Intake::Mesh => security::denied(self.denied, None),
            },
            ..listener::bare(&name, TrafficDirection::Inbound)
        };
        let plain = self.serve(&name, routes, false);
        match self.intake {
            Intake::Plaintext => Listener { default_filter_chain: Some(listener::for_all(plain)), ..frame },
            Intake::Mesh => Listener {
                listener_filters: vec![listener::tls_inspector()],
                filter_chains: vec![self.of_mesh(&name, routes)],
                ..frame
            },
            Intake::Any => Listener {
                listener_filters: vec![listener::tls_inspector()],
                // Who says nothing is no client of the mesh: it is served in the clear, rather than cut off.
                listener_filters_timeout: self.opaque.then(|| wire::duration(SILENT_CLIENT)),
                continue_on_listener_filters_timeout: true,
                filter_chains: vec![
                    self.of_mesh(&name, routes),
                    listener::chain("plaintext", over("raw_buffer"), None, plain),
                    listener::chain("app-tls", over("tls"), None, self.untouched(&name)),
                ],
                ..frame
            },
        }
    }

    fn of_mesh(&self, name: &str, routes: &RouteConfiguration) -> FilterChain {
        // Where there is nothing to be told apart, whoever shows a certificate of the mesh is served: so are gRPC's clients, which offer
        // `h2` alone. Bytes that are copied are another matter: the app's own TLS is not opened for it.
        let told_apart = self.opaque || self.intake == Intake::Any;
        let protocols = if told_apart { MESH_PROTOCOLS.as_slice() } else { &[] };
        let matching = FilterChainMatch {
            application_protocols: protocols.iter().map(|one| (*one).to_owned()).collect(),
            ..over("tls")
        };
        let inside = if self.opaque { Inside::Opaque } else { Inside::Http2 };
        let security = Some(security::from_mesh(inside));
        listener::chain("mesh", matching, security, self.serve(name, routes, true))
    }

    fn serve(&self, name: &str, routes: &RouteConfiguration, verified: bool) -> Vec<Filter> {
        if self.opaque {
            return self.untouched(name);
        }
        let filters = Filters { access: self.access.clone(), ..Filters::default() };
        vec![listener::to_app(name, routes.clone(), filters, verified)]
    }

    fn untouched(&self, name: &str) -> Vec<Filter> {
        let copying = listener::opaque(name, &cluster::inbound_name(self.app));
        self.access_by_connection.iter().cloned().chain([copying]).collect()
    }
}

fn over(transport: &str) -> FilterChainMatch {
    FilterChainMatch { transport_protocol: transport.to_owned(), ..FilterChainMatch::default() }
}
