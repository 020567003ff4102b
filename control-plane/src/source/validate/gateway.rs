//! Gateway, GatewayClass and ReferenceGrant.

use std::collections::BTreeSet;

use super::names;
use super::references::object_reference;
use super::tree::{Node, Report};

/// Checks a GatewayClass.
pub(super) fn gateway_class(root: &Node<'_>, report: &mut Report) {
    report.text(&root.get("spec").get("controllerName"), names::CONTROLLER_NAME);
}

/// Checks a Gateway.
pub(super) fn gateway(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    report.text(&spec.get("gatewayClassName"), names::SUBDOMAIN);
    let addresses = spec.get("addresses");
    report.at_most(&addresses, 16);
    for address in addresses.items() {
        let value = address.get("value");
        match address.get("type").text_or("IPAddress") {
            "IPAddress" => report.text(&value, names::IP_ADDRESS),
            "Hostname" => report.text(&value, names::HOSTNAME_OR_WILDCARD),
            _ => {}
        }
    }
    let listeners = spec.get("listeners");
    report.at_least_one(&listeners);
    report.at_most(&listeners, 64);
    report.unique(&listeners, "name");
    let mut seen = BTreeSet::new();
    for listener in listeners.items() {
        gateway_listener(&listener, report);
        let port = listener.get("port").integer();
        let identity = (port, listener.get("protocol").text(), listener.get("hostname").text_or(""));
        if !seen.insert(identity) {
            report.refuse(&listener, "another listener has the same port, protocol and hostname");
        }
    }
}

fn gateway_listener(listener: &Node<'_>, report: &mut Report) {
    report.text(&listener.get("name"), names::SUBDOMAIN);
    report.port(&listener.get("port"));
    report.text(&listener.get("protocol"), names::LISTENER_PROTOCOL);
    report.text(&listener.get("hostname"), names::HOSTNAME_OR_WILDCARD);
    let tls = listener.get("tls");
    let mode = tls.get("mode").text_or("Terminate");
    let protocol = listener.get("protocol").text_or("");
    if matches!(protocol, "HTTP" | "TCP" | "UDP") && tls.exists() {
        report.refuse(
            &tls,
            format!("a listener of protocol {protocol} has no TLS; use HTTPS or TLS, or remove it"),
        );
    }
    if protocol == "HTTPS" && tls.exists() && mode != "Terminate" {
        report.refuse(&tls.get("mode"), "HTTPS terminates TLS; use protocol TLS for Passthrough");
    }
    if protocol == "TLS" && !tls.get("mode").exists() {
        report.refuse(&tls.get("mode"), "required for protocol TLS: Terminate or Passthrough");
    }
    if matches!(protocol, "TCP" | "UDP")
        && listener.get("hostname").text().is_some_and(|name| !name.is_empty())
    {
        report.refuse(&listener.get("hostname"), format!("protocol {protocol} knows no hostname"));
    }
    let certificates = tls.get("certificateRefs");
    if tls.exists() && mode == "Terminate" && certificates.len() == 0 && !tls.get("options").exists() {
        report.refuse(&certificates, "required to terminate TLS: name a Secret of type kubernetes.io/tls");
    }
    report.at_most(&certificates, 64);
    for certificate in certificates.items() {
        object_reference(&certificate, report);
    }
    let kinds = listener.get("allowedRoutes").get("kinds");
    report.at_most(&kinds, 8);
    for kind in kinds.items() {
        object_reference(&kind, report);
    }
}

/// Checks a ReferenceGrant.
pub(super) fn reference_grant(root: &Node<'_>, report: &mut Report) {
    for list in [root.get("spec").get("from"), root.get("spec").get("to")] {
        report.at_least_one(&list);
        report.at_most(&list, 16);
        for reference in list.items() {
            object_reference(&reference, report);
        }
    }
}
