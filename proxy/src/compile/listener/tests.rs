use std::time::Duration;

use super::*;
use crate::compile::tests::fixture::yaml;
use crate::message::EscapedSlashes;
use crate::route::Target;
use crate::snapshot::{Codec, Http, Inspection, ProxyHeaderRule, Road};

const ADDRESS: &str = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}";
const ROUTER: &str = "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn compiled(text: &str) -> Result<Plan, String> {
    compile(&yaml(text), None, &mut Contexts::default(), Instant::now())
        .map_err(|problem| problem.to_string())
}

/// A listener with one connection manager; `manager` stands inside its configuration.
fn manager(manager: &str) -> String {
    format!(
        "
name: l
{ADDRESS}
default_filter_chain:
  filters:
  - name: hcm
    typed_config: {{
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
      stat_prefix: s, http_filters: [{ROUTER}], rds: {{route_config_name: r, config_source: {{ads: {{}}}}}}{manager}}}
"
    )
}

fn http(text: &str) -> Arc<Http> {
    compiled(&manager(text)).unwrap().chains[0].chain.http().unwrap().clone()
}

fn refused(text: &str) -> String {
    let error = compiled(&manager(text)).unwrap_err();
    error.strip_prefix("default_filter_chain.filters[0] (hcm).").unwrap_or(&error).to_owned()
}

fn tcp(config: &str) -> String {
    format!(
        "
name: l
{ADDRESS}
filter_chains:
- filters:
  - {{name: limit, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: s, max_connections: 7}}}}
  - {{name: tcp, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s{config}}}}}
"
    )
}

