//! TLS on the wire: what a proxy shows of itself, whom it believes, and what it offers (ADR 11).
//!
//! A workload's own certificate is the secret `default`, which it gets from what stands beside it, never from here. Whom it trusts is the
//! secret `ROOTCA`, which comes on the same stream as everything else, so that its acknowledgement says that it is in force.

use sidegate_xds::envoy::config::core::v3::api_config_source::ApiType;
use sidegate_xds::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use sidegate_xds::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, Metadata, TransportSocket,
    TypedExtensionConfig, config_source, data_source, transport_socket,
};
use sidegate_xds::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    SpiffeCertValidatorConfig, SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
    secret,
};
use sidegate_xds::google::protobuf::{Any, ListValue, Value, value};
use sidegate_xds::resource::to_any;
use sidegate_xds::spiffe::SpiffeId;

use super::wire;
use crate::model::Trust;

/// Whom a workload trusts.
pub(super) const ROOTS: &str = "ROOTCA";

/// A workload's own certificate.
const OWN: &str = "default";

/// The cluster at which a proxy finds its own certificate: our proxy answers this itself, an Envoy asks the agent beside it.
const AGENT: &str = "sds-grpc";

/// What a ClientHello offers that comes from a proxy of a mesh: a server tells by any of these that mutual TLS is meant, and not
/// the application's own.
pub(super) const MESH_PROTOCOLS: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// What stands inside of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Http1,
    Http2,
    Opaque,
}

/// Towards an endpoint that must prove to be exactly this.
pub(super) fn to_identity(id: &str, server_name: &str, inside: Inside) -> TransportSocket {
    let real: &[&str] = match inside {
        Inside::Http1 => &["http/1.1"],
        Inside::Http2 => &["h2"],
        Inside::Opaque => &[],
    };
    let offered = ["istio"].iter().chain(real).map(|protocol| (*protocol).to_owned());
    tls(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: only_tls13(),
            alpn_protocols: offered.collect(),
            tls_certificate_sds_secret_configs: vec![own()],
            validation_context_type: Some(exactly(id)),
            ..CommonTlsContext::default()
        }),
        sni: server_name.to_owned(),
        ..UpstreamTlsContext::default()
    })
}

/// Towards an endpoint of which nobody has said how it is to be spoken to: nobody has the id that is asked for, so that no connection
/// is made. Such an endpoint exists for a moment, when a change of clusters has arrived and that of endpoints has not.
pub(super) fn to_nobody(trust: &Trust) -> TransportSocket {
    tls(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: only_tls13(),
            validation_context_type: Some(exactly(&format!("spiffe://{}/nobody", trust.trust_domain))),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    })
}

/// In the clear.
pub(super) fn plaintext() -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(to_any(&RawBuffer::default()))),
    }
}

/// In front of an app: a client of the mesh must show a certificate that is trusted.
pub(super) fn from_mesh(inside: Inside) -> TransportSocket {
    let spoken: &[&str] = match inside {
        Inside::Http1 | Inside::Http2 => &["h2", "http/1.1"],
        Inside::Opaque => &["istio"],
    };
    tls(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: only_tls13(),
            alpn_protocols: spoken.iter().map(|protocol| (*protocol).to_owned()).collect(),
            tls_certificate_sds_secret_configs: vec![own()],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(by_ads(
                ROOTS,
            ))),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: wire::boolean(true),
        ..DownstreamTlsContext::default()
    })
}

/// What a Gateway's HTTPS listener shows and asks for: names of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// The certificates, one at least.
    pub(super) certificates: Vec<String>,
    /// Whom clients must be vouched for by, if they must show a certificate at all.
    pub(super) clients: Option<String>,
    /// TLS 1.2 is refused.
    pub(super) only_tls13: bool,
}

/// In front of a Gateway's routes.
pub(super) fn edge(edge: &Edge) -> TransportSocket {
    let from = if edge.only_tls13 { TlsProtocol::TlSv13 } else { TlsProtocol::TlSv12 };
    let clients = edge.clients.as_deref().map(by_ads);
    tls(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: versions(from),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            tls_certificate_sds_secret_configs: edge.certificates.iter().map(|name| by_ads(name)).collect(),
            validation_context_type: clients.map(ValidationContextType::ValidationContextSdsSecretConfig),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: edge.clients.as_ref().and_then(|_| wire::boolean(true)),
        ..DownstreamTlsContext::default()
    })
}

