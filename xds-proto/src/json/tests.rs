//! Bootstraps as people write them, mistakes as people make them, and random documents against `prost-reflect`'s own reader.

mod random;

use serde_json::json;

use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::core::v3::Node;
use crate::envoy::config::core::v3::address::Address;
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::config::listener::v3::filter::ConfigType;
use crate::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use crate::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use crate::resource::from_any;

fn descriptors() -> Descriptors {
    Descriptors::load().unwrap()
}

fn read<M: Message + Name + Default>(text: &str) -> M {
    descriptors().decode(text, Format::Auto).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The mistakes of a document, one line each, with line numbers.
fn mistakes<M: Message + Name + Default>(text: &str) -> Vec<String> {
    let problems = descriptors().decode::<M>(text, Format::Auto).map(|_| ()).unwrap_err();
    problems.iter().map(|problem| problem.in_file("f")).collect()
}

const EDGE: &str = r#"
node: {id: edge-1, cluster: edge, metadata: {weight: 3, labels: [a, b], nested: {on: true, none: null}}}
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
static_resources:
  listeners:
  - name: http
    address:
      socket_address: {address: 0.0.0.0, port_value: 8080}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          codec_type: auto
          streamIdleTimeout: 300s
          use_remote_address: true
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route:
                  cluster: web
                  timeout: 1.5s
                  retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.25s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: web
    type: STRICT_DNS
    connect_timeout: 0.25s
    lb_policy: ROUND_ROBIN
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: web, port_value: 80}}}
    circuit_breakers:
      thresholds:
      - {max_connections: 100, max_requests: "200"}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: web.example
        common_tls_context:
          tls_certificates:
          - certificate_chain: {filename: /certs/tls.crt}
            private_key: {inline_bytes: a2V5}
"#;

#[test]
fn a_whole_bootstrap_reads_as_written() {
    let bootstrap: Bootstrap = read(EDGE);
    let resources = bootstrap.static_resources.unwrap();
    let listener = &resources.listeners[0];
    let Some(Address::SocketAddress(address)) = listener.address.as_ref().and_then(|it| it.address.as_ref())
    else {
        panic!("no address");
    };
    assert_eq!(address.address, "0.0.0.0");
    let Some(ConfigType::TypedConfig(config)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("no typed config");
    };
    let manager: HttpConnectionManager = from_any(config).unwrap();
    assert_eq!(manager.stream_idle_timeout.unwrap().seconds, 300);
    assert!(manager.use_remote_address.unwrap().value);
    assert_eq!(manager.http_filters.len(), 1);
    let cluster = &resources.clusters[0];
    let timeout = cluster.connect_timeout.as_ref().unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (0, 250_000_000));
    let breakers = cluster.circuit_breakers.as_ref().unwrap();
    assert_eq!(breakers.thresholds[0].max_requests.unwrap().value, 200);
}

#[test]
fn the_same_bootstrap_as_json_gives_the_same_message() {
    let as_yaml: Bootstrap = read(EDGE);
    let tree: Value = serde_yaml::from_str(EDGE).unwrap();
    assert_eq!(as_yaml, read::<Bootstrap>(&tree.to_string()));
}

#[test]
fn an_ads_bootstrap_reads() {
    let text = r#"
node: {id: sidecar~web-1.shop, cluster: web}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
  cds_config: {resource_api_version: V3, ads: {}}
  lds_config: {resource_api_version: V3, ads: {}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}}]}]
"#;
    let bootstrap: Bootstrap = read(text);
    assert!(bootstrap.dynamic_resources.unwrap().ads_config.is_some());
    assert_eq!(bootstrap.static_resources.unwrap().clusters[0].typed_extension_protocol_options.len(), 1);
}

const FIFTEEN_MISTAKES: &str = r#"
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: "many"}}
  admin: {}
static_resources:
  listeners:
  - name: 5
    addres: {}
    filter_chains:
      filters: []
  - name: ok
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: HTTP9
          stream_idle_timeout: 5m
          route_config:
            virtual_hosts:
            - domains: "*"
              routes:
              - match: {prefix: /, path: /x}
                route: {cluster: a, cluster_header: b}
      - name: other
        typed_config: {"@type": type.googleapis.com/envoy.filters.Nonsense}
      - name: third
        typed_config: {stat_prefix: x}
  clusters:
  - name: c
    connect_timeout: 5
    respect_dns_ttl: yes
    name: d
"#;