#[test]
fn a_connection_manager_by_default() {
    let plan = compiled(&manager("")).unwrap();
    assert_eq!(plan.listener.addresses, ["127.0.0.1:80".parse().unwrap()]);
    assert!(plan.listener.bind && plan.chains[0].chain.max_connections.is_none());
    assert_eq!(plan.listener.direction, Direction::Outbound);
    let Routes::Discovered(name, patience) = &plan.chains[0].routes else { panic!() };
    assert_eq!((&**name, *patience), ("r", Some(Duration::from_secs(15))));
    let http = http("");
    assert_eq!((http.codec, &*http.routes, &*http.stat_prefix), (Codec::Auto, "r", "s"));
    assert!(http.generate_request_id && !http.use_remote_address && !http.normalize_path && !http.tracing);
    assert_eq!(http.timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(http.timeouts.stream_idle, Some(Duration::from_secs(300)));
    assert_eq!(
        (http.max_header_bytes, http.max_header_count, http.max_concurrent_streams),
        (65_536, 100, 100)
    );
    assert!(!http.allow_connect && http.upgrades.is_empty() && http.access_logs.is_empty());
}

#[test]
fn a_connection_manager_in_full() {
    let http = http(
        ", codec_type: HTTP2, use_remote_address: true, generate_request_id: false, normalize_path: true,
      merge_slashes: true, path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD, tracing: {}, server_name: s, via: v,
      server_header_transformation: PASS_THROUGH, stream_idle_timeout: 0s, request_timeout: 9s, request_headers_timeout: 3s,
      max_request_headers_kb: 96, http_protocol_options: {accept_http_10: true},
      http2_protocol_options: {max_concurrent_streams: 7},
      common_http_protocol_options: {idle_timeout: 60s, max_headers_count: 50, max_requests_per_connection: 9},
      upgrade_configs: [{upgrade_type: CONNECT}, {upgrade_type: WebSocket}, {upgrade_type: x, enabled: false}]",
    );
    assert_eq!((http.codec, http.escaped_slashes), (Codec::Http2, EscapedSlashes::UnescapeAndForward));
    assert!(
        http.use_remote_address && !http.generate_request_id && http.normalize_path && http.merge_slashes
    );
    assert!(http.tracing && http.pass_server_header && http.accept_http_10 && http.allow_connect);
    assert_eq!(http.upgrades, ["websocket".into()]);
    assert_eq!((http.timeouts.stream_idle, http.timeouts.request), (None, Some(Duration::from_secs(9))));
    assert_eq!(
        (http.timeouts.idle, http.timeouts.headers),
        (Some(Duration::from_secs(60)), Some(Duration::from_secs(3)))
    );
    assert_eq!((http.max_header_bytes, http.max_header_count), (98_304, 50));
    assert_eq!((http.max_concurrent_streams, http.max_requests_per_connection), (7, Some(9)));
    assert_eq!((http.server_name.as_deref(), http.via.as_deref()), (Some("s"), Some("v")));
}

#[test]
fn refusals_of_connection_managers() {
    for (text, expected) in [
        (", add_user_agent: true", "add_user_agent: is not supported yet"),
        (", local_reply_config: {}", "local_reply_config: is not supported yet"),
        (", codec_type: HTTP3", "codec_type: HTTP3 is not supported yet"),
        (", max_request_headers_kb: 0", "max_request_headers_kb: must be from 1 to 8192"),
        (", max_request_headers_kb: 8193", "max_request_headers_kb: must be from 1 to 8192"),
        (
            ", common_http_protocol_options: {max_headers_count: 0}",
            "common_http_protocol_options.max_headers_count: must be at least 1",
        ),
        (
            ", http_protocol_options: {allow_chunked_length: true}",
            "http_protocol_options.allow_chunked_length: a message with both Content-Length and chunked encoding is always refused here",
        ),
    ] {
        assert_eq!(refused(text), expected);
    }
    let inline = manager("").replace(
        "rds: {route_config_name: r, config_source: {ads: {}}}",
        "route_config: {virtual_hosts: [{name: v, domains: []}]}",
    );
    assert!(
        compiled(&inline)
            .unwrap_err()
            .ends_with("route_config.virtual_hosts[0] (v).domains: needs at least one")
    );
    let files = manager("").replace("{ads: {}}", "{path: x}");
    assert!(
        compiled(&files)
            .unwrap_err()
            .ends_with("rds.config_source: files as a source are not supported yet: use ads")
    );
}

#[test]
fn an_opaque_chain() {
    let plan = compiled(&tcp(", cluster: c, idle_timeout: 0s, max_connect_attempts: 3")).unwrap();
    assert_eq!(plan.chains[0].chain.max_connections, Some(7));
    let Road::Tcp(tcp_proxy) = &plan.chains[0].chain.road else { panic!() };
    assert!(matches!(&tcp_proxy.target, Target::Cluster(name) if &**name == "c"));
    assert_eq!((tcp_proxy.idle_timeout, tcp_proxy.max_connect_attempts), (None, 3));
    let weighted = tcp(", weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 2}]}");
    let plan = compiled(&weighted).unwrap();
    let Routes::Opaque(clusters) = &plan.chains[0].routes else { panic!() };
    assert_eq!(clusters.len(), 2);
    assert!(compiled(&tcp("")).unwrap_err().ends_with("filters[1] (tcp).cluster: is required"));
    let tunnel = tcp(", cluster: c, tunneling_config: {hostname: x}");
    assert!(compiled(&tunnel).unwrap_err().ends_with("tunneling_config: is not supported yet"));
}

#[test]
fn addresses_directions_and_binding() {
    let text = format!(
        "{}\ntraffic_direction: INBOUND\nbind_to_port: false\nadditional_addresses: [{{address: {{socket_address: {{address: '::1', port_value: 81}}}}}}]",
        manager("")
    );
    let listener = compiled(&text).unwrap().listener;
    assert_eq!(listener.addresses, ["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()]);
    assert_eq!((listener.bind, listener.direction), (false, Direction::Inbound));
    assert_eq!(&*name(&yaml(ADDRESS)), "127.0.0.1_80", "a static listener without name has its address's");
}

#[test]
fn listener_filters() {
    let with = |kind: &str| {
        let config = format!("'@type': type.googleapis.com/envoy.extensions.filters.listener.{kind}");
        format!("{}\nlistener_filters: [{{name: f, typed_config: {{{config}}}}}]", manager(""))
    };
    compiled(&with("tls_inspector.v3.TlsInspector")).unwrap();
    compiled(&with("http_inspector.v3.HttpInspector")).unwrap();
    let kinds = |text: &str| {
        let listener = compiled(&with(text)).unwrap().listener;
        listener.preamble.filters.iter().map(|filter| filter.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds("original_dst.v3.OriginalDst"), [Inspection::OriginalDestination]);
    let rule = |optional, v1, v2| Inspection::ProxyHeader(ProxyHeaderRule { optional, v1, v2 });
    assert_eq!(kinds("proxy_protocol.v3.ProxyProtocol"), [rule(false, true, true)]);
    let more = "proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true, disallowed_versions: [V1]";
    assert_eq!(kinds(more), [rule(true, false, true)]);
    for (text, expected) in [
        (
            "proxy_protocol.v3.ProxyProtocol, disallowed_versions: [V1, V2]",
            "disallowed_versions: leaves no version",
        ),
        ("proxy_protocol.v3.ProxyProtocol, pass_through_tlvs: {}", "pass_through_tlvs: is not supported yet"),
        (
            "tls_inspector.v3.TlsInspector, enable_ja3_fingerprinting: true",
            "enable_ja3_fingerprinting: is not supported yet",
        ),
        ("local_ratelimit.v3.LocalRateLimit, stat_prefix: s", "is not supported yet"),
    ] {
        let error = compiled(&with(text)).unwrap_err();
        let error = error.strip_prefix("listener_filters[0] (f)").unwrap();
        assert_eq!(error.trim_start_matches(['.', ':', ' ']), expected);
    }
}

#[test]
fn what_comes_before_the_chain() {
    let text = format!(
        "{}\nuse_original_dst: true\nlistener_filters_timeout: 3s\ncontinue_on_listener_filters_timeout: true\nlistener_filters:\n- name: tls_inspector\n  filter_disabled: {{or_match: {{rules: [{{destination_port_range: {{start: 80, end: 81}}}}, {{not_match: {{any_match: true}}}}]}}}}",
        manager("")
    );
    let listener = compiled(&text).unwrap().listener;
    assert!(listener.hand_over && listener.preamble.goes_on_late);
    assert_eq!(listener.preamble.timeout, Some(Duration::from_secs(3)));
    let rule = listener.preamble.filters[0].disabled.as_ref().unwrap();
    assert!(rule.holds(80) && !rule.holds(81));
    assert_eq!(compiled(&manager("")).unwrap().listener.preamble.timeout, Some(Duration::from_secs(15)));
}

#[test]
fn sockets() {
    let text = format!(
        "{}\ntransparent: true\nfreebind: true\ntcp_backlog_size: 9\nconnection_balance_config: {{exact_balance: {{}}}}\nsocket_options: [{{level: 1, name: 9, int_value: 1}}, {{level: 6, name: 4, int_value: 30}}, {{level: 6, name: 6, int_value: 3}}, {{level: 6, name: 18, int_value: 1500}}]",
        manager("").replace("address: 127.0.0.1", "ipv4_compat: true, address: '::'")
    );
    let settings = compiled(&text).unwrap().listener.socket.clone();
    assert!(settings.transparent && settings.freebind && settings.dual_stack);
    assert_eq!((settings.backlog, settings.user_timeout), (Some(9), Some(Duration::from_millis(1500))));
    let keepalive = settings.keepalive.unwrap();
    assert_eq!((keepalive.idle, keepalive.probes), (Some(Duration::from_secs(30)), Some(3)));
    let unknown = format!("{}\nsocket_options: [{{level: 1, name: 99, int_value: 1}}]", manager(""));
    assert_eq!(
        compiled(&unknown).unwrap_err(),
        "socket_options[0]: option 99 of level 1 with 1 is not supported"
    );
    let twice = format!(
        "{}\nadditional_addresses: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: 80}}}}}}]",
        manager("")
    );
    assert_eq!(compiled(&twice).unwrap_err(), "additional_addresses[0]: 127.0.0.1:80 is there twice");
}

const TCP: &str = "filters: [{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c}}]";

/// A listener with these chains, each `name: match`.
fn chains(matches: &[(&str, &str)]) -> String {
    let chains = matches
        .iter()
        .map(|(name, criteria)| format!("\n- {{name: '{name}', filter_chain_match: {criteria}, {TCP}}}"));
    format!("name: l\n{ADDRESS}\nfilter_chains:{}", chains.collect::<String>())
}

#[test]
fn chains_and_what_they_match() {
    let everything = "{destination_port: 80, prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}], server_names: [A.test, '*.b.test'], transport_protocol: tls, application_protocols: [h2], direct_source_prefix_ranges: [{address_prefix: '::1', prefix_len: 128}], source_type: EXTERNAL, source_prefix_ranges: [{address_prefix: 192.0.2.0, prefix_len: 24}], source_ports: [7]}";
    let text = format!("{}\ndefault_filter_chain: {{{TCP}}}", chains(&[("all", everything), ("", "{}")]));
    let plan = compiled(&text).unwrap();
    let names: Vec<_> = plan.listener.chains.iter().map(|chain| &*chain.name).collect();
    assert_eq!(names, ["all", "filter_chains[1]", "default_filter_chain"]);
    let protocols = ["h2".into()];
    let told = crate::snapshot::Told {
        server_name: "x.b.test",
        transport: crate::snapshot::TLS,
        protocols: &protocols,
    };
    let facts = crate::snapshot::Facts {
        destination: "10.1.1.1:80".parse().unwrap(),
        direct_source: "[::1]:1".parse().unwrap(),
        source: "192.0.2.9:7".parse().unwrap(),
        told: Some(told),
    };
    let crate::snapshot::Choice::Chain(chain) = plan.listener.chains.choose(&facts) else { panic!() };
    assert_eq!(&*chain.name, "all");
}

#[test]
fn refusals_of_chains() {
    let many: Vec<String> = (0..300).map(|number| format!("a{number}.test")).collect();
    let ports: Vec<String> = (1..300).map(|port: u16| port.to_string()).collect();
    let product = format!("{{server_names: [{}], source_ports: [{}]}}", many.join(","), ports.join(","));
    for (all, expected) in [
        (
            vec![("a", "{server_names: [x.test, y.test]}"), ("b", "{server_names: [Y.test]}")],
            "filter_chains[1] (b).filter_chain_match: matches connections that filter_chains[0] (a) matches too, and equally well",
        ),
        (
            vec![("a", "{source_ports: [1]}"), ("a", "{}")],
            "filter_chains[1] (a): another chain is called a too",
        ),
        (
            vec![("", "{server_names: ['*x.test']}")],
            "filter_chains[0].filter_chain_match.server_names[0]: *x.test: a `*` stands for the whole first part of a name only",
        ),
        (
            vec![("", "{prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]}")],
            "filter_chains[0].filter_chain_match.prefix_ranges[0].prefix_len: 33 is more than the 32 bits of the address",
        ),
        (
            vec![("", "{source_ports: [0]}")],
            "filter_chains[0].filter_chain_match.source_ports[0]: 0 is not a port",
        ),
        (
            vec![("", "{suffix_len: 3}")],
            "filter_chains[0].filter_chain_match.suffix_len: is not supported yet",
        ),
        (
            vec![("", &product)],
            "filter_chains[0].filter_chain_match: 89700 combinations of prefixes, names, protocols and ports; 65536 at most",
        ),
    ] {
        assert_eq!(compiled(&chains(&all)).unwrap_err(), expected);
    }
}

#[test]
fn a_chain_keeps_its_identity_while_it_takes_the_same_connections() {
    let compile = |text: &str, previous: Option<&Plan>| {
        super::compile(&yaml(text), previous, &mut Contexts::default(), Instant::now()).unwrap()
    };
    let first = compile(&chains(&[("a", "{source_ports: [1]}"), ("b", "{source_ports: [2]}")]), None);
    let id = |plan: &Plan, index: usize| plan.chains[index].chain.id;
    let second =
        compile(&chains(&[("b2", "{source_ports: [2]}"), ("a", "{source_ports: [3]}")]), Some(&first));
    assert_eq!(id(&second, 0), id(&first, 1), "another name, another place, the same connections");
    assert_ne!(id(&second, 1), id(&first, 0), "other connections");
    assert!(second.listener.chains.get(id(&first, 0)).is_none());
}

#[test]
fn refusals_of_listeners() {
    let tls = "transport_socket: {name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}";
    let chain = |rest: &str| format!("name: l\n{ADDRESS}\nfilter_chains: [{{{rest}}}]");
    for (text, expected) in [
        (format!("name: l\n{ADDRESS}"), "filter_chains: needs a filter chain"),
        (chain("filters: []"), "filter_chains[0].filters: must end in http_connection_manager or tcp_proxy"),
        (
            chain(tls),
            "filter_chains[0].transport_socket.common_tls_context.tls_certificates: a certificate is required",
        ),
        (
            chain(
                "filters: [{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz}}]",
            ),
            "filter_chains[0].filters[0] (x): envoy.extensions.filters.network.ext_authz.v3.ExtAuthz is not supported by this proxy",
        ),
        (manager("").replace("127.0.0.1", "localhost"), "address.address: localhost is not an IP address"),
        (
            manager("").replace("port_value: 80", "port_value: 80, protocol: UDP"),
            "address.protocol: only TCP is supported yet",
        ),
    ] {
        assert_eq!(compiled(&text).unwrap_err(), expected);
    }
}

#[test]
fn what_a_connection_manager_believes() {
    let manager = |fields: &str| compiled(&manager(&format!(", {fields}")));
    assert!(
        manager("xff_num_trusted_hops: 2, skip_xff_append: true, strip_matching_host_port: true").is_ok()
    );
    assert!(
        manager("internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}")
            .is_ok()
    );
    let preserve = "'@type': type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";
    let formatter = format!(
        "http_protocol_options: {{header_key_format: {{stateful_formatter: {{name: p, typed_config: {{{preserve}}}}}}}}}"
    );
    assert!(manager(&formatter).is_ok());
    for (fields, expected) in [
        ("xff_num_trusted_hops: 300", "xff_num_trusted_hops: more than 255 proxies in a row"),
        (
            "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]}",
            "internal_address_config.cidr_ranges[0].prefix_len: 33 is more than the 32 bits of the address",
        ),
        (
            "scheme_header_transformation: {match_upstream: true}",
            "scheme_header_transformation.match_upstream",
        ),
        (
            "http_protocol_options: {header_key_format: {proper_case_words: {}}}",
            "header_key_format.proper_case_words: is not supported: names keep their case",
        ),
        ("http_protocol_options: {default_host_for_http_10: 'a b'}", "\"a b\" is not a host"),
    ] {
        let error = manager(fields).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
