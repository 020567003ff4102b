//! HAProxy's configuration.

use std::fmt::Write;

use super::Setting;
use crate::certificates::SERVER_NAME;
use crate::lane::Lane;

/// `splice`: bodies go from socket to socket inside the kernel, where there is no TLS.
pub(crate) fn haproxy(setting: &Setting<'_>, splice: bool) -> String {
    let mut text = "global\n  nbthread 1\n".to_owned();
    // It does not start when it may not have the descriptors that its own default needs.
    let fitting = setting.limits.files.map(|files| files.saturating_sub(OWN_FILES) / 2);
    if let Some(connections) = setting.limits.connections.or(fitting) {
        let _ = writeln!(text, "  maxconn {connections}");
    }
    text += DEFAULTS;
    if splice {
        text += "  option splice-request\n  option splice-response\n";
    }
    let file = |name: &str| setting.certificates.file(name);
    let authority = file("ca.pem");
    for link in setting.links {
        let (lane, listener, origin) = (link.lane, link.listener, link.origin);
        let name = lane.name();
        let mode = if lane.is_opaque() { "tcp" } else { "http" };
        let mut bind = if lane.takes_http2() { " proto h2".to_owned() } else { String::new() };
        let mut server = if lane == Lane::Http2 { " proto h2".to_owned() } else { String::new() };
        if lane == Lane::TlsDown {
            bind = format!(" ssl crt {} ca-file {authority} verify required {VERSION}", file("server.pair"));
        }
        if lane == Lane::TlsUp {
            let name = format!("sni str({SERVER_NAME}) verifyhost {SERVER_NAME}");
            let pair = file("client.pair");
            server = format!(" ssl crt {pair} ca-file {authority} verify required {name} {VERSION}");
        }
        let _ = write!(
            text,
            "frontend {name}\n  mode {mode}\n  bind {listener}{bind}\n  default_backend {name}\n\
             backend {name}\n  mode {mode}\n  server origin {origin}{server}\n"
        );
    }
    text
}

/// Descriptors beside those of connections, generously.
const OWN_FILES: u32 = 28;

const DEFAULTS: &str = "\
defaults
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  http-reuse always
";

const VERSION: &str = "ssl-min-ver TLSv1.3 ssl-max-ver TLSv1.3";
