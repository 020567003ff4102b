use super::*;
use crate::cluster::Idle;
use crate::compile::tests::fixture::yaml;

fn compiled(text: &str) -> Result<Plan, String> {
    compile(&yaml(&format!("name: a\n{text}")), &mut Contexts::default())
        .map_err(|problem| problem.to_string())
}

fn plan(text: &str) -> Plan {
    compiled(text).unwrap()
}

const HTTP2: &str = "
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";

#[test]
fn defaults_are_envoys() {
    let plan = plan("type: STATIC");
    assert_eq!(plan.balancing, Balancing { rule: Rule::RoundRobin, locality_weighted: false });
    assert_eq!(plan.protocol, Protocol::Http1);
    assert_eq!(plan.connect_timeout, Duration::from_secs(5));
    assert_eq!(plan.limits, Limits::default());
    assert_eq!(plan.discovery(), Discovery::Static);
    assert_eq!(plan.service, None);
}

#[test]
fn what_our_control_plane_sends() {
    let plan = plan(&format!(
        "
type: EDS
eds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 5s}}}}
connect_timeout: 2s
lb_policy: LEAST_REQUEST
circuit_breakers:
  thresholds:
  - {{max_connections: 1, max_pending_requests: 2, max_requests: 3, retry_budget: {{budget_percent: {{value: 20}}, min_retry_concurrency: 4}}}}
metadata: {{filter_metadata: {{sidegate: {{kind: Service, namespace: shop, name: web, port: 80}}}}}}
{HTTP2}"
    ));
    let Source::Eds { name, patience } = &plan.source else { panic!() };
    assert_eq!((&**name, *patience), ("a", Some(Duration::from_secs(5))));
    assert_eq!(plan.protocol, Protocol::Http2);
    let limits =
        Limits { connections: 1, pending: 2, requests: 3, retries: 3, retry_budget: Some((20.0, 4)) };
    assert_eq!(plan.limits, limits);
    let service = plan.service.unwrap();
    assert_eq!(
        (&*service.kind, &*service.namespace, &*service.name, service.port),
        ("Service", "shop", "web", 80)
    );
}

#[test]
fn patience_of_zero_is_for_ever() {
    let plan = plan(
        "type: EDS\neds_cluster_config: {service_name: b, eds_config: {ads: {}, initial_fetch_timeout: 0s}}",
    );
    let Source::Eds { name, patience } = &plan.source else { panic!() };
    assert_eq!((&**name, *patience), ("b", None));
}

#[test]
fn balancing_by_enum_and_by_extension() {
    let extension = |name: &str, rest: &str| {
        format!(
            "{{typed_extension_config: {{name: {name}, typed_config: {{
               '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.{rest}}}}}}}"
        )
    };
    let least = extension("least", "least_request.v3.LeastRequest");
    let ring = extension("ring", "ring_hash.v3.RingHash");
    let weighted =
        extension("rr", "round_robin.v3.RoundRobin, locality_lb_config: {locality_weighted_lb_config: {}}");
    let locality = extension(
        "wrr",
        &format!("wrr_locality.v3.WrrLocality, endpoint_picking_policy: {{policies: [{ring}, {least}]}}"),
    );
    let policies = |policies: &str| format!("load_balancing_policy: {{policies: [{policies}]}}");
    for (text, rule, locality_weighted) in [
        ("lb_policy: LEAST_REQUEST".to_owned(), Rule::LeastRequest, false),
        (
            "lb_policy: RANDOM\ncommon_lb_config: {locality_weighted_lb_config: {}}".to_owned(),
            Rule::Random,
            true,
        ),
        (policies(&least), Rule::LeastRequest, false),
        (policies(&format!("{ring}, {least}")), Rule::LeastRequest, false),
        (policies(&weighted), Rule::RoundRobin, true),
        (policies(&locality), Rule::LeastRequest, true),
    ] {
        assert_eq!(plan(&text).balancing, Balancing { rule, locality_weighted }, "{text}");
    }
    assert_eq!(
        compiled(&policies(&ring)).unwrap_err(),
        "load_balancing_policy: none of these policies is supported: ring"
    );
}

#[test]
fn protocols() {
    assert_eq!(plan("http2_protocol_options: {}").protocol, Protocol::Http2);
    assert_eq!(plan("protocol_selection: USE_DOWNSTREAM_PROTOCOL").protocol, Protocol::Downstream);
    let downstream = HTTP2.replace(
        "explicit_http_config: {http2_protocol_options: {}}",
        "use_downstream_protocol_config: {http2_protocol_options: {}}",
    );
    assert_eq!(plan(&downstream).protocol, Protocol::Downstream);
    let http1 = HTTP2.replace("http2_protocol_options", "http_protocol_options");
    assert_eq!(plan(&http1).protocol, Protocol::Http1);
    let auto = HTTP2.replace("explicit_http_config: {http2_protocol_options: {}}", "auto_config: {}");
    assert!(compiled(&auto).unwrap_err().ends_with("auto_config: is not supported yet: name the protocol"));
}

