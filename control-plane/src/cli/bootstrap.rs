//! `sidegate bootstrap`: the static configuration with which a proxy finds this control plane.
//!
//! It fits our own proxy and Envoy alike. It does not say which of the two reads it: our proxy adds the mark `SIDEGATE` to its
//! node's metadata by itself.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;

use clap::ValueEnum;

/// The flags of `sidegate bootstrap`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the proxy is.
    #[arg(value_enum)]
    role: Role,
    /// The Gateway, or the sidecar's Pod.
    #[arg(value_name = "NAMESPACE/NAME")]
    target: Target,
    /// Where the control plane listens for proxies.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15010")]
    xds: Authority,
    /// The port of the proxy's admin page, on the loopback address.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    admin_port: u16,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// It serves the listeners of a Gateway.
    Gateway,
    /// It stands beside one Pod's app.
    Sidecar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With comments.
    Yaml,
    /// For programs.
    Json,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let text = match args.format {
        Format::Yaml => Ok(yaml(args)),
        Format::Json => json(&yaml(args)),
    };
    match text {
        Ok(text) => {
            // A reader that has seen enough (`| head`) is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(reason) => super::cannot(reason),
    }
}

/// The bootstrap. Whatever is filled in was checked to need no quoting.
fn yaml(args: &Args) -> String {
    let Target { namespace, name } = &args.target;
    let (role, key) = match args.role {
        Role::Gateway => ("gateway", "GATEWAY"),
        Role::Sidecar => ("sidecar", "POD_NAME"),
    };
    let Authority { host, port } = &args.xds;
    let discovery = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    let admin_port = args.admin_port;
    format!(
        r#"# How a proxy finds the control plane; for sidegate-proxy and for Envoy.
node:
  id: "{role}~{name}.{namespace}"
  cluster: "{name}.{namespace}"
  metadata:
    # Which resources the proxy gets.
    NAMESPACE: "{namespace}"
    {key}: "{name}"
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: {discovery}
    connect_timeout: 2s
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: "{host}", port_value: {port}}}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            # A control plane that vanished without a word is noticed.
            connection_keepalive: {{interval: 30s, timeout: 5s}}
    upstream_connection_options:
      tcp_keepalive: {{keepalive_time: 60}}
"#
    )
}

fn json(yaml: &str) -> Result<String, String> {
    let value: serde_json::Value = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    Ok(format!("{text}\n"))
}

/// `namespace/name` of a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    namespace: String,
    name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME, e.g. shop/public")?;
        for part in [namespace, name] {
            if !is_kubernetes_name(part) {
                return Err(format!(
                    "{part:?} is not a name that Kubernetes allows: lower-case letters, digits, - and ."
                ));
            }
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

fn is_kubernetes_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 253 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}

/// `host:port`, where the host is a name or an address (IPv6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: u16,
}

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write HOST:PORT, e.g. 127.0.0.1:15010 or [::1]:15010";
        let (host, port) = text.rsplit_once(':').ok_or(form)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(form)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_kubernetes_name(&host.to_ascii_lowercase()),
        };
        if !known {
            return Err(format!("{host:?} is not a host; {form}"));
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
    use sidegate_xds::json::{Descriptors, Format as Document};

    use super::*;

    fn args(role: Role, target: &str, xds: &str) -> Args {
        Args {
            role,
            target: target.parse().unwrap(),
            xds: xds.parse().unwrap(),
            admin_port: 15000,
            format: Format::Yaml,
        }
    }

    #[test]
    fn what_is_printed_is_envoys_bootstrap() {
        let descriptors = Descriptors::load().unwrap();
        let table = [
            (Role::Gateway, "shop/public", "127.0.0.1:15010", "gateway~public.shop", "GATEWAY"),
            (Role::Sidecar, "shop/web-1", "[::1]:15010", "sidecar~web-1.shop", "POD_NAME"),
            (
                Role::Sidecar,
                "default/1.5",
                "control.sidegate-system.svc:15010",
                "sidecar~1.5.default",
                "POD_NAME",
            ),
        ];
        for (role, target, xds, id, key) in table {
            let yaml = yaml(&args(role, target, xds));
            for (text, document) in [(yaml.clone(), Document::Yaml), (json(&yaml).unwrap(), Document::Json)] {
                let bootstrap: Bootstrap = descriptors.decode(&text, document).unwrap_or_else(|problems| {
                    panic!("{target}: {problems:?}\n{text}");
                });
                let node = bootstrap.node.unwrap();
                assert_eq!(node.id, id);
                let fields = node.metadata.unwrap().fields;
                assert!(fields.contains_key(key) && fields.contains_key("NAMESPACE") && fields.len() == 2);
            }
        }
    }

    #[test]
    fn what_would_need_quoting_is_refused() {
        for target in ["shop", "shop/", "/web", "Shop/web", "shop/we\"b", "shop/web: x", "shop/web/1"] {
            assert!(target.parse::<Target>().is_err(), "{target}");
        }
        for xds in ["127.0.0.1", "127.0.0.1:0", "a b:1", "::1:15010x", "[::g]:1", ":15010", "host:99999"] {
            assert!(xds.parse::<Authority>().is_err(), "{xds}");
        }
    }
}