#[test]
fn every_mistake_of_a_document_is_reported_with_its_line() {
    let expected = [
        "f:3: admin.address.socket_address.port_value: expected a whole number, found the string \"many\"",
        "f:4: admin.admin: unknown field of envoy.config.bootstrap.v3.Admin; it has access_log_path, profile_path, \
         address, socket_options, access_log, ignore_global_conn_limit, allow_paths",
        "f:7: static_resources.listeners[0].name: expected a string, found the number 5; put it in quotes",
        "f:8: static_resources.listeners[0].addres: unknown field of envoy.config.listener.v3.Listener; did you mean `address`?",
        "f:9: static_resources.listeners[0].filter_chains: expected a list of objects \
         (envoy.config.listener.v3.FilterChain), found an object; put `- ` before its first key to make it a list of one",
        "f:17: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.codec_type: \"HTTP9\" is no value of \
         envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.CodecType; did you mean HTTP1?",
        "f:18: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.stream_idle_timeout: \
         expected a duration in seconds such as \"0.25s\", found the string \"5m\"; write 300s",
        "f:21: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].domains: \
         expected a list of strings, found the string \"*\"",
        "f:23: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]\
         .match.prefix: `path` and `prefix` exclude each other: keep one of them",
        "f:24: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]\
         .route.cluster_header: `cluster` and `cluster_header` exclude each other: keep one of them",
        "f:26: static_resources.listeners[1].filter_chains[0].filters[1].typed_config.@type: \
         no message type is called \"envoy.filters.Nonsense\"",
        "f:28: static_resources.listeners[1].filter_chains[0].filters[2].typed_config: has no `@type`: \
         add `\"@type\": type.googleapis.com/…` with the message's name",
        "f:31: static_resources.clusters[0].connect_timeout: expected a duration in seconds such as \"0.25s\", \
         found the number 5; write 5s",
        "f:32: static_resources.clusters[0].respect_dns_ttl: expected true or false, found the string \"yes\", \
         which is a word in YAML 1.2",
        "f:33: static_resources.clusters[0].name: is given twice: keep one of them",
    ];
    let found = mistakes::<Bootstrap>(FIFTEEN_MISTAKES);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn names_that_people_remember_wrongly_get_a_hint() {
    let hint = |text: &str| mistakes::<HttpFilter>(text).remove(0);
    assert!(hint("{config: {}}").ends_with("did you mean `typed_config`?"), "{}", hint("{config: {}}"));
    let moved = "typed_config: {\"@type\": type.googleapis.com/envoy.config.filter.http.router.v2.Router}";
    assert!(
        hint(moved).ends_with("did you mean envoy.extensions.filters.http.router.v3.Router?"),
        "{}",
        hint(moved)
    );
    let bare = "typed_config: {\"@type\": envoy.extensions.filters.http.router.v3.Router}";
    assert!(hint(bare).contains("write type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"));
}

#[test]
fn one_field_under_both_of_its_names_is_a_mistake() {
    let found = mistakes::<Cluster>("{connect_timeout: 1s, connectTimeout: 2s}");
    assert_eq!(found, ["f:1: connect_timeout: is the same field as `connectTimeout`: keep one of them"]);
}

#[test]
fn null_is_absence_except_where_it_is_a_value() {
    assert_eq!(read::<Cluster>("{name: x, connect_timeout: null}"), read::<Cluster>("{name: x}"));
    let found = mistakes::<Listener>("{filter_chains: [null]}");
    assert_eq!(
        found,
        ["f:1: filter_chains[0]: expected an object (envoy.config.listener.v3.FilterChain), found null"]
    );
    // A `null` does not take part in a choice.
    read::<crate::envoy::config::route::v3::RouteMatch>("{prefix: /, path: null}");
    let node: Node = read("metadata: {a: null}");
    assert!(node.metadata.unwrap().fields.contains_key("a"));
}

#[test]
fn an_empty_any_counts_as_absent() {
    let filter: HttpFilter = read("{name: x, typed_config: {}}");
    assert_eq!(filter, HttpFilter { name: "x".to_owned(), ..HttpFilter::default() });
}

#[test]
fn a_typed_struct_around_a_known_type_becomes_that_type() {
    let wrapped = r#"
name: limit
typed_config:
  "@type": type.googleapis.com/TYPED_STRUCT
  type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
  value: {stat_prefix: s, token_bucket: {max_tokens: 5, fill_interval: 1s}}
"#;
    for name in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        let filter: HttpFilter = read(&wrapped.replace("TYPED_STRUCT", name));
        let any = match filter.config_type {
            Some(crate::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType::TypedConfig(any)) => any,
            other => panic!("{other:?}"),
        };
        let limit: LocalRateLimit = from_any(&any).unwrap();
        assert_eq!(limit.token_bucket.unwrap().max_tokens, 5);
        let broken = wrapped.replace("TYPED_STRUCT", name).replace("max_tokens", "max_token");
        let found = mistakes::<HttpFilter>(&broken);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("f:6: typed_config.value.token_bucket.max_token: unknown field"),
            "{found:?}"
        );
    }
    let unknown =
        wrapped.replace("TYPED_STRUCT", "xds.type.v3.TypedStruct").replace("LocalRateLimit", "Wasm");
    let shown = descriptors().render_message(&read::<HttpFilter>(&unknown));
    assert_eq!(shown["typed_config"]["value"]["token_bucket"]["max_tokens"], json!(5));
}

