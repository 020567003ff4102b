//! The filters of routes, of HTTP and gRPC, of rules and of backends.

use std::collections::BTreeSet;

use super::names;
use super::references::{backend_reference, object_reference};
use super::tree::{Node, Report};

/// A filter's type, the field that carries its settings, and whether one list may have several of it.
const TYPES: [(&str, &str, bool); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier", false),
    ("ResponseHeaderModifier", "responseHeaderModifier", false),
    ("RequestMirror", "requestMirror", true),
    ("RequestRedirect", "requestRedirect", false),
    ("URLRewrite", "urlRewrite", false),
    ("CORS", "cors", false),
    ("ExtensionRef", "extensionRef", true),
    ("ExternalAuth", "externalAuth", false),
];

/// Checks one list of filters.
pub(super) fn filters(list: &Node<'_>, report: &mut Report) {
    report.at_most(list, 16);
    let mut seen = BTreeSet::new();
    for filter in list.items() {
        let kind = filter.get("type");
        for (name, field, repeats) in TYPES {
            let settings = filter.get(field);
            let is_this = kind.text() == Some(name);
            if is_this && !settings.exists() {
                report.refuse(&settings, format!("required for type {name}"));
            } else if !is_this && settings.exists() {
                report.refuse(
                    &settings,
                    format!("does not belong to this type; write type: {name}, or remove it"),
                );
            }
            if is_this && !seen.insert(name) && !repeats {
                report.refuse(&filter, format!("a second {name} in one list; join them"));
            }
        }
        settings(&filter, report);
    }
    if seen.contains("RequestRedirect") && seen.contains("URLRewrite") {
        report.refuse(list, "RequestRedirect and URLRewrite exclude each other");
    }
}

/// Whether a list has a filter of a type.
pub(super) fn has(list: &Node<'_>, kind: &str) -> bool {
    list.items().any(|filter| filter.get("type").text() == Some(kind))
}

/// The settings in a list that replace the prefix of a path: they need one match that has a prefix.
pub(super) fn prefix_replacements<'v>(list: &Node<'v>) -> Vec<Node<'v>> {
    let paths =
        |filter: Node<'v>| [filter.get("requestRedirect").get("path"), filter.get("urlRewrite").get("path")];
    list.items()
        .flat_map(paths)
        .filter(|path| path.get("type").text() == Some("ReplacePrefixMatch"))
        .collect()
}

fn settings(filter: &Node<'_>, report: &mut Report) {
    header_modifier(&filter.get("requestHeaderModifier"), report);
    header_modifier(&filter.get("responseHeaderModifier"), report);
    mirror(&filter.get("requestMirror"), report);
    redirect(&filter.get("requestRedirect"), report);
    let rewrite = filter.get("urlRewrite");
    report.text(&rewrite.get("hostname"), names::HOSTNAME);
    path_modifier(&rewrite.get("path"), report);
    object_reference(&filter.get("extensionRef"), report);
    let authorization = filter.get("externalAuth").get("backendRef");
    if authorization.exists() {
        backend_reference(&authorization, report);
    }
}

fn header_modifier(modifier: &Node<'_>, report: &mut Report) {
    for list in [modifier.get("set"), modifier.get("add")] {
        report.at_most(&list, 16);
        report.unique(&list, "name");
        for header in list.items() {
            report.text(&header.get("name"), names::HEADER_NAME);
            report.text(&header.get("value"), names::HEADER_VALUE);
        }
    }
    let removed = modifier.get("remove");
    report.at_most(&removed, 16);
    for name in removed.items() {
        report.text(&name, names::HEADER_NAME);
    }
}

fn mirror(mirror: &Node<'_>, report: &mut Report) {
    if !mirror.exists() {
        return;
    }
    backend_reference(&mirror.get("backendRef"), report);
    report.range(&mirror.get("percent"), 0..=100);
    let fraction = mirror.get("fraction");
    let numerator = fraction.get("numerator");
    report.range(&numerator, 0..=i64::from(i32::MAX));
    report.range(&fraction.get("denominator"), 1..=i64::from(i32::MAX));
    let denominator = fraction.get("denominator").integer().unwrap_or(100);
    if numerator.integer().is_some_and(|numerator| numerator > denominator) {
        report.refuse(&fraction, format!("numerator is greater than the denominator, {denominator}"));
    }
    if fraction.exists() && mirror.get("percent").exists() {
        report.refuse(&fraction, "percent and fraction exclude each other");
    }
}

fn redirect(redirect: &Node<'_>, report: &mut Report) {
    report.text(&redirect.get("hostname"), names::HOSTNAME);
    report.port(&redirect.get("port"));
    path_modifier(&redirect.get("path"), report);
    let status = redirect.get("statusCode");
    if status.integer().is_some_and(|code| ![301, 302, 303, 307, 308].contains(&code)) {
        report.refuse(&status, "not a redirect; use 301, 302, 303, 307 or 308");
    }
}

fn path_modifier(path: &Node<'_>, report: &mut Report) {
    let pairs = [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")];
    for (kind, field) in pairs {
        let replacement = path.get(field);
        match (path.get("type").text() == Some(kind), replacement.exists()) {
            (true, false) => report.refuse(&replacement, format!("required for type {kind}")),
            (false, true) => report.refuse(&replacement, format!("belongs to type {kind}")),
            _ => {}
        }
        if let Some(text) = replacement.text()
            && (text.len() > 1024 || text.bytes().any(|byte| byte.is_ascii_control() || byte == b' '))
        {
            report.refuse(&replacement, "at most 1024 characters, no spaces or control characters");
        }
    }
}
