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
