//! What a bootstrap says about the proxy itself: node, admin address, and what has no effect here.

use std::net::{IpAddr, SocketAddr};

use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::core::v3::address::Address as AddressKind;
use sidegate_xds::envoy::config::core::v3::node::UserAgentVersionType;
use sidegate_xds::envoy::config::core::v3::socket_address::PortSpecifier;
use sidegate_xds::envoy::config::core::v3::{Address, Node};
use sidegate_xds::google::protobuf::Value;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::json::Problem;

use super::flags::Flags;

/// Who this proxy is.
pub(super) fn node(bootstrap: &Bootstrap, flags: &Flags, has_ads: bool, problems: &mut Vec<Problem>) -> Node {
    let mut node = bootstrap.node.clone().unwrap_or_default();
    if let Some(id) = &flags.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &flags.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &flags.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    if has_ads && node.id.is_empty() {
        problems.push(problem(
            "node.id",
            "a control plane knows a proxy by its id: set it here or by --service-node",
        ));
    }
    if node.user_agent_name.is_empty() {
        "sidegate".clone_into(&mut node.user_agent_name);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        node.user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion(version));
    }
    let mark = Value { kind: Some(Kind::StringValue("1".to_owned())) };
    node.metadata.get_or_insert_default().fields.entry(OWN_MARK.to_owned()).or_insert(mark);
    node
}

/// Where the admin server listens. As in Envoy, only a section that gives an address makes one.
pub(super) fn admin(bootstrap: &Bootstrap, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let address = bootstrap.admin.as_ref()?.address.as_ref()?;
    match host_and_port(address) {
        Ok((host, port)) => match host.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => {
                let text = format!("expected an IP address, found {host:?}");
                problems.push(problem("admin.address.socket_address.address", text));
                None
            }
        },
        Err(text) => {
            problems.push(problem("admin.address", text));
            None
        }
    }
}

/// Host and port of an address that must be a TCP one.
pub(super) fn host_and_port(address: &Address) -> Result<(&str, u16), String> {
    let Some(AddressKind::SocketAddress(socket)) = &address.address else {
        return Err("only a `socket_address` is understood here".to_owned());
    };
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
            .map(|port| (socket.address.as_str(), port))
            .map_err(|_| format!("{port} is no port")),
        _ => Err("`port_value` is missing".to_owned()),
    }
}

/// Parts of the bootstrap that are understood but do nothing here, one warning each. What only tunes Envoy's own inside (watchdogs,
/// flush intervals, allocator) is not worth one.
#[allow(deprecated, reason = "an old field in an old file deserves the warning too")]
pub(super) fn ignored(bootstrap: &Bootstrap) -> Vec<String> {
    let resources = bootstrap.static_resources.as_ref();
    let parts = [
        ("static_resources.secrets", resources.is_some_and(|resources| !resources.secrets.is_empty())),
        ("hds_config", bootstrap.hds_config.is_some()),
        ("stats_sinks", !bootstrap.stats_sinks.is_empty()),
        ("stats_config", bootstrap.stats_config.is_some()),
        ("tracing", bootstrap.tracing.is_some()),
        (
            "layered_runtime",
            bootstrap.layered_runtime.as_ref().is_some_and(|runtime| !runtime.layers.is_empty()),
        ),
        ("bootstrap_extensions", !bootstrap.bootstrap_extensions.is_empty()),
        ("typed_dns_resolver_config", bootstrap.typed_dns_resolver_config.is_some()),
        ("config_sources", !bootstrap.config_sources.is_empty()),
        ("default_config_source", bootstrap.default_config_source.is_some()),
        ("application_log_config", bootstrap.application_log_config.is_some()),
        ("flags_path", !bootstrap.flags_path.is_empty()),
        ("header_prefix", !bootstrap.header_prefix.is_empty()),
    ];
    parts
        .iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(path, _)| format!("{path}: has no effect in this proxy"))
        .collect()
}

pub(super) fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), line: None, message: message.into() }
}

/// By this key in its node's metadata our control plane knows our proxy.
const OWN_MARK: &str = "SIDEGATE";
