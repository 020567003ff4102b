//! nginx's configuration.

use std::fmt::Write;
use std::path::Path;

use super::{Link, Setting};
use crate::certificates::{Certificates, SERVER_NAME};
use crate::lane::Lane;

pub(crate) fn nginx(setting: &Setting<'_>) -> String {
    let (mut modules, mut http, mut stream) = (String::new(), String::new(), String::new());
    for link in setting.links {
        if link.lane.is_opaque() {
            let Link { listener, origin, .. } = link;
            let _ =
                writeln!(stream, "  server {{ listen {listener}; proxy_pass {origin}; tcp_nodelay on; }}");
        } else {
            http += &server(link, setting.certificates);
        }
    }
    // Debian's build wants to write below /var.
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(http, "  {kind}_temp_path {}/{kind};", setting.folder.display());
    }
    if !stream.is_empty() {
        stream = format!("stream {{\n{stream}}}\n");
        if let Some(module) = stream_module() {
            let _ = writeln!(modules, "load_module {module};");
        }
    }
    let connections = setting.limits.connections.unwrap_or(DEFAULT_CONNECTIONS).to_string();
    let head = HEAD.replace("FOLDER", &setting.folder.display().to_string());
    let head = head.replace("CONNECTIONS", &connections);
    format!("{modules}{head}http {{\n{HTTP}{http}}}\n{stream}")
}

fn server(link: &Link, certificates: &Certificates) -> String {
    let file = |name: &str| certificates.file(name);
    let (mut listen, mut scheme, mut options) = ("", "http", String::new());
    match link.lane {
        Lane::Downgrade => listen = " http2",
        Lane::TlsDown => {
            listen = " ssl";
            options = format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; \
                 ssl_verify_client on; ssl_protocols TLSv1.3;",
                file("server.pem"),
                file("server.key"),
                file("ca.pem")
            );
        }
        Lane::TlsUp => {
            scheme = "https";
            options = format!(
                "proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; \
                 proxy_ssl_trusted_certificate {}; proxy_ssl_verify on; proxy_ssl_protocols TLSv1.3; \
                 proxy_ssl_server_name on; proxy_ssl_name {SERVER_NAME};",
                file("client.pem"),
                file("client.key"),
                file("ca.pem")
            );
        }
        _ => {}
    }
    SERVER
        .replace("LISTENER", &format!("{}{listen}", link.listener))
        .replace("ORIGIN", &link.origin.to_string())
        .replace("NAME", link.lane.name())
        .replace("SCHEME", scheme)
        .replace("OPTIONS", &options)
}

/// Where nginx has the module for TCP: Debian packs it apart (`libnginx-mod-stream`).
pub(crate) fn stream_module() -> Option<&'static str> {
    let file = "/usr/lib/nginx/modules/ngx_stream_module.so";
    Path::new(file).is_file().then_some(file)
}

/// What nginx takes when nothing is said.
const DEFAULT_CONNECTIONS: u32 = 512;

const HEAD: &str = "\
daemon off;
user root;
worker_processes 1;
pid FOLDER/nginx.pid;
error_log stderr crit;
events { worker_connections CONNECTIONS; }
";

/// Bodies are passed on as they come, not kept in files.
const HTTP: &str = "
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
";

const SERVER: &str = "
  upstream NAME { server ORIGIN; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen LISTENER;
    OPTIONS
    location / { proxy_pass SCHEME://NAME; proxy_http_version 1.1; proxy_set_header Connection ''; }
  }
";
