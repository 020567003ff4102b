//! HTTPRoute and GRPCRoute: hostnames, parents, rules, matches.

use super::filters::{filters, has, prefix_replacements};
use super::names;
use super::references::{backend_reference, parents};
use super::tree::{Node, Report};

/// Checks an HTTPRoute.
pub(super) fn http_route(root: &Node<'_>, report: &mut Report) {
    for rule in route(root, report).items() {
        for found in rule.get("matches").items() {
            http_match(&found, report);
        }
        redirect_or_backends(&rule, report);
        prefix_needs_prefix(&rule, report);
        timeouts(&rule.get("timeouts"), report);
        retry(&rule.get("retry"), report);
    }
}

/// Checks a GRPCRoute.
pub(super) fn grpc_route(root: &Node<'_>, report: &mut Report) {
    for rule in route(root, report).items() {
        for found in rule.get("matches").items() {
            grpc_method(&found.get("method"), report);
            valued_matches(&found.get("headers"), names::HEADER_VALUE, report);
        }
    }
}

/// What both have in common; returns the rules.
fn route<'v>(root: &Node<'v>, report: &mut Report) -> Node<'v> {
    let spec = root.get("spec");
    let hostnames = spec.get("hostnames");
    report.at_most(&hostnames, 16);
    for hostname in hostnames.items() {
        report.text(&hostname, names::HOSTNAME_OR_WILDCARD);
    }
    parents(&spec.get("parentRefs"), report);
    let rules = spec.get("rules");
    report.at_most(&rules, 16);
    report.unique(&rules, "name");
    for rule in rules.items() {
        report.text(&rule.get("name"), names::SUBDOMAIN);
        report.at_most(&rule.get("matches"), 64);
        filters(&rule.get("filters"), report);
        backends(&rule.get("backendRefs"), report);
        session_persistence(&rule.get("sessionPersistence"), report);
    }
    let matches: usize = rules.items().map(|rule| rule.get("matches").len()).sum();
    if matches > 128 {
        report.refuse(&rules, format!("{matches} matches in all rules together; at most 128 are allowed"));
    }
    rules
}

fn backends(list: &Node<'_>, report: &mut Report) {
    report.at_most(list, 16);
    for backend in list.items() {
        backend_reference(&backend, report);
        report.range(&backend.get("weight"), 0..=1_000_000);
        filters(&backend.get("filters"), report);
    }
}

fn http_match(found: &Node<'_>, report: &mut Report) {
    let path = found.get("path");
    let value = path.get("value");
    match path.get("type").text_or("PathPrefix") {
        "RegularExpression" => report.regular_expression(&value),
        _ => report.text(&value, names::PATH),
    }
    valued_matches(&found.get("headers"), names::HEADER_VALUE, report);
    let any_text =
        names::Rule { holds: |text| (1..=1024).contains(&text.len()), says: "1 to 1024 characters" };
    valued_matches(&found.get("queryParams"), any_text, report);
}

/// Headers and query parameters: a name, and a value that is equal or matches.
fn valued_matches(list: &Node<'_>, value_rule: names::Rule, report: &mut Report) {
    report.at_most(list, 16);
    report.unique(list, "name");
    for found in list.items() {
        report.text(&found.get("name"), names::HEADER_NAME);
        let value = found.get("value");
        match found.get("type").text_or("Exact") {
            "RegularExpression" => report.regular_expression(&value),
            _ => report.text(&value, value_rule),
        }
    }
}

fn grpc_method(method: &Node<'_>, report: &mut Report) {
    if !method.exists() {
        return;
    }
    let (service, name) = (method.get("service"), method.get("method"));
    if !service.exists() && !name.exists() {
        report.refuse(method, "needs a service, a method, or both");
    }
    if method.get("type").text_or("Exact") == "RegularExpression" {
        report.regular_expression(&service);
        report.regular_expression(&name);
    } else {
        report.text(&service, names::GRPC_SERVICE);
        report.text(&name, names::GRPC_METHOD);
    }
}

fn redirect_or_backends(rule: &Node<'_>, report: &mut Report) {
    if has(&rule.get("filters"), "RequestRedirect") && rule.get("backendRefs").len() > 0 {
        report
            .refuse(&rule.get("backendRefs"), "a rule that redirects has no backends; remove one of the two");
    }
}

/// Replacing a matched prefix means something only when there is exactly one, and it is a prefix.
fn prefix_needs_prefix(rule: &Node<'_>, report: &mut Report) {
    let matches = rule.get("matches");
    let prefix = |found: Node<'_>| found.get("path").get("type").text_or("PathPrefix") == "PathPrefix";
    // No match at all stands for one: the prefix "/".
    if !matches.exists() || (matches.len() == 1 && matches.items().all(prefix)) {
        return;
    }
    let of_backends =
        rule.get("backendRefs").items().map(|backend| backend.get("filters")).collect::<Vec<_>>();
    for list in [rule.get("filters")].iter().chain(&of_backends) {
        for path in prefix_replacements(list) {
            report
                .refuse(&path, "ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix");
        }
    }
}

fn timeouts(timeouts: &Node<'_>, report: &mut Report) {
    let request = report.duration(&timeouts.get("request"));
    let backend = report.duration(&timeouts.get("backendRequest"));
    if let (Some(request), Some(backend)) = (request, backend)
        && !request.is_zero()
        && backend > request
    {
        report.refuse(&timeouts.get("backendRequest"), "longer than the timeout of the whole request");
    }
}

fn retry(retry: &Node<'_>, report: &mut Report) {
    report.range(&retry.get("attempts"), 0..=i64::from(u32::MAX));
    report.duration(&retry.get("backoff"));
    for code in retry.get("codes").items() {
        report.range(&code, 400..=599);
    }
}

fn session_persistence(session: &Node<'_>, report: &mut Report) {
    report.duration(&session.get("absoluteTimeout"));
    report.duration(&session.get("idleTimeout"));
    let lifetime = session.get("cookieConfig").get("lifetimeType");
    if lifetime.text() == Some("Permanent") && !session.get("absoluteTimeout").exists() {
        report.refuse(&session.get("absoluteTimeout"), "required when the cookie is Permanent");
    }
}
