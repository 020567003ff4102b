//! AuthorizationPolicy. A policy that means something else than its author thinks is worse than none: whatever is in
//! doubt refuses the object.

use super::policy::targets;
use super::tree::{Node, Report};
use crate::model::access::{Attribute, LISTS, PathTemplate, sent_template};
use crate::model::block::Block;

/// Checks an AuthorizationPolicy.
pub(super) fn authorization_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    attachment(&spec, report);
    let rules = spec.get("rules");
    report.at_most(&rules, 512);
    for rule in rules.items() {
        let (from, to, when) = (rule.get("from"), rule.get("to"), rule.get("when"));
        for list in [&from, &to, &when] {
            report.at_most(list, 512);
            if list.exists() && list.len() == 0 {
                report.refuse(list, "is empty: leave it out if everything is meant");
            }
        }
        from.items().for_each(|from| source(&from.get("source"), report));
        to.items().for_each(|to| operation(&to.get("operation"), report));
        when.items().for_each(|when| condition(&when, report));
    }
}

/// Either targets or a selector.
pub(super) fn attachment(spec: &Node<'_>, report: &mut Report) {
    let (references, selector) = (spec.get("targetRefs"), spec.get("selector"));
    if references.exists() && selector.exists() {
        report.refuse(&selector, "targetRefs and selector exclude each other");
    }
    if references.exists() {
        targets(&references, &[("", "Service"), ("gateway.networking.k8s.io", "Gateway")], report);
    }
    if selector.exists() && !selector.get("matchLabels").exists() {
        report.refuse(&selector.get("matchLabels"), "required: leave the selector out if every Pod is meant");
    }
}

/// A place of a rule with its lists; something must be said, or the place would match everything unseen.
fn lists(node: &Node<'_>, fields: &[&str], report: &mut Report) {
    let mut any = false;
    for field in fields {
        let list = node.get(field);
        report.at_most(&list, 512);
        for value in list.items() {
            any = true;
            match value.text() {
                Some("") => report.refuse(&value, "is empty; `*` matches when there is anything"),
                Some(text) if text.len() > 4096 => report.refuse(&value, "is longer than 4096 characters"),
                _ => {}
            }
        }
        if list.exists() && list.len() == 0 {
            report.refuse(&list, "is empty: leave it out, or say what it must match");
            any = true;
        }
    }
    if !any {
        report.refuse(node, format!("says nothing: it needs at least one of {}", fields.join(", ")));
    }
}

fn source(node: &Node<'_>, report: &mut Report) {
    let fields = [
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ];
    lists(node, &fields, report);
    for field in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
        node.get(field).items().for_each(|value| block(&value, report));
    }
    for field in ["serviceAccounts", "notServiceAccounts"] {
        node.get(field).items().for_each(|value| account(&value, report));
    }
    for field in ["principals", "notPrincipals"] {
        node.get(field).items().for_each(|value| wildcards(&value, report));
    }
    for field in ["requestPrincipals", "notRequestPrincipals"] {
        node.get(field).items().for_each(|value| request_principal(&value, report));
    }
    for field in ["namespaces", "notNamespaces"] {
        node.get(field).items().for_each(|value| namespace(&value, report));
    }
}

/// What stands in the middle would be a star in a text that has none: it never matches, and a `DENY` would deny nobody.
fn wildcards(value: &Node<'_>, report: &mut Report) {
    if value.text().is_some_and(has_inner_wildcard) {
        report.refuse(value, "`*` may stand at the beginning or at the end only");
    }
}

/// Claims that are lists, written with spaces between.
fn element(value: &Node<'_>, report: &mut Report) {
    wildcards(value, report);
    if value.text().is_some_and(|text| text.contains(char::is_whitespace)) {
        report.refuse(value, "is several elements: the claim is a list, of which a value is one");
    }
}

fn account(value: &Node<'_>, report: &mut Report) {
    if value.text().is_some_and(|text| text.contains('*') || text.matches('/').count() > 1) {
        report.refuse(value, "write NAMESPACE/NAME or NAME, without wildcards");
    }
}

fn request_principal(value: &Node<'_>, report: &mut Report) {
    wildcards(value, report);
    if value.text().is_some_and(|text| !text.contains(['/', '*'])) {
        report.refuse(value, "is no ISSUER/SUBJECT");
    }
    if value.text().is_some_and(|text| text.matches('/').count() > MOST_SLASHES) {
        report.refuse(
            value,
            format!("has more than {MOST_SLASHES} slashes: it is looked at from each of them"),
        );
    }
}

/// Where a request principal may be parted.
const MOST_SLASHES: usize = 32;

fn namespace(value: &Node<'_>, report: &mut Report) {
    wildcards(value, report);
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'*');
    if value.text().is_some_and(|text| !text.bytes().all(fits)) {
        report.refuse(value, "is no name of a namespace: it has a-z, 0-9 and '-' only");
    }
}

