//! `/certs`: the certificates in use, in the shape of `envoy.admin.v3.Certificates`. Keys are never here.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::State;
use crate::telemetry::rfc3339;
use crate::tls::Certificate;

pub(super) fn certs(state: &State) -> Value {
    let shown = state.certificates.read();
    let part = |is_root: bool| -> Vec<Value> {
        let shown = shown.iter().filter(|shown| shown.is_root == is_root);
        shown.map(|shown| certificate(&shown.source, &shown.certificate)).collect()
    };
    // One entry for each context in Envoy; which ones go together says nothing that names do not.
    let mut entries = vec![json!({ "ca_cert": part(true), "cert_chain": part(false) })];
    if let Some(identity) = &state.identity {
        let report = identity.read();
        let one = |facts: &Certificate| certificate(IDENTITY, facts);
        entries.push(json!({
            "ca_cert": report.roots.iter().map(one).collect::<Vec<_>>(),
            "cert_chain": report.leaf.iter().map(one).collect::<Vec<_>>(),
        }));
    }
    json!({ "certificates": entries })
}

/// Where the proxy's own certificate and its roots come from, whether a context has them or not.
const IDENTITY: &str = "the proxy's own identity";

fn certificate(source: &str, certificate: &Certificate) -> Value {
    let names = &certificate.names;
    let uris = names.uris.iter().map(|name| json!({ "uri": name }));
    let dns = names.dns.iter().map(|name| json!({ "dns": name }));
    let addresses = names.addresses.iter().map(|address| json!({ "ip_address": address.to_string() }));
    let left = certificate.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    json!({
        "path": source,
        "serial_number": certificate.serial,
        "subject_alt_names": uris.chain(dns).chain(addresses).collect::<Vec<_>>(),
        "days_until_expiration": (left.as_secs() / 86_400).to_string(),
        "valid_from": rfc3339(certificate.not_before),
        "expiration_time": rfc3339(certificate.not_after),
    })
}
