//! References: to a parent, to a backend, to a policy's target.

use std::collections::BTreeMap;

use super::names;
use super::tree::{Node, Report};

/// A part of a parent: its section, its port.
type Part<'v> = (Option<&'v str>, Option<i64>);

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Group, kind, name and namespace, each if it is there.
pub(super) fn object_reference(reference: &Node<'_>, report: &mut Report) {
    report.text(&reference.get("group"), names::GROUP);
    report.text(&reference.get("kind"), names::KIND);
    report.text(&reference.get("name"), names::SUBDOMAIN);
    report.text(&reference.get("namespace"), names::LABEL);
}

/// A reference to something that answers requests: a Service needs its port.
pub(super) fn backend_reference(reference: &Node<'_>, report: &mut Report) {
    object_reference(reference, report);
    report.port(&reference.get("port"));
    let is_service = reference.get("group").text_or("").is_empty()
        && reference.get("kind").text_or("Service") == "Service";
    if is_service && !reference.get("port").exists() {
        report.refuse(&reference.get("port"), "required for a Service: the port to send to");
    }
}

/// A route's parents. One parent may be named twice only for different parts of it.
pub(super) fn parents(list: &Node<'_>, report: &mut Report) {
    report.at_most(list, 32);
    let mut seen: BTreeMap<[&str; 4], Vec<Part<'_>>> = BTreeMap::new();
    for parent in list.items() {
        object_reference(&parent, report);
        report.port(&parent.get("port"));
        report.text(&parent.get("sectionName"), names::SUBDOMAIN);
        let identity = [
            parent.get("group").text_or(GATEWAY_GROUP),
            parent.get("kind").text_or("Gateway"),
            parent.get("namespace").text_or(""),
            parent.get("name").text_or(""),
        ];
        let part = (parent.get("sectionName").text(), parent.get("port").integer());
        let parts = seen.entry(identity).or_default();
        let whole = part == (None, None) || parts.contains(&(None, None));
        if parts.contains(&part) || (whole && !parts.is_empty()) {
            report.refuse(
                &parent,
                "names a parent twice; give each its own sectionName or port, or remove one",
            );
        }
        parts.push(part);
    }
}
