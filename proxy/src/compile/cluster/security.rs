//! A cluster's transport socket: plaintext or TLS, and which name is asked for.

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::extensions::upstreams::http::v3 as upstream;

use crate::cluster::{AskFor, Security};
use crate::compile::extension;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::tls::{Contexts, Wishes};

/// Finds out what the cluster's connections are secured with.
pub(crate) fn compile(
    cluster: &wire::Cluster,
    options: Option<&upstream::HttpProtocolOptions>,
    contexts: &mut Contexts,
) -> Result<Option<Security>, Problem> {
    let socket = socket(cluster)?;
    let options = options.and_then(|options| options.upstream_http_protocol_options.as_ref());
    let auto_sni = options.is_some_and(|options| options.auto_sni);
    let verify_name = options.is_some_and(|options| options.auto_san_validation);
    let override_header = options.is_some_and(|options| !options.override_auto_sni_header.is_empty());
    unsupported(&[("upstream_http_protocol_options.override_auto_sni_header", override_header)])?;
    let wishes = Wishes { cluster: cluster.name.as_str().into(), verify_name };
    let owner = format!("cluster {}", cluster.name);
    let Some((context, wire)) = contexts.client(&owner, socket, wishes).at("transport_socket")? else {
        return Ok(None);
    };
    let ask_for = match (auto_sni, wire.auto_host_sni) {
        (true, _) => AskFor::Authority,
        (false, true) => AskFor::Host,
        (false, false) => AskFor::Configured,
    };
    Ok(Some(Security { context, ask_for }))
}

/// The one transport socket of every endpoint. Matches that lead to plaintext everywhere change nothing; any other would secure some
/// endpoints otherwise than others.
fn socket(
    cluster: &wire::Cluster,
) -> Result<Option<&sidegate_xds::envoy::config::core::v3::TransportSocket>, Problem> {
    let own = cluster.transport_socket.as_ref();
    for (index, entry) in cluster.transport_socket_matches.iter().enumerate() {
        let place = format!("transport_socket_matches[{index}].transport_socket");
        let plain = extension::is_plaintext(entry.transport_socket.as_ref()).is_ok()
            && extension::is_plaintext(own).is_ok();
        if !plain && entry.transport_socket.as_ref() != own {
            return fail("TLS for some endpoints only is not supported yet: use transport_socket").at(place);
        }
    }
    Ok(own)
}
