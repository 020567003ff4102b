//! The proxy's own certificate: got, renewed under load, over, followed to another root, and served to data planes that are not ours (C10).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate_tests::certificates::{Authority, Leaf};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::issuer::{Answer, Issuer, TOKEN};
use sidegate_tests::origin::Origin;
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::secure::Client;
use sidegate_tests::wait;

mod agent;
mod external;
mod floods;
mod grpc;
mod mesh;
mod meshed;
mod plane;
mod rates;
mod renewal;
mod revoked;
mod without;

const WEB: &str = "spiffe://td/ns/shop/sa/web";

/// The name that mesh clients of a scenario ask for; what they get is known by its URI.
const HOST: &str = "web.shop";

/// Where the proxy's own certificate is asked for.
fn own() -> Value {
    json!([{"name": "default", "sds_config": {"resource_api_version": "V3", "api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    }}}])
}

/// Shows the own certificate, asks for one of these authorities.
fn mutual(authorities: &[&Authority]) -> Value {
    let roots: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    json!({"require_client_certificate": true, "common_tls_context": {
        "tls_certificate_sds_secret_configs": own(),
        "validation_context": {"trusted_ca": {"inline_string": roots}},
    }})
}

/// A mesh proxy before a server that answers `hello` by itself.
fn greeting(issuer: &Issuer, sandbox: &Sandbox) -> Gateway {
    Gateway::new()
        .routes("[{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]")
        .tls(mutual(&[&issuer.authority()]))
        .metadata(issuer.identity(sandbox))
        .with_admin()
}

/// A transport socket to such a proxy, as a cluster's fields.
fn towards(issuer: &Issuer) -> String {
    json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": own(),
            "validation_context": {
                "trusted_ca": {"inline_string": issuer.authority().pem},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": WEB}}],
            },
        },
    }}})
    .to_string()
}

/// A client with a long-lived certificate of the authority, which asks for no name that the leaf does not have.
fn client(authority: &Authority) -> Client {
    Client::new(authority, Some(&authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/test")))).any_name()
}

/// A line of the page for Prometheus, by name and labels.
async fn sample(proxy: &Proxy, name: &str) -> f64 {
    let page = proxy.admin("/stats/prometheus").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

/// Waits until `/ready` says this, with 503.
async fn not_ready_says(proxy: &Proxy, words: &str) -> String {
    wait::until(&format!("/ready says {words:?}"), async || {
        let answer = proxy.try_admin("/ready").await?;
        (answer.status == 503 && answer.text().contains(words)).then(|| answer.text())
    })
    .await
}
