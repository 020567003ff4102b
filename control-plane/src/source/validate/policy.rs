//! Sidegate's own policies.

use super::names;
use super::references::object_reference;
use super::tree::{Node, Report};

const LARGEST: i64 = u32::MAX as i64;

/// Checks a RateLimitPolicy.
pub(super) fn rate_limit_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    let allowed = [
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "HTTPRoute"),
        ("gateway.networking.k8s.io", "GRPCRoute"),
        ("", "Service"),
    ];
    targets(&spec.get("targetRefs"), &allowed, report);
    let local = spec.get("local");
    report.range(&local.get("requests"), 1..=LARGEST);
    report.range(&local.get("burst"), 1..=LARGEST);
    positive_duration(&local.get("per"), report);
}

/// Checks a BackendPolicy.
pub(super) fn backend_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    targets(&spec.get("targetRefs"), &[("", "Service")], report);
    // No pending request at all is a way to say "fail rather than queue"; no connection at all is a mistake.
    report.range(&spec.get("limits").get("maxConnections"), 1..=LARGEST);
    report.range(&spec.get("limits").get("maxRequests"), 1..=LARGEST);
    report.range(&spec.get("retryBudget").get("percent"), 0..=100);
    positive_duration(&spec.get("timeouts").get("connect"), report);
}

/// Checks a MeshTLSPolicy.
pub(super) fn mesh_tls_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    let (references, selector, ports) = (spec.get("targetRefs"), spec.get("selector"), spec.get("ports"));
    if references.len() > 0 {
        targets(&references, &[("", "Namespace"), ("", "Service")], report);
        if selector.exists() {
            report.refuse(&selector, "a policy has targetRefs or a selector, not both");
        }
    }
    if selector.exists() && selector.get("matchLabels").has_no_entries() {
        report.refuse(
            &selector.get("matchLabels"),
            "at least one label; leave selector out to mean the whole namespace",
        );
    }
    for target in references.items().filter(|target| target.get("kind").text() == Some("Namespace")) {
        if target.get("name").text() != root.get("metadata").get("namespace").text() {
            report.refuse(
                &target.get("name"),
                "a policy targets the namespace that it stands in, and no other",
            );
        }
    }
    if !spec.get("mode").exists() && ports.has_no_entries() {
        report.refuse(&spec.get("mode"), "required, or a mode for some ports: STRICT, PERMISSIVE or DISABLE");
    }
    let of_namespace = references.items().any(|target| target.get("kind").text() == Some("Namespace"));
    if !ports.has_no_entries() && (of_namespace || !selector.exists() && references.len() == 0) {
        report.refuse(&ports, "a port is one of a workload: use a selector, or targetRefs of kind Service");
    }
    for (key, port) in ports.entries() {
        if !key.parse::<u16>().is_ok_and(|number| number > 0) {
            report.refuse(&port, "is not a port between 1 and 65535 (the app's own port, not the Service's)");
        }
    }
}

pub(super) fn targets(list: &Node<'_>, allowed: &[(&str, &str)], report: &mut Report) {
    report.at_least_one(list);
    report.at_most(list, 16);
    for target in list.items() {
        object_reference(&target, report);
        report.text(&target.get("sectionName"), names::SUBDOMAIN);
        let (group, kind) = (target.get("group").text_or(""), target.get("kind").text_or(""));
        if !allowed.contains(&(group, kind)) {
            let names: Vec<String> =
                allowed.iter().map(|(group, kind)| format!("{kind} (group {group:?})")).collect();
            report.refuse(&target, format!("this policy applies to {}", names.join(", ")));
        }
    }
}

fn positive_duration(node: &Node<'_>, report: &mut Report) {
    if report.duration(node).is_some_and(|duration| duration.is_zero()) {
        report.refuse(node, "must be longer than nothing");
    }
}
