//! `upstream_proxy_protocol`: a transport socket around another one, which says who the client is before anything else.

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::core::v3::proxy_protocol_config::Version as WireVersion;
use sidegate_xds::envoy::config::core::v3::transport_socket::ConfigType;
use sidegate_xds::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use sidegate_xds::resource::from_any;

use crate::compile::extension;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::proxy_header::Version;

/// The cluster without the wrapper, and the version of the header; `None` when it has no such transport socket.
pub(super) fn compile(cluster: &wire::Cluster) -> Result<Option<(wire::Cluster, Version)>, Problem> {
    let Some(socket) = &cluster.transport_socket else { return Ok(None) };
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else { return Ok(None) };
    if extension::type_name(any) != KIND {
        return Ok(None);
    }
    let place = "transport_socket";
    let wrapper: ProxyProtocolUpstreamTransport =
        from_any(any).map_err(|error| Problem::new(error.to_string())).at(place)?;
    let config = wrapper.config.unwrap_or_default();
    unsupported(&[
        ("config.pass_through_tlvs", config.pass_through_tlvs.is_some()),
        ("config.added_tlvs", !config.added_tlvs.is_empty()),
        ("tlv_as_pool_key", wrapper.tlv_as_pool_key),
    ])
    .at(place)?;
    let Some(inner) = wrapper.transport_socket else {
        return fail("is required").at("transport_socket").at(place);
    };
    let version = match value::choice(config.version).at("config.version").at(place)? {
        WireVersion::V1 => Version::V1,
        WireVersion::V2 => Version::V2,
    };
    let mut cluster = cluster.clone();
    cluster.transport_socket = Some(inner);
    Ok(Some((cluster, version)))
}

const KIND: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
