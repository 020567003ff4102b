//! `ExtAuthz` → `filter::ext_authz::ExternalAuthorization`.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::core::v3::grpc_service::TargetSpecifier;
use sidegate_xds::envoy::extensions::filters::http::ext_authz::v3 as wire;
use sidegate_xds::envoy::r#type::matcher::v3::ListStringMatcher;
use sidegate_xds::google::protobuf::Any;
use wire::check_settings::ServiceOverride;
use wire::ext_authz::Services;
use wire::ext_authz_per_route::Override;

use super::decode;
use super::header;
use super::jwt;
use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::authorization::MOST_BODY;
use crate::filter::Predicate;
use crate::filter::ext_authz::{BodyRule, Disabled, ExternalAuthorization, HttpService, RouteCheck, Service};

/// Checks the filter. Accepted without effect: what is only counted or traced.
pub(crate) fn compile(any: &Any) -> Result<ExternalAuthorization, Problem> {
    let wire: wire::ExtAuthz = decode(any)?;
    refuse_unsupported(&wire)?;
    let (service, cluster, timeout) = match &wire.services {
        Some(Services::GrpcService(service)) => grpc(service).at("grpc_service")?,
        Some(Services::HttpService(service)) => http(service).at("http_service")?,
        None => return fail("grpc_service or http_service is required"),
    };
    let status = wire.status_on_error.as_ref().map(|status| status.code);
    let most = usize::try_from(wire.max_denied_response_body_bytes).unwrap_or(MOST_BODY);
    Ok(ExternalAuthorization {
        service,
        cluster,
        timeout,
        disabled: disabled(&wire)?,
        failure_allow: wire.failure_mode_allow,
        failure_header: wire.failure_mode_allow_header_add,
        status_on_error: self::status(status).at("status_on_error")?,
        body: wire.with_request_body.as_ref().map(body).transpose().at("with_request_body")?,
        reroute: wire.clear_route_cache,
        namespaces: wire.metadata_context_namespaces.iter().map(|name| name.as_str().into()).collect(),
        certificate: wire.include_peer_certificate,
        session: wire.include_tls_session,
        allowed: names(allowed(&wire)).at("allowed_headers")?,
        disallowed: names(wire.disallowed_headers.as_ref()).at("disallowed_headers")?,
        ingests: value::flag(wire.enable_dynamic_metadata_ingestion.as_ref(), true),
        most_denied_body: if most == 0 { MOST_BODY } else { most.min(MOST_BODY) },
    })
}

/// `ExtAuthzPerRoute`.
pub(crate) fn per_route(any: &Any) -> Result<RouteCheck, Problem> {
    let wire: wire::ExtAuthzPerRoute = decode(any)?;
    let settings = match wire.r#override {
        Some(Override::Disabled(true)) => {
            return Ok(RouteCheck { disabled: true, extensions: Vec::new(), body: None });
        }
        Some(Override::Disabled(false)) => return fail("must be true").at("disabled"),
        Some(Override::CheckSettings(settings)) => settings,
        None => return fail("says neither disabled nor check_settings"),
    };
    match &settings.service_override {
        None => {}
        Some(ServiceOverride::GrpcService(_)) => {
            return fail("is not supported yet").at("check_settings.grpc_service");
        }
        Some(ServiceOverride::HttpService(_)) => {
            return fail("is not supported yet").at("check_settings.http_service");
        }
    }
    let body = match (&settings.with_request_body, settings.disable_request_body_buffering) {
        (Some(_), true) => {
            return fail("with_request_body and disable_request_body_buffering exclude each other")
                .at("check_settings");
        }
        (Some(rule), false) => Some(Some(body(rule).at("check_settings.with_request_body")?)),
        (None, true) => Some(None),
        (None, false) => None,
    };
    let mut extensions: Vec<(String, String)> = settings.context_extensions.into_iter().collect();
    extensions.sort_unstable();
    Ok(RouteCheck { disabled: false, extensions, body })
}

fn refuse_unsupported(wire: &wire::ExtAuthz) -> Result<(), Problem> {
    unsupported(&[
        ("transport_api_version: V2", wire.transport_api_version == core::ApiVersion::V2 as i32),
        ("filter_enabled_metadata", wire.filter_enabled_metadata.is_some()),
        ("typed_metadata_context_namespaces", !wire.typed_metadata_context_namespaces.is_empty()),
        ("route_metadata_context_namespaces", !wire.route_metadata_context_namespaces.is_empty()),
        ("route_typed_metadata_context_namespaces", !wire.route_typed_metadata_context_namespaces.is_empty()),
        ("bootstrap_metadata_labels_key", !wire.bootstrap_metadata_labels_key.is_empty()),
        ("encode_raw_headers", wire.encode_raw_headers),
        ("decoder_header_mutation_rules", wire.decoder_header_mutation_rules.is_some()),
        ("shadow_mode", wire.shadow_mode),
    ])
}

fn disabled(wire: &wire::ExtAuthz) -> Result<Option<Disabled>, Problem> {
    let denies = wire.deny_at_disable.as_ref().and_then(|flag| flag.default_value.as_ref());
    let disabled = if value::flag(denies, false) { Disabled::Deny } else { Disabled::Allow };
    match value::runtime_fraction(wire.filter_enabled.as_ref(), value::ALL) {
        value::ALL => Ok(None),
        0 => Ok(Some(disabled)),
        _ => fail("other than 0 or 100 % is not supported yet").at("filter_enabled"),
    }
}

