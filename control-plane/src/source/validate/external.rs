//! ExternalAuthorizationPolicy.

use super::access::attachment;
use super::names;
use super::references::object_reference;
use super::tree::{Node, Report};

/// Checks an ExternalAuthorizationPolicy.
pub(super) fn external_authorization_policy(root: &Node<'_>, report: &mut Report) {
    let spec = root.get("spec");
    attachment(&spec, report);
    let backend = spec.get("backendRef");
    object_reference(&backend, report);
    report.port(&backend.get("port"));
    let protocol = spec.get("protocol");
    for (own, field) in [("GRPC", "grpc"), ("HTTP", "http")] {
        if spec.get(field).exists() && protocol.text().is_some_and(|protocol| protocol != own) {
            report.refuse(&spec.get(field), format!("belongs to protocol {own}"));
        }
    }
    for names in [
        spec.get("grpc").get("allowedHeaders"),
        spec.get("http").get("allowedHeaders"),
        spec.get("http").get("allowedResponseHeaders"),
    ] {
        report.at_most(&names, 64);
        names.items().for_each(|name| report.text(&name, names::HEADER_NAME));
    }
    let path = spec.get("http").get("path");
    if path.text().is_some_and(|path| !is_path(path)) {
        report.refuse(&path, "is not a path such as /check: it starts with `/`, without query or spaces");
    }
    report.range(&spec.get("forwardBody").get("maxSize"), 1..=LARGEST_BODY);
    report.range(&spec.get("statusOnError"), 400..=599);
    let timeout = spec.get("timeout");
    if report.duration(&timeout).is_some_and(|timeout| timeout.is_zero() || timeout > LONGEST) {
        report.refuse(&timeout, "must be longer than nothing, and at most 1m");
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
}

/// Bytes of a body that a service may see: what our proxy holds at most for it.
const LARGEST_BODY: i64 = 1 << 20;

/// A request waits no longer for a service.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(60);
