use super::*;
use crate::compile::tests::fixture::yaml;

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";

fn any(kind: &str, text: &str) -> Any {
    use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
    let filter: manager::HttpFilter =
        yaml(&format!("{{name: f, typed_config: {{'@type': {TYPE}.{kind}, {text}}}}}"));
    match filter.config_type {
        Some(manager::http_filter::ConfigType::TypedConfig(any)) => any,
        _ => panic!("no typed_config"),
    }
}

fn read(text: &str) -> Result<ExternalAuthorization, String> {
    compile(&any("ExtAuthz", text)).map_err(|problem| problem.to_string())
}

const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: 'outbound|9000||authz.ns.svc'}}";

#[test]
fn defaults_fail_closed() {
    let filter = read(GRPC).unwrap();
    assert!(!filter.failure_allow && filter.disabled.is_none() && filter.body.is_none());
    assert_eq!((filter.status_on_error.as_u16(), filter.timeout), (403, Duration::from_millis(200)));
    let Service::Grpc { authority, .. } = &filter.service else { panic!("not gRPC") };
    assert_eq!((authority.as_str(), &*filter.cluster), ("authz.ns.svc", "outbound|9000||authz.ns.svc"));
    assert_eq!(filter.most_denied_body, MOST_BODY);
}

#[test]
fn everything_that_may_be_said() {
    let filter = read(
        "http_service: {server_uri: {uri: 'http://authz.test:9000', cluster: c, timeout: 1s}, path_prefix: /check, \
           authorization_request: {headers_to_add: [{key: x-a, value: b}]}, \
           authorization_response: {allowed_upstream_headers: {patterns: [{prefix: x-}]}}}, \
         transport_api_version: V3, failure_mode_allow: true, failure_mode_allow_header_add: true, \
         with_request_body: {max_request_bytes: 65536, allow_partial_message: true, pack_as_bytes: true}, \
         clear_route_cache: true, status_on_error: {code: ServiceUnavailable}, allowed_headers: {patterns: [{exact: x-b}]}, \
         filter_enabled: {default_value: {numerator: 0}}, deny_at_disable: {default_value: true, runtime_key: k}, \
         metadata_context_namespaces: [envoy.filters.http.jwt_authn], max_denied_response_body_bytes: 100",
    )
    .unwrap();
    assert!(filter.failure_allow && filter.reroute);
    assert_eq!(filter.body, Some(BodyRule { most: 65_536, partial: true, raw: true }));
    assert_eq!(filter.disabled, Some(Disabled::Deny));
    assert_eq!((filter.status_on_error.as_u16(), filter.most_denied_body), (503, 100));
    let Service::Http(service) = &filter.service else { panic!("not HTTP") };
    assert!(service.upstream.as_ref().is_some_and(|test| test.holds(b"x-y") && !test.holds(b"y")));
    assert_eq!((&*service.prefix, service.add.len()), ("/check", 1));
}

#[test]
fn refusals_say_what_and_where() {
    for (text, wanted) in [
        ("transport_api_version: V3".to_owned(), "grpc_service or http_service is required"),
        (format!("{GRPC}, transport_api_version: V2"), "transport_api_version: V2: is not supported yet"),
        (format!("{GRPC}, shadow_mode: true"), "shadow_mode: is not supported yet"),
        (
            format!(
                "{GRPC}, filter_enabled_metadata: {{filter: envoy.filters.http.rbac, path: [{{key: k}}], value: {{present_match: true}}}}"
            ),
            "filter_enabled_metadata: is not supported yet",
        ),
        (
            format!("{GRPC}, filter_enabled: {{default_value: {{numerator: 50}}}}"),
            "filter_enabled: other than 0 or 100 %",
        ),
        (
            format!("{GRPC}, status_on_error: {{code: OK}}"),
            "status_on_error.code: 200 is not the status of a failure",
        ),
        (
            format!("{GRPC}, with_request_body: {{max_request_bytes: 2000000}}"),
            "with_request_body.max_request_bytes",
        ),
        (
            "grpc_service: {google_grpc: {target_uri: x, stat_prefix: y}}".to_owned(),
            "google_grpc: is not supported",
        ),
        (
            "grpc_service: {envoy_grpc: {cluster_name: c}, timeout: 0s}".to_owned(),
            "timeout: must be more than zero",
        ),
        (
            "http_service: {server_uri: {uri: 'file:///x', cluster: c, timeout: 1s}}".to_owned(),
            "neither an http",
        ),
        (
            "http_service: {server_uri: {uri: 'http://x', cluster: c, timeout: 1s}, path_prefix: x}"
                .to_owned(),
            "path_prefix: must start with /",
        ),
    ] {
        let refused = read(&text).unwrap_err();
        assert!(refused.contains(wanted), "{refused}");
    }
}

#[test]
fn routes_may_switch_it_off_or_add_to_it() {
    let route = |text: &str| per_route(&any("ExtAuthzPerRoute", text)).map_err(|problem| problem.to_string());
    assert!(route("disabled: true").unwrap().disabled);
    let check =
        route("check_settings: {context_extensions: {a: b}, disable_request_body_buffering: true}").unwrap();
    assert_eq!((check.extensions.len(), check.body), (1, Some(None)));
    let check = route("check_settings: {with_request_body: {max_request_bytes: 10}}").unwrap();
    assert_eq!(check.body, Some(Some(BodyRule { most: 10, partial: false, raw: false })));
    assert!(route("disabled: false").unwrap_err().contains("must be true"));
    assert!(
        route("check_settings: {http_service: {server_uri: {uri: 'http://x', cluster: c, timeout: 1s}}}")
            .unwrap_err()
            .contains("http_service")
    );
}