#[test]
fn names_are_resolved() {
    let text = "
type: LOGICAL_DNS
dns_lookup_family: V4_ONLY
load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: web.shop, port_value: 80}}}}]}]}
";
    let Source::Dns(dns) = plan(text).source else { panic!() };
    assert_eq!(dns.template.names(), [("web.shop".into(), 80)]);
    assert_eq!((dns.refresh, dns.family, dns.logical), (Duration::from_secs(5), Family::V4, true));
    let custom = text.replace(
        "type: LOGICAL_DNS\ndns_lookup_family: V4_ONLY",
        "cluster_type: {name: envoy.clusters.dns, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster,
           dns_refresh_rate: 9s, dns_lookup_family: ALL}}",
    );
    let Source::Dns(dns) = plan(&custom).source else { panic!() };
    assert_eq!((dns.refresh, dns.family, dns.logical), (Duration::from_secs(9), Family::All, false));
}

#[test]
fn the_passthrough_cluster() {
    let plan = plan(
        "
lb_policy: CLUSTER_PROVIDED
cluster_type:
  name: envoy.clusters.dynamic_forward_proxy
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig
    dns_cache_config: {name: passthrough, dns_lookup_family: V4_PREFERRED}
",
    );
    assert_eq!(plan.discovery(), Discovery::Forward);
}

#[test]
fn refusals_name_the_field() {
    let tls = "{name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}";
    for (text, expected) in [
        (
            "type: ORIGINAL_DST\noriginal_dst_lb_config: {use_http_header: true}",
            "original_dst_lb_config.use_http_header: is not supported yet",
        ),
        ("lb_policy: RING_HASH", "lb_policy: RING_HASH is not supported yet"),
        (
            "lb_policy: CLUSTER_PROVIDED",
            "lb_policy: CLUSTER_PROVIDED is for clusters that choose by themselves",
        ),
        ("type: EDS", "eds_cluster_config: is required"),
        (
            "type: EDS\neds_cluster_config: {eds_config: {path: x}}",
            "eds_cluster_config.eds_config: files as a source are not supported yet: use ads",
        ),
        ("type: STRICT_DNS", "load_assignment: is required"),
        ("connect_timeout: 0s", "connect_timeout: must be more than zero"),
        ("outlier_detection: {}", "outlier_detection: is not supported yet"),
        (
            "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]",
            "health_checks: is not supported yet",
        ),
        (
            &format!("transport_socket_matches: [{{name: x, match: {{a: [b]}}, transport_socket: {tls}}}]"),
            "transport_socket_matches[0].match.a: is not a plain value",
        ),
        (
            "filters: [{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy}}]",
            "filters[0]: network filter x is not supported",
        ),
        (
            "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 101}}}]}",
            "circuit_breakers.thresholds[0].retry_budget.budget_percent: must be from 0 to 100",
        ),
    ] {
        assert_eq!(compiled(text).unwrap_err(), expected);
    }
}

#[test]
fn plaintext_transport_sockets_are_what_there_is() {
    let raw = "{name: raw, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}";
    plan(&format!("transport_socket: {raw}"));
    plan(&format!("transport_socket_matches: [{{name: x, transport_socket: {raw}}}]"));
}

#[test]
fn how_long_connections_are_kept() {
    let with = |common: &str| format!("{HTTP2}    common_http_protocol_options: {common}\n");
    let keep = |text: &str| plan(text).keep;
    let second = Duration::from_secs(1);
    assert_eq!(keep("type: STATIC"), Keep::default());
    let all = "{idle_timeout: 1s, max_connection_duration: 2s, max_requests_per_connection: 3}";
    let expected = Keep { idle: Idle::For(second), age: Some(second * 2), requests: Some(3) };
    assert_eq!(keep(&with(all)), expected);
    assert_eq!(keep(&format!("common_http_protocol_options: {all}")), expected);
    assert_eq!(keep("max_requests_per_connection: 9").requests, Some(9));
    let both = format!("max_requests_per_connection: 9\n{}", with("{idle_timeout: 0s}"));
    assert_eq!(keep(&both), Keep { idle: Idle::Endless, age: None, requests: Some(9) });
    assert_eq!(keep(&format!("common_http_protocol_options: {all}\n{HTTP2}")), Keep::default());
    assert_eq!(keep("max_requests_per_connection: 0").requests, None, "no bound");
    for (field, value) in [
        ("headers_with_underscores_action", "REJECT_REQUEST"),
        ("max_headers_count", "9"),
        ("max_response_headers_kb", "9"),
        ("max_stream_duration", "9s"),
    ] {
        let refused = compiled(&with(&format!("{{{field}: {value}}}"))).unwrap_err();
        let place = format!("typed_extension_protocol_options[{HTTP_OPTIONS}].common_http_protocol_options");
        assert_eq!(refused, format!("{place}.{field}: is not supported yet"));
    }
}
