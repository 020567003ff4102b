//! The document itself: Envoy's bootstrap, in YAML with comments.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use super::proof::Proof;
use super::target::{Authority, Target};
use super::{Args, Role};

/// The bootstrap. Whatever is filled in was checked to need no quoting, or is quoted here.
pub(super) fn yaml(args: &Args, proof: Option<&Proof>) -> String {
    let Target { namespace, name } = &args.target;
    let (role, key) = match args.role {
        Role::Gateway => ("gateway", "GATEWAY"),
        Role::Sidecar => ("sidecar", "POD_NAME"),
    };
    let authority = args.authority();
    let Authority { host, port } = &authority;
    let discovery = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    let admin_port = args.admin_port;
    let identity = proof.map(|proof| identity(args, &authority, proof)).unwrap_or_default();
    let transport = proof.map(|proof| transport(args, proof)).unwrap_or_default();
    let agent = proof.map(agent).unwrap_or_default();
    format!(
        r#"# How a proxy finds the control plane; for sidegate-proxy and for Envoy.
node:
  id: "{role}~{name}.{namespace}"
  cluster: "{name}.{namespace}"
  metadata:
    # Which resources the proxy gets.
    NAMESPACE: "{namespace}"
    {key}: "{name}"
{identity}admin:
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
{transport}    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            # A control plane that vanished without a word is noticed.
            connection_keepalive: {{interval: 30s, timeout: 5s}}
    upstream_connection_options:
      tcp_keepalive: {{keepalive_time: 60}}
{agent}"#
    )
}

/// The same for programs.
pub(super) fn json(yaml: &str) -> Result<String, String> {
    let value: serde_json::Value = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    Ok(format!("{text}\n"))
}

/// Where the proxy's certificate comes from. Envoy ignores it; `sidegate agent` does not.
fn identity(args: &Args, authority: &Authority, proof: &Proof) -> String {
    let (root, token) = (quoted(&proof.root), quoted(&proof.token));
    let mut text = format!(
        "    # As whom it proves itself ({namespace}/{account}), and who signs its certificate.\n",
        namespace = args.target.namespace,
        account = args.account(),
    );
    if let Some(life) = proof.made_for {
        let _ = writeln!(
            text,
            "    # The token was made now and is good for {} minutes: start the proxy within them. Its certificate is renewed without it.",
            life.as_secs() / 60
        );
    }
    let asked = args.ca_address.as_ref().unwrap_or(authority);
    let name = match (&args.ca_server_name, &args.ca_address) {
        (Some(name), _) => name,
        (None, Some(external)) => &external.host,
        (None, None) => SERVER_NAME,
    };
    let _ = write!(
        text,
        r#"    SIDEGATE_IDENTITY:
      ca_address: "{asked}"
      ca_server_name: "{name}"
      root_file: {root}
      token_file: {token}
"#
    );
    if args.ca_address.is_some() {
        let (domain, namespace, account) = (&args.trust_domain, &args.target.namespace, args.account());
        // An authority that is not ours wants to be told who asks, and the order of roots is not its.
        let _ =
            writeln!(text, "      id: spiffe://{domain}/ns/{namespace}/sa/{account}\n      external: true");
    }
    text
}

/// TLS to the control plane: its root, its identity, and for an Envoy the certificate that it shows.
fn transport(args: &Args, proof: &Proof) -> String {
    let root = quoted(&proof.root);
    let trust_domain = &args.trust_domain;
    let shown = if proof.socket.is_some() {
        r#"          tls_certificate_sds_secret_configs:
          - name: default
            sds_config:
              resource_api_version: V3
              api_config_source:
                api_type: GRPC
                transport_api_version: V3
                grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]
"#
    } else {
        ""
    };
    format!(
        r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SERVER_NAME}
        common_tls_context:
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          alpn_protocols: [h2]
{shown}          validation_context:
            trusted_ca: {{filename: {root}}}
            match_typed_subject_alt_names:
            - san_type: URI
              matcher: {{exact: "spiffe://{trust_domain}/ns/sidegate-system/sa/sidegate"}}
"#
    )
}

/// The agent that stands beside an Envoy.
fn agent(proof: &Proof) -> String {
    let Some(socket) = &proof.socket else { return String::new() };
    let path = quoted(socket);
    format!(
        r#"  # `sidegate agent` beside this Envoy: it has the certificate `default`.
  - name: sds-grpc
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: sds-grpc
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{pipe: {{path: {path}}}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {{}}
"#
    )
}

/// A path as YAML and JSON write a string.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().as_ref()).to_string()
}

/// The DNS name of the control plane, which its certificate has wherever it runs.
const SERVER_NAME: &str = "sidegate.sidegate-system.svc";