fn operation(node: &Node<'_>, report: &mut Report) {
    let fields = ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];
    lists(node, &fields, report);
    for field in ["ports", "notPorts"] {
        node.get(field).items().for_each(|value| port(&value, report));
    }
    for field in ["paths", "notPaths"] {
        for value in node.get(field).items() {
            let Some(text) = value.text() else { continue };
            if let Err(problem) = path(text) {
                report.refuse(&value, problem);
            }
        }
    }
    for field in ["hosts", "notHosts", "methods", "notMethods"] {
        node.get(field).items().for_each(|value| wildcards(&value, report));
    }
    for field in ["methods", "notMethods"] {
        node.get(field).items().for_each(|value| method(&value, report));
    }
    for field in ["hosts", "notHosts"] {
        for value in node.get(field).items() {
            if value.text().is_some_and(|text| !text.bytes().all(|byte| byte.is_ascii_graphic())) {
                report.refuse(&value, "is no host: it has letters, digits, dots and dashes, perhaps a port");
            }
        }
    }
}

/// A method is a token (RFC 9110), perhaps with a star at one end.
fn method(value: &Node<'_>, report: &mut Report) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if value.text().is_some_and(|text| !text.bytes().all(is_token)) {
        report.refuse(value, "is no method such as GET");
    }
}

fn has_inner_wildcard(text: &str) -> bool {
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    inner.contains('*')
}

/// A path: `/a`, `/a*`, `*/a`, `*`, or a template. What our own canonical form never has can never match: that is a mistake.
fn path(text: &str) -> Result<(), String> {
    if text.contains(['{', '}']) {
        return template(text);
    }
    if has_inner_wildcard(text) {
        return Err(
            "`*` may stand at the beginning or at the end only; within a path use a template: /a/{*}/b"
                .to_owned(),
        );
    }
    if !text.starts_with(['/', '*']) {
        return Err("a path starts with `/` (or `*`)".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err("paths are matched without their query; leave out `?` and `#`".to_owned());
    }
    canonical(text)
}

/// What our canonical form never has can never match (`message/path.rs` of the proxy): a `DENY` on it would deny nothing.
fn canonical(text: &str) -> Result<(), String> {
    let never = |why: &str| Err(format!("requests never have such a path: {why}"));
    if text.contains(|c: char| c.is_control() || c == ' ') {
        return never("spaces and control characters are refused");
    }
    if text.contains("//") || text.contains('\\') || text.split('/').any(|part| matches!(part, "." | "..")) {
        return never("it is made canonical first (RFC 3986): no `//`, `\\`, `/./` or `/../`");
    }
    for (at, _) in text.match_indices('%') {
        let digits = text.get(at + 1..at + 3).unwrap_or("");
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
        match byte {
            None | Some(0) => return never("`%` begins two hexadecimal digits, and not `%00`"),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                return never(&format!(
                    "`%{digits}` is written `{}` when it is made canonical",
                    char::from(byte)
                ));
            }
            Some(_) if digits.contains(|c: char| c.is_ascii_lowercase()) => {
                return never(&format!("`%{digits}` has capitals when it is made canonical"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// `{*}` for one segment; `{**}`, as the last one, for any number of them.
fn template(text: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: a template is like /a/{{*}}/b or /a/{{**}}"));
    if !text.starts_with('/') {
        return wrong("it does not start with `/`");
    }
    let mut many = false;
    for segment in text[1..].split('/') {
        if many {
            return wrong("`{**}` is not its last part");
        }
        many |= segment == "{**}";
        if !matches!(segment, "{*}" | "{**}") && segment.contains(['{', '}', '*']) {
            return wrong("a wildcard is a segment of its own");
        }
    }
    canonical(text)?;
    // What a proxy would refuse must not be sent.
    PathTemplate::parse(&sent_template(text)).map(drop).map_err(|error| error.to_string())
}

fn port(value: &Node<'_>, report: &mut Report) {
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if value.text().is_some_and(|text| !is_port(text)) {
        report.refuse(value, "is not a port between 1 and 65535, in quotes");
    }
}

fn block(value: &Node<'_>, report: &mut Report) {
    let Some(text) = value.text() else { return };
    if text.parse::<Block>().is_err() {
        report.refuse(value, "is no address or block such as 10.0.0.0/8 or 2001:db8::1");
    }
}

fn condition(node: &Node<'_>, report: &mut Report) {
    let key = node.get("key");
    lists(node, &["values", "notValues"], report);
    let attribute = match key.text().map(Attribute::parse) {
        None => return,
        Some(Err(problem)) => return report.refuse(&key, problem),
        Some(Ok(attribute)) => attribute,
    };
    for list in [node.get("values"), node.get("notValues")] {
        for value in list.items() {
            match attribute {
                Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => block(&value, report),
                Attribute::DestinationPort => port(&value, report),
                Attribute::Claim(ref path) if matches!(path.as_slice(), [name] if LISTS.contains(&name.as_str())) =>
                {
                    element(&value, report);
                }
                Attribute::SourceServiceAccount => account(&value, report),
                Attribute::SourceNamespace => namespace(&value, report),
                Attribute::RequestPrincipal => request_principal(&value, report),
                _ => wildcards(&value, report),
            }
        }
    }
}
