//! JWTPolicy: whatever a proxy would refuse, or would read otherwise than its author, refuses the object.

use super::access::attachment;
use super::names;
use super::tree::{Node, Report};
use crate::model::access::bounds::may_be_written;
use crate::model::access::key_set;

/// Checks a JWTPolicy.
pub(super) fn jwt_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    attachment(&spec, report);
    let rules = spec.get("jwtRules");
    report.at_least_one(&rules);
    report.at_most(&rules, 64);
    report.unique(&rules, "issuer");
    rules.items().for_each(|rule| jwt_rule(&rule, report));
}

fn jwt_rule(rule: &Node<'_>, report: &mut Report) {
    if rule.get("issuer").text() == Some("") {
        report.refuse(&rule.get("issuer"), "is empty");
    }
    let (uri, keys) = (rule.get("jwksUri"), rule.get("jwks"));
    match (uri.exists(), keys.exists()) {
        (true, true) => report.refuse(&keys, "jwks and jwksUri exclude each other"),
        (false, false) => {
            report.refuse(&keys, "either jwks (the keys) or jwksUri (where they are) is needed")
        }
        _ => {}
    }
    if uri.text().is_some_and(|text| !is_url(text)) {
        report.refuse(&uri, "is no URL such as https://issuer.example/keys.json");
    }
    if let Some(text) = keys.text()
        && let Err(problem) = key_set(text)
    {
        report.refuse(&keys, problem);
    }
    places(rule, report);
    outputs(rule, report);
}

/// Where tokens are.
fn places(rule: &Node<'_>, report: &mut Report) {
    for field in ["fromHeaders", "fromParams", "fromCookies"] {
        report.at_most(&rule.get(field), 64);
    }
    for header in rule.get("fromHeaders").items() {
        let name = header.get("name");
        report.text(&name, names::HEADER_NAME);
        writable(&name, report);
    }
    for field in ["fromParams", "fromCookies"] {
        for name in rule.get(field).items().filter(|name| name.text() == Some("")) {
            report.refuse(&name, "is empty");
        }
    }
}

/// Headers that a proxy writes.
fn outputs(rule: &Node<'_>, report: &mut Report) {
    let claims = rule.get("outputClaimToHeaders");
    report.at_most(&claims, 64);
    let headers = claims.items().map(|output| output.get("header"));
    for header in headers.chain([rule.get("outputPayloadToHeader")]) {
        report.text(&header, names::HEADER_NAME);
        writable(&header, report);
        let Some(name) = header.text() else { continue };
        if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
            report.refuse(&header, format!("{name} says how a request is framed: no claim may"));
        }
        // It is taken from every request first, and the token with it.
        if token_headers(rule).iter().any(|token| name.eq_ignore_ascii_case(token)) {
            report.refuse(&header, format!("the token itself stands in {name}"));
        }
    }
    for claim in claims.items().map(|output| output.get("claim")) {
        if claim.text() == Some("") {
            report.refuse(&claim, "is empty");
        }
    }
}

fn writable(header: &Node<'_>, report: &mut Report) {
    if header.text().is_some_and(|name| !may_be_written(name)) {
        report
            .refuse(header, "says where a request goes: it is not a header to read tokens from, or to write");
    }
}

/// The headers that a rule's tokens are in.
fn token_headers<'v>(rule: &Node<'v>) -> Vec<&'v str> {
    let (headers, parameters, cookies) =
        (rule.get("fromHeaders"), rule.get("fromParams"), rule.get("fromCookies"));
    if headers.len() + parameters.len() + cookies.len() == 0 {
        return vec!["authorization"];
    }
    let mut names: Vec<_> = headers.items().filter_map(|header| header.get("name").text()).collect();
    if cookies.len() > 0 {
        names.push("cookie");
    }
    names
}

/// What a reader tells the next request from this one by.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

fn is_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    })
}
