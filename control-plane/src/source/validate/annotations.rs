//! The annotations that Sidegate reads, `sidegate.dev/…`: which there are, and what they say.
//!
//! What is unknown or malformed refuses the whole object, as an unknown field does. A Pod without the annotation that puts a sidecar in front
//! of it is reached without one, past every policy: the last good form is the one to keep.

use serde_json::{Map, Value};

use super::names;
use super::path::join;
use super::{Kind, Problem};
use crate::model::access::DRY_RUN;
use crate::model::annotation::{INBOUND, OUTBOUND_PROXY, PREFIX, SERVICE_ACCOUNT, inbound, outbound_proxy};

/// Reports what is unknown or malformed.
pub(crate) fn check(kind: Kind, object: &Map<String, Value>) -> Vec<Problem> {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object) else { return Vec::new() };
    let mut problems = Vec::new();
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        // A value that is not text is the published type's to refuse.
        let Some(text) = value.as_str() else { continue };
        let wrong = match (kind, key.as_str()) {
            (Kind::Pod, INBOUND) => inbound(text).err(),
            (Kind::Pod, OUTBOUND_PROXY) => outbound_proxy(text).err(),
            (Kind::Gateway, SERVICE_ACCOUNT) => {
                (!(names::SUBDOMAIN.holds)(text)).then(|| format!("is not {}", names::SUBDOMAIN.says))
            }
            (Kind::AuthorizationPolicy, DRY_RUN) => {
                (!matches!(text, "true" | "false")).then(|| "is neither \"true\" nor \"false\"".to_owned())
            }
            (_, DRY_RUN) => Some("has a meaning on an AuthorizationPolicy only".to_owned()),
            (_, SERVICE_ACCOUNT) => Some("has a meaning on a Gateway only".to_owned()),
            (_, INBOUND | OUTBOUND_PROXY) => Some("has a meaning on a Pod only".to_owned()),
            _ => Some(format!(
                "Sidegate has no such annotation; it has {INBOUND}, {OUTBOUND_PROXY}, {SERVICE_ACCOUNT} and {DRY_RUN}"
            )),
        };
        if let Some(message) = wrong {
            problems.push(Problem::refused(join("metadata.annotations", key), message));
        }
    }
    problems.extend(same_port_twice(annotations));
    problems
}

/// The outbound proxy and an inbound port are both on the Pod's address: they cannot share a port.
fn same_port_twice(annotations: &Map<String, Value>) -> Option<Problem> {
    let pairs = inbound(annotations.get(INBOUND)?.as_str()?).ok()?;
    let outbound = outbound_proxy(annotations.get(OUTBOUND_PROXY)?.as_str()?).ok()?;
    if !pairs.iter().any(|(app, sidecar)| *app == outbound || *sidecar == outbound) {
        return None;
    }
    let message = format!("port {outbound} is already taken by {INBOUND}");
    Some(Problem::refused(join("metadata.annotations", OUTBOUND_PROXY), message))
}