#[test]
fn types_without_fields_stand_under_value_in_an_any() {
    let shown = |value: &str| {
        let text =
            format!("{{name: x, typed_config: {{\"@type\": type.googleapis.com/google.protobuf.{value}}}}}");
        descriptors().render_message(&read::<HttpFilter>(&text))["typed_config"]["value"].clone()
    };
    assert_eq!(shown("Duration, value: 1.5s"), json!("1.500s"));
    assert_eq!(shown("StringValue, value: text"), json!("text"));
    assert_eq!(shown("Struct, value: {a: [1, 2.5, null, x]}"), json!({"a": [1, 2.5, null, "x"]}));
    assert_eq!(shown("Timestamp, value: \"2026-01-31T12:00:00Z\""), json!("2026-01-31T12:00:00Z"));
    let found = mistakes::<HttpFilter>(
        "{typed_config: {\"@type\": type.googleapis.com/google.protobuf.Duration, seconds: 1}}",
    );
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn numbers_are_held_to_their_range() {
    let count = |text: &str| {
        mistakes::<Bootstrap>(&format!("{{admin: {{address: {{socket_address: {{port_value: {text}}}}}}}}}"))
            .len()
    };
    for text in
        ["-1", "4294967296", "1.5", "\"0x10\"", "\"010\"", "1e30", "[]", "\"\"", "18446744073709551616"]
    {
        assert_eq!(count(text), 1, "{text}");
    }
    for text in ["80", "\"80\"", "80.0", "8e1", "\"8e1\""] {
        let document = format!("{{address: {{socket_address: {{port_value: {text}}}}}}}");
        assert_eq!(read::<Listener>(&document), read::<Listener>(&document.replace(text, "80")), "{text}");
    }
}

#[test]
fn a_dump_reads_back_and_hides_secrets() {
    let descriptors = descriptors();
    let bootstrap: Bootstrap = read(EDGE);
    let dump = descriptors.render(&to_any(&bootstrap));
    assert_eq!(dump["@type"], "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap");
    let certificate = &dump["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        ["tls_certificates"][0];
    assert_eq!(certificate["private_key"], json!({"inline_bytes": "W3JlZGFjdGVkXQ=="}));
    assert_eq!(certificate["certificate_chain"]["filename"], "/certs/tls.crt");

    let listener = &bootstrap.static_resources.unwrap().listeners[0];
    let text = to_yaml(&descriptors.render_message(listener)).unwrap();
    assert_eq!(&read::<Listener>(&text), listener, "{text}");
}

#[test]
fn what_cannot_be_shown_is_shown_as_base64() {
    let any = |url: &str, value: &[u8]| Any { type_url: url.to_owned(), value: value.to_vec() };
    let descriptors = descriptors();
    let foreign = descriptors.render(&any("type.googleapis.com/some.Foreign", b"abc"));
    assert_eq!(foreign, json!({"@type": "type.googleapis.com/some.Foreign", "value": "YWJj"}));
    let damaged = descriptors.render(&any(&UpstreamTlsContext::type_url(), &[0xff, 0xff]));
    assert_eq!(damaged["value"], "//8=");
}

#[test]
fn more_mistakes_than_anybody_reads_are_counted() {
    let found =
        mistakes::<Cluster>(&(0..300).map(|number| format!("wrong_{number}: 1\n")).collect::<String>());
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], "f: and 200 more problems");
}
