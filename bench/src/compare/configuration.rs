//! The least configuration with which each proxy does the work: one worker, connections to the origin kept, no access log.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::origin::Addresses;
use crate::workload::Protocol;

/// Who listens where.
pub(crate) struct Ports {
    /// Of the proxy
    pub(crate) listeners: BTreeMap<Protocol, SocketAddr>,
    pub(crate) origins: Addresses,
    pub(crate) admin: SocketAddr,
}

impl Ports {
    fn pairs(&self) -> impl Iterator<Item = (Protocol, SocketAddr, SocketAddr)> {
        self.listeners
            .iter()
            .filter_map(|(protocol, listener)| Some((*protocol, *listener, *self.origins.get(protocol)?)))
    }
}

/// The same file for Envoy and for Sidegate; metrics on.
pub(crate) fn envoy(ports: &Ports) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (protocol, listener, origin) in ports.pairs() {
        let name = name(protocol);
        let filter = if protocol == Protocol::Tcp { TCP_PROXY } else { CONNECTION_MANAGER };
        let options = if protocol == Protocol::Http2 { HTTP2_OPTIONS } else { "" };
        let fill = |template: &str| template.replace("NAME", name).replace("OPTIONS\n", options);
        listeners +=
            &fill(LISTENER).replace("ADDRESS", &socket_address(listener)).replace("FILTER\n", &fill(filter));
        clusters += &fill(CLUSTER).replace("ADDRESS", &socket_address(origin));
    }
    format!(
        "admin:\n  address: {}\nstatic_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}",
        socket_address(ports.admin)
    )
}

fn socket_address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

pub(crate) fn haproxy(ports: &Ports) -> String {
    let mut text = HAPROXY.to_owned();
    for (protocol, listener, origin) in ports.pairs() {
        let name = name(protocol);
        let (mode, version) = match protocol {
            Protocol::Http1 => ("http", ""),
            Protocol::Http2 => ("http", " proto h2"),
            Protocol::Tcp => ("tcp", ""),
        };
        let _ = write!(
            text,
            "frontend {name}\n  mode {mode}\n  bind {listener}{version}\n  default_backend {name}\n\
             backend {name}\n  mode {mode}\n  server origin {origin}{version}\n"
        );
    }
    text
}

pub(crate) fn nginx(ports: &Ports, folder: &Path) -> String {
    let (mut modules, mut http, mut stream) = (String::new(), String::new(), String::new());
    for (protocol, listener, origin) in ports.pairs() {
        if protocol == Protocol::Tcp {
            let module = nginx_stream_module().unwrap_or_default();
            if module.ends_with(".so") {
                let _ = writeln!(modules, "load_module {module};");
            }
            let _ = writeln!(
                stream,
                "stream {{ server {{ listen {listener}; proxy_pass {origin}; tcp_nodelay on; }} }}"
            );
        } else {
            http += &NGINX_SERVER
                .replace("LISTENER", &listener.to_string())
                .replace("ORIGIN", &origin.to_string());
        }
    }
    // Debian's build wants to write below /var.
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(http, "  {kind}_temp_path {}/{kind};", folder.display());
    }
    let head = NGINX.replace("FOLDER", &folder.display().to_string());
    format!("{modules}{head}http {{\n  access_log off;\n{http}}}\n{stream}")
}

/// Where nginx has the module for TCP: Debian packs it apart (`libnginx-mod-stream`).
pub(crate) fn nginx_stream_module() -> Option<&'static str> {
    let file = "/usr/lib/nginx/modules/ngx_stream_module.so";
    Path::new(file).is_file().then_some(file)
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}

const LISTENER: &str = "
  - name: NAME
    address: ADDRESS
    filter_chains:
    - filters:
FILTER
";

const CONNECTION_MANAGER: &str = "
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: NAME
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
OPTIONS
    load_assignment:
      cluster_name: NAME
      endpoints: [{lb_endpoints: [{endpoint: {address: ADDRESS}}]}]
";

const HTTP2_OPTIONS: &str = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";

const HAPROXY: &str = "\
global
  nbthread 1
  maxconn 4096
defaults
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  http-reuse always
";

const NGINX: &str = "\
daemon off;
user root;
worker_processes 1;
pid FOLDER/nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
";

const NGINX_SERVER: &str = "
  keepalive_requests 1000000000;
  upstream origin { server ORIGIN; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen LISTENER;
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ''; }
  }
";
