//! What stands behind an `Any`: its type, through `TypedStruct` too, and the few lists of types that are treated alike.

use prost::Message;
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use sidegate_xds::google::protobuf::Any;

use super::problem::{Problem, fail};

/// Extensions that only watch: leaving them out changes no request. Istio puts them into every chain.
const TELEMETRY: [&str; 6] = [
    "io.istio.http.peer_metadata.Config",
    "envoy.tcp.metadataexchange.config.MetadataExchange",
    "envoy.extensions.network_filters.peer_metadata.Config",
    "envoy.extensions.network_filters.peer_metadata.UpstreamConfig",
    "stats.PluginConfig",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
];

/// The message type inside an `Any`: without the URL's host, and the inner type of a `TypedStruct`.
pub(crate) fn type_name(any: &Any) -> String {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if matches!(name, "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct") {
        let inner = TypedStruct::decode(any.value.as_slice()).unwrap_or_default();
        return inner.type_url.rsplit('/').next().unwrap_or_default().to_owned();
    }
    name.to_owned()
}

/// Whether leaving the extension out changes no request.
pub(crate) fn is_telemetry(any: &Any) -> bool {
    TELEMETRY.contains(&type_name(any).as_str())
}

/// Both `TypedStruct`s have the type's URL first; the value is of no use here.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
}

/// Accepts a missing or plaintext transport socket. What asks for TLS must never be taken for plaintext in silence.
pub(crate) fn is_plaintext(socket: Option<&core::TransportSocket>) -> Result<(), Problem> {
    let Some(socket) = socket else { return Ok(()) };
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return match socket.name.as_str() {
            "envoy.transport_sockets.raw_buffer" => Ok(()),
            name => fail(format!("{name} has no typed_config")),
        };
    };
    match type_name(any).as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(()),
        name if name.contains(".tls.") => fail("TLS is not possible here"),
        name => fail(format!("transport socket {name} is not supported")),
    }
}

/// Whether the source is the cluster by whose name a workload's own identity is asked for (Istio's agent answers there; here the proxy
/// does so itself).
pub(crate) fn is_own_identity(source: &core::ConfigSource) -> bool {
    use core::grpc_service::TargetSpecifier;
    let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &source.config_source_specifier else {
        return false;
    };
    let [service] = api.grpc_services.as_slice() else { return false };
    matches!(&service.target_specifier, Some(TargetSpecifier::EnvoyGrpc(grpc)) if grpc.cluster_name == OWN_IDENTITY)
}

/// Accepts ADS as a source of configuration.
pub(crate) fn is_ads(source: &core::ConfigSource) -> Result<(), Problem> {
    match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            fail("api_config_source is not supported: use ads, one stream for all")
        }
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_)) => {
            fail("files as a source are not supported yet: use ads")
        }
        None => fail("names no source: set ads"),
    }
}

/// The name of that cluster, as Istio has it.
const OWN_IDENTITY: &str = "sds-grpc";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_through_typed_structs() {
        let inner = TypedStruct { type_url: "type.googleapis.com/stats.PluginConfig".to_owned() };
        let type_url = "type.googleapis.com/udpa.type.v1.TypedStruct".to_owned();
        let any = Any { type_url, value: inner.encode_to_vec() };
        assert_eq!(type_name(&any), "stats.PluginConfig");
        assert!(is_telemetry(&any));
    }

    #[test]
    fn tls_is_no_plaintext() {
        let type_url =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".to_owned();
        let config = core::transport_socket::ConfigType::TypedConfig(Any { type_url, value: Vec::new() });
        let socket = core::TransportSocket { name: "x".to_owned(), config_type: Some(config) };
        assert_eq!(is_plaintext(Some(&socket)).unwrap_err().to_string(), "TLS is not possible here");
        assert!(is_plaintext(None).is_ok());
    }
}
