//! TLS at either end of the proxy: who is let in, what is shown, what is never sent (C1 to C12).

use std::net::SocketAddr;

use serde_json::{Value, json};
use sidegate_tests::certificates::{Authority, Leaf, Pair, self_signed};
use sidegate_tests::gateway::{Gateway, Proxy, typed};
use sidegate_tests::origin::Origin;
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::secure::{self, Client};

mod battery;
mod connecting;
mod downstream;
mod handshakes;
mod mesh;
mod revocation;
mod rotation;
mod scanners;
mod upstream;

/// A `DownstreamTlsContext` that shows these, and asks for nothing.
fn showing(pairs: &[&Pair]) -> Value {
    let certificates: Vec<_> = pairs.iter().map(|pair| pair.inline()).collect();
    json!({"common_tls_context": {"tls_certificates": certificates, "alpn_protocols": ["h2", "http/1.1"]}})
}

/// The same; clients must show a certificate of this authority.
fn requiring(pairs: &[&Pair], authority: &Authority) -> Value {
    let mut context = showing(pairs);
    context["require_client_certificate"] = json!(true);
    context["common_tls_context"]["validation_context"] =
        json!({"trusted_ca": {"inline_string": authority.pem}});
    context
}

/// A transport socket that trusts this authority, with fields laid over its `UpstreamTlsContext`.
fn trusting(authority: &Authority, fields: Value) -> String {
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": authority.pem}}},
    });
    merge(&mut context, fields);
    json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}).to_string()
}

fn merge(base: &mut Value, fields: Value) {
    match (base, fields) {
        (Value::Object(base), Value::Object(fields)) => {
            for (name, value) in fields {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, value) => *base = value,
    }
}

/// A gateway that answers `hello` by itself.
fn greeting() -> Gateway {
    Gateway::new()
        .routes("[{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]")
}

/// A gateway whose every request goes to one endpoint over TLS.
fn originating(endpoint: SocketAddr, fields: &str) -> Gateway {
    Gateway::new()
        .cluster_with("app", &[endpoint], fields)
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
}

/// A counter of the admin page, by its whole name with labels.
async fn counter(proxy: &Proxy, name: &str) -> u64 {
    let page = proxy.admin("/stats").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{page}"))
}
