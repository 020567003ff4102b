//! `/certs`: the certificates in use, in the shape of `envoy.admin.v3.Certificates`. Keys are never here.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::State;
use crate::telemetry::rfc3339;
use crate::tls::Shown;

pub(super) fn certs(state: &State) -> Value {
    let shown = state.certificates.read();
    let part = |is_root: bool| -> Vec<Value> {
        shown.iter().filter(|shown| shown.is_root == is_root).map(certificate).collect()
    };
    // One entry for each context in Envoy; which ones go together says nothing that names do not.
    json!({ "certificates": [{ "ca_cert": part(true), "cert_chain": part(false) }] })
}

fn certificate(shown: &Shown) -> Value {
    let certificate = &shown.certificate;
    let names = &certificate.names;
    let uris = names.uris.iter().map(|name| json!({ "uri": name }));
    let dns = names.dns.iter().map(|name| json!({ "dns": name }));
    let addresses = names.addresses.iter().map(|address| json!({ "ip_address": address.to_string() }));
    let left = certificate.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    json!({
        "path": &*shown.source,
        "serial_number": certificate.serial,
        "subject_alt_names": uris.chain(dns).chain(addresses).collect::<Vec<_>>(),
        "days_until_expiration": (left.as_secs() / 86_400).to_string(),
        "valid_from": rfc3339(certificate.not_before),
        "expiration_time": rfc3339(certificate.not_after),
    })
}
