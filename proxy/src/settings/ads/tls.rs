//! TLS to the control plane: the `transport_socket` of its static cluster.

use std::path::PathBuf;
use std::sync::Arc;

use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::transport_socket::ConfigType;
use sidegate_xds::envoy::config::core::v3::{self as core, data_source::Specifier};
use sidegate_xds::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;
use sidegate_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use sidegate_xds::json::Problem;
use sidegate_xds::resource::from_any;

use super::super::bootstrap::problem;

/// How the control plane is to prove itself, and how we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsTls {
    /// `trusted_ca`.
    pub roots: Source,
    /// `sni`: what is asked for; what must be in the certificate too, unless `names` say otherwise.
    pub server_name: Option<String>,
    /// `match_typed_subject_alt_names`: one of them must be there.
    pub names: Vec<AdsName>,
    /// What we show.
    pub certificate: AdsCertificate,
}

/// Bytes in a file, which is read again at each connection, or in the bootstrap itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The bytes themselves.
    Inline(Arc<[u8]>),
}

/// A name that must be in the control plane's certificate, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdsName {
    /// A DNS name.
    Dns(String),
    /// A URI.
    Uri(String),
}

/// The certificate that we show to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdsCertificate {
    /// None, or the proxy's own identity where it has one.
    Own,
    /// One of the bootstrap's.
    Given {
        /// The chain.
        chain: Source,
        /// Its key.
        key: Source,
    },
}

/// Reads the cluster's transport socket; `None` for plaintext.
pub(super) fn extract(
    cluster: &Cluster,
    path: &str,
    has_identity: bool,
    problems: &mut Vec<Problem>,
) -> Option<AdsTls> {
    let socket = cluster.transport_socket.as_ref()?;
    let path = format!("{path}.transport_socket");
    match read(socket, has_identity) {
        Ok(tls) => tls,
        Err((field, text)) => {
            let field = if field.is_empty() { path } else { format!("{path}.typed_config.{field}") };
            problems.push(problem(field, text));
            None
        }
    }
}

type Wrong = (String, String);

fn wrong<T>(field: &str, text: impl Into<String>) -> Result<T, Wrong> {
    Err((field.to_owned(), text.into()))
}

fn read(socket: &core::TransportSocket, has_identity: bool) -> Result<Option<AdsTls>, Wrong> {
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return wrong("", "has no typed_config: write an UpstreamTlsContext, or leave it out for plaintext");
    };
    if from_any::<RawBuffer>(any).is_ok() {
        return Ok(None);
    }
    let Ok(context) = from_any::<wire::UpstreamTlsContext>(any) else {
        return wrong("", "write an UpstreamTlsContext for TLS to the control plane");
    };
    let common = context.common_tls_context.unwrap_or_default();
    let (roots, names) = validation(&common)?;
    let server_name = Some(context.sni).filter(|name| !name.is_empty());
    if names.is_empty() && server_name.is_none() {
        return wrong(
            "sni",
            "is required, or match_typed_subject_alt_names: any certificate of trusted_ca would do for the control plane",
        );
    }
    let certificate = certificate(&common, has_identity)?;
    Ok(Some(AdsTls { roots, server_name, names, certificate }))
}

const VALIDATION: &str = "common_tls_context.validation_context";

fn validation(common: &wire::CommonTlsContext) -> Result<(Source, Vec<AdsName>), Wrong> {
    use wire::common_tls_context::ValidationContextType as Type;
    let context = match &common.validation_context_type {
        Some(Type::ValidationContext(context)) => context,
        Some(_) => {
            return wrong(
                VALIDATION,
                "write validation_context with a trusted_ca: who vouches for the control plane cannot come from it",
            );
        }
        None => return wrong(VALIDATION, "is required: nothing would prove who the control plane is"),
    };
    let known = wire::CertificateValidationContext {
        trusted_ca: context.trusted_ca.clone(),
        match_typed_subject_alt_names: context.match_typed_subject_alt_names.clone(),
        ..wire::CertificateValidationContext::default()
    };
    if known != *context {
        let text = "has more than trusted_ca and match_typed_subject_alt_names, which is all that is understood here";
        return wrong(VALIDATION, text);
    }
    let Some(roots) = &context.trusted_ca else {
        return wrong(
            &format!("{VALIDATION}.trusted_ca"),
            "is required: nothing would prove who the control plane is",
        );
    };
    let roots = source(roots, &format!("{VALIDATION}.trusted_ca"))?;
    let mut names = Vec::new();
    for (index, matcher) in context.match_typed_subject_alt_names.iter().enumerate() {
        use wire::subject_alt_name_matcher::SanType;
        let field = format!("{VALIDATION}.match_typed_subject_alt_names[{index}]");
        let pattern = matcher.matcher.as_ref().filter(|matcher| !matcher.ignore_case);
        let Some(MatchPattern::Exact(text)) = pattern.and_then(|matcher| matcher.match_pattern.as_ref())
        else {
            return wrong(&field, "write `matcher: {exact: …}`: the control plane has one name");
        };
        names.push(match matcher.san_type() {
            SanType::Dns => AdsName::Dns(text.clone()),
            SanType::Uri => AdsName::Uri(text.clone()),
            _ => return wrong(&field, "write `san_type: DNS` or `san_type: URI`"),
        });
    }
    Ok((roots, names))
}

fn certificate(common: &wire::CommonTlsContext, has_identity: bool) -> Result<AdsCertificate, Wrong> {
    let secrets = &common.tls_certificate_sds_secret_configs;
    match (common.tls_certificates.as_slice(), secrets.as_slice()) {
        ([], []) => Ok(AdsCertificate::Own),
        ([], [secret]) => {
            let field = "common_tls_context.tls_certificate_sds_secret_configs[0]";
            if secret.name != "default" {
                return wrong(
                    field,
                    "the proxy's own certificate is called `default`; no other can be shown here",
                );
            }
            if !has_identity {
                return wrong(field, crate::settings::NO_IDENTITY);
            }
            Ok(AdsCertificate::Own)
        }
        ([given], []) => {
            let field = "common_tls_context.tls_certificates[0]";
            let part = |part: &Option<core::DataSource>, name: &str| match part {
                Some(part) => source(part, &format!("{field}.{name}")),
                None => wrong(&format!("{field}.{name}"), "is required"),
            };
            Ok(AdsCertificate::Given {
                chain: part(&given.certificate_chain, "certificate_chain")?,
                key: part(&given.private_key, "private_key")?,
            })
        }
        _ => wrong("common_tls_context", "a client shows one certificate"),
    }
}

fn source(source: &core::DataSource, field: &str) -> Result<Source, Wrong> {
    match &source.specifier {
        Some(Specifier::Filename(name)) => match std::fs::File::open(name) {
            Ok(_) => Ok(Source::File(name.into())),
            Err(error) => wrong(field, format!("cannot read {name}: {error}")),
        },
        Some(Specifier::InlineBytes(bytes)) => Ok(Source::Inline(bytes.as_slice().into())),
        Some(Specifier::InlineString(text)) => Ok(Source::Inline(text.as_bytes().into())),
        _ => wrong(field, "write filename, inline_string or inline_bytes"),
    }
}

impl Source {
    /// The bytes as they are now.
    ///
    /// # Errors
    /// When the file cannot be read: its name and why.
    pub fn read(&self) -> Result<Arc<[u8]>, String> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => super::super::read_bounded(path).map(Into::into),
        }
    }
}
