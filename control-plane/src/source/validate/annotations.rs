//! The annotations that Sidegate reads, `sidegate.dev/…`: which there are, and what they say.
//!
//! A Pod whose annotation is malformed is still a Pod: the annotation is taken out and reported, the rest is used.

use serde_json::{Map, Value};

use super::names;
use super::path::join;
use super::{Kind, Problem};
use crate::model::annotation::{INBOUND, OUTBOUND_PROXY, PREFIX, SERVICE_ACCOUNT, inbound, outbound_proxy};

/// Reports what is unknown or malformed, and takes the malformed out.
pub(crate) fn check(kind: Kind, object: &mut Map<String, Value>) -> Vec<Problem> {
    let annotations = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else { return Vec::new() };
    let ours: Vec<String> = annotations.keys().filter(|key| key.starts_with(PREFIX)).cloned().collect();
    let mut problems = Vec::new();
    for key in ours {
        // A value that is not text is the published type's to refuse.
        let Some(text) = annotations.get(&key).and_then(Value::as_str) else { continue };
        let wrong = match (kind, key.as_str()) {
            (Kind::Pod, INBOUND) => inbound(text).err(),
            (Kind::Pod, OUTBOUND_PROXY) => outbound_proxy(text).err(),
            (Kind::Gateway, SERVICE_ACCOUNT) => {
                (!(names::SUBDOMAIN.holds)(text)).then(|| format!("is not {}", names::SUBDOMAIN.says))
            }
            (_, SERVICE_ACCOUNT) => Some("has a meaning on a Gateway only".to_owned()),
            (_, INBOUND | OUTBOUND_PROXY) => Some("has a meaning on a Pod only".to_owned()),
            _ => Some(format!(
                "Sidegate has no such annotation; it has {INBOUND}, {OUTBOUND_PROXY} and {SERVICE_ACCOUNT}"
            )),
        };
        if let Some(message) = wrong {
            annotations.remove(&key);
            problems.push(Problem::ignored(join("metadata.annotations", &key), message));
        }
    }
    problems.extend(same_port_twice(annotations));
    problems
}

/// The outbound proxy and an inbound port are both on the Pod's address: they cannot share a port.
fn same_port_twice(annotations: &mut Map<String, Value>) -> Option<Problem> {
    let pairs = inbound(annotations.get(INBOUND)?.as_str()?).ok()?;
    let outbound = outbound_proxy(annotations.get(OUTBOUND_PROXY)?.as_str()?).ok()?;
    if !pairs.iter().any(|(app, sidecar)| *app == outbound || *sidecar == outbound) {
        return None;
    }
    annotations.remove(OUTBOUND_PROXY);
    let message = format!("port {outbound} is already taken by {INBOUND}");
    Some(Problem::ignored(join("metadata.annotations", OUTBOUND_PROXY), message))
}