/// 403, as in Envoy; a success would make one of a failure.
fn status(code: Option<i32>) -> Result<StatusCode, Problem> {
    let Some(code) = code.filter(|code| *code != 0) else { return Ok(StatusCode::FORBIDDEN) };
    u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.is_client_error() || status.is_server_error())
        .ok_or_else(|| Problem::new(format!("{code} is not the status of a failure")).at("code"))
}

fn body(wire: &wire::BufferSettings) -> Result<BodyRule, Problem> {
    let most = usize::try_from(wire.max_request_bytes).unwrap_or(usize::MAX);
    if most == 0 || most > LONGEST_BODY {
        return fail(format!("must be from 1 to {LONGEST_BODY}")).at("max_request_bytes");
    }
    Ok(BodyRule { most, partial: wire.allow_partial_message, raw: wire.pack_as_bytes })
}

#[allow(deprecated, reason = "control planes still send the older field")]
fn allowed(wire: &wire::ExtAuthz) -> Option<&ListStringMatcher> {
    let older = match &wire.services {
        Some(Services::HttpService(service)) => {
            service.authorization_request.as_ref().and_then(|request| request.allowed_headers.as_ref())
        }
        _ => None,
    };
    wire.allowed_headers.as_ref().or(older)
}

fn grpc(wire: &core::GrpcService) -> Result<(Service, Arc<str>, Duration), Problem> {
    unsupported(&[("retry_policy", wire.retry_policy.is_some())])?;
    let target = match &wire.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return fail("is not supported: use envoy_grpc and a cluster").at("google_grpc");
        }
        None => return fail("is required").at("envoy_grpc"),
    };
    unsupported(&[
        ("envoy_grpc.retry_policy", target.retry_policy.is_some()),
        ("envoy_grpc.skip_envoy_headers", target.skip_envoy_headers),
    ])?;
    if target.cluster_name.is_empty() {
        return fail("is required").at("envoy_grpc.cluster_name");
    }
    let timeout = value::interval(wire.timeout.as_ref(), PATIENCE).at("timeout")?;
    let metadata = headers(&wire.initial_metadata).at("initial_metadata")?;
    let authority = match target.authority.as_str() {
        "" => authority(&target.cluster_name),
        text => text.parse().map_err(|_| Problem::new(format!("{text:?} is not an authority")))?,
    };
    Ok((Service::Grpc { authority, metadata }, target.cluster_name.as_str().into(), timeout.min(LONGEST)))
}

/// A cluster's name, as far as it can be an authority: of Istio's, the part that is the host.
fn authority(cluster: &str) -> Authority {
    let host = cluster.rsplit('|').next().unwrap_or_default();
    cluster.parse().or_else(|_| host.parse()).unwrap_or_else(|_| Authority::from_static("ext-authz"))
}

fn http(wire: &wire::HttpService) -> Result<(Service, Arc<str>, Duration), Problem> {
    unsupported(&[("retry_policy", wire.retry_policy.is_some())])?;
    let uri = wire.server_uri.as_ref().ok_or_else(|| Problem::new("is required").at("server_uri"))?;
    let place = jwt::place(uri).at("server_uri")?;
    let timeout = value::interval(uri.timeout.as_ref(), PATIENCE).at("server_uri.timeout")?;
    if !wire.path_prefix.is_empty() && !wire.path_override.is_empty() {
        return fail("path_prefix and path_override exclude each other");
    }
    let starts = |text: &str, field: &str| match text.starts_with('/') || text.is_empty() {
        true => Ok(()),
        false => fail("must start with /").at(field),
    };
    starts(&wire.path_prefix, "path_prefix")?;
    starts(&wire.path_override, "path_override")?;
    let path = match wire.path_override.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Problem::new("is not a path").at("path_override"))?),
    };
    let request = wire.authorization_request.as_ref();
    let response = wire.authorization_response.clone().unwrap_or_default();
    let service = HttpService {
        prefix: wire.path_prefix.as_str().into(),
        path,
        add: headers(request.map_or(&[][..], |request| &request.headers_to_add))
            .at("authorization_request.headers_to_add")?,
        upstream: names(response.allowed_upstream_headers.as_ref())?,
        upstream_append: names(response.allowed_upstream_headers_to_append.as_ref())?,
        client: names(response.allowed_client_headers.as_ref())?,
        client_on_success: names(response.allowed_client_headers_on_success.as_ref())?,
        metadata: names(response.dynamic_metadata_from_headers.as_ref())?,
    };
    Ok((Service::Http(Box::new(service)), place.cluster, timeout.min(LONGEST)))
}

/// A test of header names, which come in lower case.
fn names(wire: Option<&ListStringMatcher>) -> Result<Option<Predicate<[u8]>>, Problem> {
    let Some(wire) = wire else { return Ok(None) };
    let tests = wire.patterns.iter().enumerate();
    let tests =
        tests.map(|(index, pattern)| value::string_match(pattern).at(format_args!("patterns[{index}]")));
    let tests = tests.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Predicate::new(move |name: &[u8]| tests.iter().any(|test| test.matches(name)))))
}

fn headers(wire: &[core::HeaderValue]) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
    let read = |header: &core::HeaderValue| {
        let bytes =
            if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() };
        if header.raw_value.is_empty() && header.value.contains('%') {
            return fail("values with operators are not supported here");
        }
        let value = HeaderValue::from_bytes(bytes).map_err(|_| Problem::new("is not a header value"))?;
        Ok((header::name(&header.key)?, value))
    };
    wire.iter().enumerate().map(|(index, header)| read(header).at(format_args!("[{index}]"))).collect()
}

/// Envoy's default.
const PATIENCE: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);
/// Bytes of a request's body that a service may see.
const LONGEST_BODY: usize = 1 << 20;

#[cfg(test)]
mod tests;