/// The secret `ROOTCA`: a bundle for each trust domain, so that none can vouch for ids of another.
pub(super) fn roots(trust: &Trust) -> Secret {
    let bundles = trust.bundles.iter().filter(|(_, bundle)| !bundle.is_empty());
    let trust_domains = bundles.map(|(domain, bundle)| TrustDomain {
        name: domain.clone(),
        trust_bundle: Some(inline(joined(bundle))),
        ..TrustDomain::default()
    });
    let validator =
        SpiffeCertValidatorConfig { trust_domains: trust_domains.collect(), ..Default::default() };
    validation(
        ROOTS,
        CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: "envoy.tls.cert_validator.spiffe".to_owned(),
                typed_config: Some(to_any(&validator)),
            }),
            crl: (!trust.revocation.is_empty()).then(|| inline(joined(&trust.revocation))),
            ..CertificateValidationContext::default()
        },
    )
}

/// Metadata that names those who are refused whatever certificate they show (ADR 12), beside what else there is to say. Ids that are none
/// are left out: a proxy refuses a list with one, and then the list denies nobody.
pub(super) fn denied(ids: &[String], beside: Option<Metadata>) -> Option<Metadata> {
    let is_id = |id: &&String| id.parse::<SpiffeId>().is_ok();
    let values = ids.iter().filter(is_id).take(MOST_DENIED).map(|id| wire::text(id)).collect::<Vec<_>>();
    if values.is_empty() {
        return beside;
    }
    let list = Value { kind: Some(value::Kind::ListValue(ListValue { values })) };
    let mut metadata = beside.unwrap_or_default();
    let own = metadata.filter_metadata.entry(wire::METADATA_KEY.to_owned()).or_default();
    own.fields.insert("denied_identities".to_owned(), list);
    Some(metadata)
}

/// How many ids a proxy takes in a list of those who are refused (ADR 12).
const MOST_DENIED: usize = 10_000;

/// A secret with those who vouch for the clients of a Gateway's port.
pub(super) fn client_roots(name: &str, certificates: &[String]) -> Secret {
    let trusted_ca = Some(inline(joined(certificates)));
    validation(name, CertificateValidationContext { trusted_ca, ..CertificateValidationContext::default() })
}

/// A secret with a certificate and its key.
pub(super) fn certificate(name: &str, chain: &[u8], key: &[u8]) -> Secret {
    let bytes = |bytes: &[u8]| DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    };
    let certificate = TlsCertificate {
        certificate_chain: Some(bytes(chain)),
        private_key: Some(bytes(key)),
        ..TlsCertificate::default()
    };
    Secret { name: name.to_owned(), r#type: Some(secret::Type::TlsCertificate(certificate)) }
}

fn validation(name: &str, context: CertificateValidationContext) -> Secret {
    Secret { name: name.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) }
}

/// PEM texts, one after the other, each ending with its line.
fn joined(texts: &[String]) -> String {
    texts.iter().map(|text| text.trim_end().to_owned() + "\n").collect()
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..DataSource::default() }
}

/// Whoever is trusted and has exactly this id.
fn exactly(id: &str) -> ValidationContextType {
    let own = CertificateValidationContext {
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: SanType::Uri.into(),
            matcher: Some(wire::exactly(id)),
            ..SubjectAltNameMatcher::default()
        }],
        ..CertificateValidationContext::default()
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(own),
        validation_context_sds_secret_config: Some(by_ads(ROOTS)),
        ..CombinedCertificateValidationContext::default()
    })
}

fn only_tls13() -> Option<TlsParameters> {
    versions(TlsProtocol::TlSv13)
}

fn versions(from: TlsProtocol) -> Option<TlsParameters> {
    Some(TlsParameters {
        tls_minimum_protocol_version: from.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..TlsParameters::default()
    })
}

fn by_ads(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: wire::ads() }
}

fn own() -> SdsSecretConfig {
    let agent = EnvoyGrpc { cluster_name: AGENT.to_owned(), ..EnvoyGrpc::default() };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(agent)),
            ..GrpcService::default()
        }],
        set_node_on_first_message_only: true,
        ..ApiConfigSource::default()
    };
    let config = ConfigSource {
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::ApiConfigSource(source)),
        ..wire::ads().unwrap_or_default()
    };
    SdsSecretConfig { name: OWN.to_owned(), sds_config: Some(config) }
}

fn tls<M: prost::Message + prost::Name>(context: &M) -> TransportSocket {
    let any: Any = to_any(context);
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any)),
    }
}
