//! Service, EndpointSlice, Pod and Secret: what the API server checks and what we read.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;

use super::names;
use super::tree::{Node, Report};
use crate::model::pem;

/// Checks a Service.
pub(super) fn service(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    let ports = spec.get("ports");
    report.unique(&ports, "name");
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        report.port(&port.get("port"));
        report.text(&port.get("name"), names::LABEL);
        if ports.len() > 1 && port.get("name").text_or("").is_empty() {
            report.refuse(&port.get("name"), "required when a Service has several ports");
        }
        report.port(&port.get("targetPort"));
        report.text(&port.get("targetPort"), names::PORT_NAME);
        let protocol = one_of(&port.get("protocol"), &["TCP", "UDP", "SCTP"], report);
        if !seen.insert((port.get("port").integer(), protocol.unwrap_or("TCP"))) {
            report.refuse(&port.get("port"), "this Service already has this port");
        }
    }
    one_of(&spec.get("type"), &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"], report);
    let address = spec.get("clusterIP");
    if !matches!(address.text(), None | Some("" | "None")) {
        report.text(&address, names::IP_ADDRESS);
    }
    if ports.len() == 0 && address.text() != Some("None") && spec.get("type").text() != Some("ExternalName") {
        report.refuse(&ports, "at least one port is needed");
    }
}

/// Checks an EndpointSlice.
pub(super) fn endpoint_slice(root: &Node<'_>, report: &mut Report) {
    report.required(&root.get("addressType"));
    one_of(&root.get("addressType"), &["IPv4", "IPv6", "FQDN"], report);
    let rule = match root.get("addressType").text_or("") {
        "IPv4" => {
            names::Rule { holds: |text| text.parse::<std::net::Ipv4Addr>().is_ok(), says: "an IPv4 address" }
        }
        "IPv6" => {
            names::Rule { holds: |text| text.parse::<std::net::Ipv6Addr>().is_ok(), says: "an IPv6 address" }
        }
        _ => names::HOSTNAME,
    };
    let endpoints = root.get("endpoints");
    report.at_most(&endpoints, 1000);
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        report.at_least_one(&addresses);
        report.at_most(&addresses, 100);
        for address in addresses.items() {
            report.text(&address, rule);
        }
    }
    let ports = root.get("ports");
    report.at_most(&ports, 100);
    report.unique(&ports, "name");
    for port in ports.items() {
        report.port(&port.get("port"));
        one_of(&port.get("protocol"), &["TCP", "UDP", "SCTP"], report);
    }
}

/// Checks a Pod.
pub(super) fn pod(root: &Node<'_>, report: &mut Report) {
    report.text(&root.get("status").get("podIP"), names::IP_ADDRESS);
    for address in root.get("status").get("podIPs").items() {
        report.text(&address.get("ip"), names::IP_ADDRESS);
    }
    let spec = root.get("spec");
    for list in [spec.get("containers"), spec.get("initContainers")] {
        for container in list.items() {
            for port in container.get("ports").items() {
                report.port(&port.get("containerPort"));
                report.text(&port.get("name"), names::PORT_NAME);
            }
        }
    }
}

/// Checks a Secret. What it holds is never shown, not even in part.
pub(super) fn secret(root: &Node<'_>, report: &mut Report) {
    if root.get("type").text() != Some("kubernetes.io/tls") {
        return;
    }
    let certificate = (pem::has_certificate as fn(&[u8]) -> bool, "a certificate in PEM form");
    let key = (pem::has_private_key as fn(&[u8]) -> bool, "a private key in PEM form that is not encrypted");
    for (key, (holds, says)) in [("tls.crt", certificate), ("tls.key", key)] {
        let entry = root.get("data").get(key);
        let Some(text) = entry.text().filter(|text| !text.is_empty()) else {
            report.refuse(&entry, "required in a Secret of type kubernetes.io/tls, and not there or empty");
            continue;
        };
        // What is no base64 was refused when the object was read.
        let bytes = serde_json::from_value::<ByteString>(text.into());
        if bytes.is_ok_and(|bytes| !holds(&bytes.0)) {
            report.refuse(&entry, format!("holds no {}", says.trim_start_matches("a ")));
        }
    }
}

/// The text here, if there is one, is one of a closed set; returned when it is.
fn one_of<'v>(node: &Node<'v>, allowed: &[&str], report: &mut Report) -> Option<&'v str> {
    let text = node.text()?;
    if !allowed.contains(&text) {
        report.refuse(node, format!("{} is not one of {}", super::path::quoted(text), allowed.join(", ")));
        return None;
    }
    Some(text)
}
