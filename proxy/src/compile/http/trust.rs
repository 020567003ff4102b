//! What a connection manager believes of a request, and what it makes of its host, scheme and names.

use sidegate_xds::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use sidegate_xds::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use sidegate_xds::envoy::config::core::v3::{
    Http1ProtocolOptions, HttpProtocolOptions, scheme_header_transformation,
};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3 as wire;
use wire::http_connection_manager::StripPortMode;

use crate::compile::extension;
use crate::compile::listener::prefix;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::message::Scheme;
use crate::snapshot::{Forwarding, StripPort, Underscores};

/// `xff_num_trusted_hops`, `internal_address_config` and what belongs to them.
pub(super) fn forwarding(manager: &wire::HttpConnectionManager) -> Result<Forwarding, Problem> {
    let hops = u8::try_from(manager.xff_num_trusted_hops)
        .map_err(|_| Problem::new("more than 255 proxies in a row").at("xff_num_trusted_hops"))?;
    let mut internal = Vec::new();
    if let Some(config) = &manager.internal_address_config {
        unsupported(&[("unix_sockets", config.unix_sockets)]).at("internal_address_config")?;
        for (index, range) in config.cidr_ranges.iter().enumerate() {
            internal.push(prefix(range).at(format_args!("internal_address_config.cidr_ranges[{index}]"))?);
        }
    }
    Ok(Forwarding {
        trusted_hops: hops,
        skip_append: manager.skip_xff_append,
        append_port: manager.append_x_forwarded_port,
        internal,
    })
}

/// `headers_with_underscores_action`.
pub(super) fn underscores(common: Option<&HttpProtocolOptions>) -> Result<Underscores, Problem> {
    let action = common.map_or(0, |common| common.headers_with_underscores_action);
    let action = value::choice(action).at("common_http_protocol_options.headers_with_underscores_action")?;
    Ok(match action {
        HeadersWithUnderscoresAction::Allow => Underscores::Allow,
        HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
        HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
    })
}

/// `strip_any_host_port` goes beyond `strip_matching_host_port`.
pub(super) fn strip_port(manager: &wire::HttpConnectionManager) -> StripPort {
    match manager.strip_port_mode {
        Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
        _ if manager.strip_matching_host_port => StripPort::Matching,
        _ => StripPort::Never,
    }
}

/// `scheme_header_transformation`.
pub(super) fn scheme(manager: &wire::HttpConnectionManager) -> Result<Option<Scheme>, Problem> {
    let Some(transformation) = &manager.scheme_header_transformation else { return Ok(None) };
    unsupported(&[("match_upstream", transformation.match_upstream)]).at("scheme_header_transformation")?;
    match &transformation.transformation {
        None => Ok(None),
        Some(scheme_header_transformation::Transformation::SchemeToOverwrite(scheme)) => {
            match scheme.as_str() {
                "http" => Ok(Some(Scheme::Http)),
                "https" => Ok(Some(Scheme::Https)),
                other => fail(format!("{other:?} is neither http nor https"))
                    .at("scheme_header_transformation.scheme_to_overwrite"),
            }
        }
    }
}

/// `default_host_for_http_10`.
pub(super) fn default_host(
    options: Option<&Http1ProtocolOptions>,
) -> Result<Option<http::uri::Authority>, Problem> {
    match options.map(|options| options.default_host_for_http_10.as_str()) {
        None | Some("") => Ok(None),
        Some(host) => match host.parse() {
            Ok(authority) => Ok(Some(authority)),
            Err(_) => {
                fail(format!("{host:?} is not a host")).at("http_protocol_options.default_host_for_http_10")
            }
        },
    }
}

/// `header_key_format`: names keep their case here, which is what the one formatter that there is asks for.
pub(super) fn key_format(options: &Http1ProtocolOptions) -> Result<(), Problem> {
    let format = options.header_key_format.as_ref().and_then(|format| format.header_format.as_ref());
    let formatter = match format {
        None => return Ok(()),
        Some(HeaderFormat::ProperCaseWords(_)) => {
            return fail("is not supported: names keep their case").at("header_key_format.proper_case_words");
        }
        Some(HeaderFormat::StatefulFormatter(formatter)) => formatter,
    };
    let kind = formatter.typed_config.as_ref().map(extension::type_name).unwrap_or_default();
    if kind.ends_with("preserve_case.v3.PreserveCaseFormatterConfig") {
        return Ok(());
    }
    fail(format!("{kind} is not supported: names keep their case")).at("header_key_format.stateful_formatter")
}
