//! ExternalAuthorizationPolicy → the filters that ask a service about each request.

use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::{GrpcService, HttpUri, grpc_service, http_uri};
use sidegate_xds::envoy::config::listener::v3::{Filter, filter};
use sidegate_xds::envoy::config::rbac::v3::Rbac;
use sidegate_xds::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationResponse, BufferSettings, ExtAuthz, HttpService, ext_authz,
};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use sidegate_xds::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher};
use sidegate_xds::envoy::r#type::v3::HttpStatus;
use sidegate_xds::resource::to_any;

use super::super::normal::duration;
use super::super::verdict::{Problem, RESOLVED_REFS, Subject, Verdicts, name_of};
use super::super::{grants, service, wire};
use crate::model::access::external::{ExternalAuthorizationPolicy, Http, Protocol};
use crate::model::{Name, View};

/// The kind, in verdicts and in ReferenceGrants.
pub(super) const KIND: &str = "ExternalAuthorizationPolicy";

/// How long a service may take, where nothing is said. (Envoy's own 200 ms are missed by one lost packet.)
const PATIENCE: Duration = Duration::from_secs(1);

/// A status above it is nobody's.
const FORBIDDEN: i32 = 403;

/// The filters of requests, one for each policy: all of them must agree.
pub(super) fn http(policies: &[&ExternalAuthorizationPolicy]) -> Vec<HttpFilter> {
    let filter = |policy: &&ExternalAuthorizationPolicy| HttpFilter {
        name: format!("envoy.filters.http.ext_authz.{}", name_of(&policy.metadata)),
        config_type: Some(http_filter::ConfigType::TypedConfig(to_any(&ask(policy)))),
        ..HttpFilter::default()
    };
    policies.iter().map(filter).collect()
}

/// Bytes that are no requests cannot be asked about: nothing passes, unless requests would without an answer.
pub(super) fn network(policies: &[&ExternalAuthorizationPolicy]) -> Option<Filter> {
    policies.iter().any(|policy| !policy.spec.fail_open).then(|| Filter {
        name: "envoy.filters.network.rbac.ext_authz".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(to_any(&NetworkRbac {
            // An `ALLOW` without policies.
            rules: Some(Rbac::default()),
            stat_prefix: "ext_authz.".to_owned(),
            ..NetworkRbac::default()
        }))),
    })
}

/// The Service port that a policy asks.
pub(super) fn backend(policy: &ExternalAuthorizationPolicy) -> (Name, u16) {
    let reference = &policy.spec.backend_ref;
    let own = name_of(&policy.metadata).namespace;
    (Name::new(reference.namespace.as_ref().unwrap_or(&own), reference.name.as_str()), reference.port)
}

/// Whether that may be asked and is there. Where not, the filter stands all the same, and nobody answers: it denies.
pub(super) fn resolve(view: &View, policy: &ExternalAuthorizationPolicy) -> Result<(Name, u16), Problem> {
    let (name, port) = backend(policy);
    let namespace = name_of(&policy.metadata).namespace;
    if !grants::allows_policy(view, KIND, &namespace, &name) {
        let text = format!(
            "spec.backendRef: no ReferenceGrant in namespace {} lets an {KIND} of namespace {namespace} refer to Service {name}",
            name.namespace
        );
        return Err(Problem::new("RefNotPermitted", text));
    }
    let missing = |text: String| Err(Problem::new("BackendNotFound", format!("spec.backendRef: {text}")));
    let Some(found) = view.services.get(&name) else {
        return missing(format!("Service {name} does not exist: requests are judged as spec.failOpen says"));
    };
    if service::is_external_name(found) {
        return missing(format!("Service {name} is of type ExternalName, which cannot be asked"));
    }
    match service::port(found, port) {
        Some(_) => Ok((name, port)),
        None => missing(format!("Service {name} has no TCP port {port}")),
    }
}

/// Says whether the service can be asked.
pub(super) fn examine(
    view: &View,
    subject: &Subject,
    policy: &ExternalAuthorizationPolicy,
    verdicts: &mut Verdicts,
) {
    if let Err(problem) = resolve(view, policy) {
        verdicts.note(subject, RESOLVED_REFS, problem);
    }
}

fn ask(policy: &ExternalAuthorizationPolicy) -> ExtAuthz {
    let spec = &policy.spec;
    let (name, port) = backend(policy);
    let cluster = service::cluster_name(&name, port);
    // Validation has read it.
    let timeout = spec.timeout.as_deref().and_then(|text| duration(text).ok()).unwrap_or(PATIENCE);
    let (services, seen) = match spec.protocol {
        Protocol::Grpc => {
            let seen = spec.grpc.as_ref().map(|grpc| &grpc.allowed_headers);
            (ext_authz::Services::GrpcService(by_grpc(cluster, &name, port, timeout)), seen)
        }
        Protocol::Http => {
            let http = spec.http.clone().unwrap_or_default();
            let service = by_http(cluster, &name, port, timeout, &http);
            (ext_authz::Services::HttpService(service), spec.http.as_ref().map(|http| &http.allowed_headers))
        }
    };
    ExtAuthz {
        services: Some(services),
        // transport_api_version: V3
        transport_api_version: 2,
        failure_mode_allow: spec.fail_open,
        // The app may know that nobody has looked.
        failure_mode_allow_header_add: spec.fail_open,
        status_on_error: Some(HttpStatus { code: spec.status_on_error.map_or(FORBIDDEN, i32::from) }),
        with_request_body: spec.forward_body.map(|body| BufferSettings {
            max_request_bytes: body.max_size,
            allow_partial_message: body.allow_partial,
            pack_as_bytes: true,
        }),
        allowed_headers: seen.filter(|names| !names.is_empty()).map(|names| one_of(names)),
        include_peer_certificate: true,
        ..ExtAuthz::default()
    }
}

fn by_grpc(cluster: String, name: &Name, port: u16, timeout: Duration) -> GrpcService {
    GrpcService {
        timeout: Some(wire::duration(timeout)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: cluster,
            authority: format!("{}:{port}", service::host(name)),
            ..grpc_service::EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    }
}

fn by_http(cluster: String, name: &Name, port: u16, timeout: Duration, http: &Http) -> HttpService {
    let heard = &http.allowed_response_headers;
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{}:{port}", service::host(name)),
            timeout: Some(wire::duration(timeout)),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster)),
        }),
        path_prefix: http.path.clone().unwrap_or_default(),
        authorization_response: (!heard.is_empty()).then(|| AuthorizationResponse {
            allowed_upstream_headers: Some(one_of(heard)),
            ..AuthorizationResponse::default()
        }),
        ..HttpService::default()
    }
}

fn one_of(names: &[String]) -> ListStringMatcher {
    let exactly = |name: &String| StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(name.to_ascii_lowercase())),
        ..StringMatcher::default()
    };
    ListStringMatcher { patterns: names.iter().map(exactly).collect() }
}
