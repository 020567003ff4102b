//! A cluster's transport sockets: plaintext or TLS, for which endpoints, and which name is asked for.

use std::sync::Arc;

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use sidegate_xds::envoy::config::core::v3::TransportSocket;
use sidegate_xds::envoy::extensions::upstreams::http::v3 as upstream;

use crate::cluster::{AskFor, Labels, MOST_MATCHES, Security, SocketMatch, Sockets};
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::tls::{Contexts, Wishes};
use crate::compile::value;

/// Finds out what the cluster's connections are secured with.
pub(crate) fn compile(
    cluster: &wire::Cluster,
    options: Option<&upstream::HttpProtocolOptions>,
    contexts: &mut Contexts,
) -> Result<Arc<Sockets>, Problem> {
    let options = options.and_then(|options| options.upstream_http_protocol_options.as_ref());
    let override_header = options.is_some_and(|options| !options.override_auto_sni_header.is_empty());
    unsupported(&[("upstream_http_protocol_options.override_auto_sni_header", override_header)])?;
    let wishes = Wishes {
        cluster: cluster.name.as_str().into(),
        verify_name: options.is_some_and(|options| options.auto_san_validation),
        denied: value::denied_identities(cluster.metadata.as_ref())?,
    };
    let auto_sni = options.is_some_and(|options| options.auto_sni);
    let mut making = Making { name: &cluster.name, wishes, auto_sni, contexts };
    let owner = format!("cluster {}", cluster.name);
    let own = making.security(&owner, cluster.transport_socket.as_ref()).at("transport_socket")?;
    let entries = &cluster.transport_socket_matches;
    if entries.len() > MOST_MATCHES {
        return fail(format!("has more than {MOST_MATCHES} entries")).at("transport_socket_matches");
    }
    let mut matches = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        matches.push(making.entry(entry).at(format_args!("transport_socket_matches[{index}]"))?);
    }
    Ok(Arc::new(Sockets::new(matches, own)))
}

struct Making<'a> {
    name: &'a str,
    wishes: Wishes,
    /// `auto_sni`.
    auto_sni: bool,
    contexts: &'a mut Contexts,
}

impl Making<'_> {
    fn entry(&mut self, wire: &TransportSocketMatch) -> Result<SocketMatch, Problem> {
        let mut labels = Labels::new();
        for (name, value) in wire.r#match.iter().flat_map(|wanted| &wanted.fields) {
            let Some(value) = value::plain(value) else {
                return fail("is not a plain value").at(format_args!("match.{name}"));
            };
            labels.insert(name.as_str().into(), value);
        }
        let owner = format!("cluster {}, match {}", self.name, wire.name);
        let security = self.security(&owner, wire.transport_socket.as_ref()).at("transport_socket")?;
        Ok(SocketMatch { name: wire.name.as_str().into(), labels, security })
    }

    fn security(
        &mut self,
        owner: &str,
        socket: Option<&TransportSocket>,
    ) -> Result<Option<Security>, Problem> {
        let made = self.contexts.client(owner, socket, self.wishes.clone())?;
        let Some((context, wire)) = made else { return Ok(None) };
        let ask_for = match (self.auto_sni, wire.auto_host_sni) {
            (true, _) => AskFor::Authority,
            (false, true) => AskFor::Host,
            (false, false) => AskFor::Configured,
        };
        Ok(Some(Security { context, ask_for }))
    }
}
