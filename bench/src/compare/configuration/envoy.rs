//! Envoy's v3 configuration: the same file for Envoy and for Sidegate, metrics on.

use std::net::SocketAddr;

use super::{Link, Setting};
use crate::certificates::{Certificates, SERVER_NAME};
use crate::lane::Lane;

/// `small_buffers` are those of Envoy's guide for proxies at the edge.
pub(crate) fn envoy(setting: &Setting<'_>, small_buffers: bool) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    let buffers = if small_buffers { BUFFERS } else { "" };
    for hop in setting.links.iter().flat_map(hops) {
        let filter = if hop.opaque { TCP_PROXY } else { CONNECTION_MANAGER };
        let protocol = if hop.http2_on { HTTP2 } else { "" };
        let windows = if small_buffers { WINDOWS } else { "" };
        let server = if hop.tls_in { DOWNSTREAM_TLS } else { "" };
        let client = if hop.tls_on { UPSTREAM_TLS } else { "" };
        let listener = LISTENER.replace("BUFFERS\n", buffers).replace("TLS\n", server);
        let listener = listener.replace("FILTER\n", filter).replace("WINDOWS\n", windows);
        let cluster = CLUSTER.replace("BUFFERS\n", buffers).replace("TLS\n", client);
        let cluster = cluster.replace("PROTOCOL\n", protocol);
        let fill = |text: &str, address| {
            let text = text.replace("NAME", &hop.name).replace("ADDRESS", &socket_address(address));
            with_files(&text, setting.certificates).replace("PROTOCOLS", hop.alpn)
        };
        listeners += &fill(&listener, hop.from);
        clusters += &fill(&cluster, hop.to);
    }
    format!(
        "admin:\n  address: {}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}",
        socket_address(setting.admin)
    )
}

/// One listener and the cluster behind it.
struct Hop {
    name: String,
    from: SocketAddr,
    to: SocketAddr,
    opaque: bool,
    tls_in: bool,
    tls_on: bool,
    http2_on: bool,
    alpn: &'static str,
}

/// One for most lanes; two for a mesh.
fn hops(link: &Link) -> Vec<Hop> {
    let lane = link.lane;
    let last = Hop {
        name: lane.name().to_owned(),
        from: link.listener,
        to: link.origin,
        opaque: lane.is_opaque(),
        tls_in: lane == Lane::TlsDown || lane.is_mesh(),
        tls_on: lane == Lane::TlsUp,
        http2_on: lane == Lane::Http2,
        alpn: if lane == Lane::Mesh2 { "h2" } else { "http/1.1" },
    };
    if !lane.is_mesh() {
        return vec![last];
    }
    let first = Hop {
        name: format!("{}_client", lane.name()),
        to: link.between,
        tls_in: false,
        tls_on: true,
        http2_on: lane == Lane::Mesh2,
        ..last
    };
    vec![first, Hop { name: lane.name().to_owned(), from: link.between, ..last }]
}

fn with_files(text: &str, certificates: &Certificates) -> String {
    let mut text = text.replace("SERVER_SUBJECT", SERVER_NAME);
    for (word, file) in [
        ("AUTHORITY", "ca.pem"),
        ("SERVER_CHAIN", "server.pem"),
        ("SERVER_KEY", "server.key"),
        ("CLIENT_CHAIN", "client.pem"),
        ("CLIENT_KEY", "client.key"),
    ] {
        text = text.replace(word, &certificates.file(file));
    }
    text
}

fn socket_address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

const LISTENER: &str = "
  - name: NAME
    address: ADDRESS
BUFFERS
    filter_chains:
    - filters:
FILTER
TLS
";

const CONNECTION_MANAGER: &str = "
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: NAME
WINDOWS
          route_config:
            name: NAME
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {prefix: /}
                route: {cluster: NAME}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";

const TCP_PROXY: &str = "
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: NAME
          cluster: NAME
";

const CLUSTER: &str = "
  - name: NAME
    type: STATIC
    connect_timeout: 2s
BUFFERS
PROTOCOL
TLS
    load_assignment:
      cluster_name: NAME
      endpoints: [{lb_endpoints: [{endpoint: {address: ADDRESS}}]}]
";

const HTTP2: &str = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";

const DOWNSTREAM_TLS: &str = "
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [PROTOCOLS]
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            tls_certificates:
            - {certificate_chain: {filename: 'SERVER_CHAIN'}, private_key: {filename: 'SERVER_KEY'}}
            validation_context: {trusted_ca: {filename: 'AUTHORITY'}}
";

/// Without the version named, Envoy's clients stop at TLS 1.2.
const UPSTREAM_TLS: &str = "
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: SERVER_SUBJECT
        common_tls_context:
          alpn_protocols: [PROTOCOLS]
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates:
          - {certificate_chain: {filename: 'CLIENT_CHAIN'}, private_key: {filename: 'CLIENT_KEY'}}
          validation_context: {trusted_ca: {filename: 'AUTHORITY'}}
";

const BUFFERS: &str = "
    per_connection_buffer_limit_bytes: 32768
";

const WINDOWS: &str = "
          http2_protocol_options:
            max_concurrent_streams: 100
            initial_stream_window_size: 65536
            initial_connection_window_size: 1048576
";
