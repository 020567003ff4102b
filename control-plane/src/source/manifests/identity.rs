//! What a document claims to be: whether its kind is ours to read, and which object it is.

use serde_json::{Map, Value};

use crate::model::{Kind, Name, ObjectKey};
use crate::source::validate::Problem;
use crate::source::validate::path::quoted;

/// What to do with a document, by its `apiVersion` and `kind`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A kind that Sidegate reads.
    Read(Kind),
    /// Such a kind in a version that it does not read: the object is known, its form is not.
    OtherVersion(Kind, String),
    /// A kind of a group that concerns us, which Sidegate does not read.
    Unsupported(String),
    /// Something in a group that concerns us that nobody knows: most likely a typing error.
    Unknown(String),
    /// Not ours: Deployments, custom resource definitions.
    Foreign,
}

/// The kinds of the Gateway API that exist and that Sidegate does not read.
const NOT_READ: [&str; 11] = [
    "BackendLBPolicy",
    "BackendTLSPolicy",
    "BackendTrafficPolicy",
    "ListenerSet",
    "Mesh",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
    "XBackendTrafficPolicy",
    "XListenerSet",
    "XMesh",
];

/// Classifies a document.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(known) = Kind::ALL.into_iter().find(|known| known.name() == kind && known.group() == group) {
        if known.versions().contains(&version) {
            return Class::Read(known);
        }
        let message =
            format!("{} is not read for this kind; write {}", quoted(api_version), known.api_version());
        return Class::OtherVersion(known, message);
    }
    if !matches!(group, "gateway.networking.k8s.io" | "gateway.networking.x-k8s.io" | "sidegate.dev") {
        return Class::Foreign;
    }
    if NOT_READ.contains(&kind) && group != "sidegate.dev" {
        return Class::Unsupported(format!("Sidegate does not read {kind}; this document has no effect"));
    }
    let alike = Kind::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(kind));
    match alike {
        Some(known) => {
            Class::OtherVersion(known, format!("write kind: {known} and apiVersion: {}", known.api_version()))
        }
        None => Class::Unknown(format!("the group {group} has no kind {} that is known here", quoted(kind))),
    }
}

/// Which object a document is. Fills in the namespace that the API server would: what is read later always has one.
pub(super) fn identify(
    kind: Kind,
    document: &mut Map<String, Value>,
) -> Result<(ObjectKey, Option<Problem>), Problem> {
    let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(Problem::refused("metadata", "required, with a name"));
    };
    let name = match metadata.get("name") {
        Some(Value::String(name)) if name.len() > LONGEST_NAME => {
            return Err(Problem::refused("metadata.name", format!("longer than {LONGEST_NAME} characters")));
        }
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(Value::String(_) | Value::Null) | None => {
            return Err(Problem::refused("metadata.name", "required, and not there or empty"));
        }
        Some(_) => return Err(Problem::refused("metadata.name", "must be a text; put it in quotes")),
    };
    let mut remark = None;
    let namespace = match metadata.get("namespace") {
        _ if !kind.is_namespaced() => {
            if metadata.remove("namespace").is_some_and(|namespace| !namespace.is_null()) {
                remark = Some(Problem::ignored("metadata.namespace", format!("a {kind} has no namespace")));
            }
            String::new()
        }
        Some(Value::String(namespace)) if namespace.len() > LONGEST_NAME => {
            return Err(Problem::refused(
                "metadata.namespace",
                format!("longer than {LONGEST_NAME} characters"),
            ));
        }
        Some(Value::String(namespace)) if !namespace.is_empty() => namespace.clone(),
        Some(Value::String(_) | Value::Null) | None => {
            metadata.insert("namespace".to_owned(), Value::String(DEFAULT_NAMESPACE.to_owned()));
            DEFAULT_NAMESPACE.to_owned()
        }
        Some(_) => return Err(Problem::refused("metadata.namespace", "must be a text; put it in quotes")),
    };
    Ok((ObjectKey { kind, name: Name::new(namespace, name) }, remark))
}

const DEFAULT_NAMESPACE: &str = "default";

const LONGEST_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_ours() {
        assert_eq!(classify("gateway.networking.k8s.io/v1", "HTTPRoute"), Class::Read(Kind::HttpRoute));
        assert_eq!(classify("gateway.networking.k8s.io/v1beta1", "HTTPRoute"), Class::Read(Kind::HttpRoute));
        assert_eq!(classify("v1", "Service"), Class::Read(Kind::Service));
        assert_eq!(classify("serving.knative.dev/v1", "Service"), Class::Foreign);
        assert_eq!(classify("apps/v1", "Deployment"), Class::Foreign);
        assert_eq!(classify("", ""), Class::Foreign);
    }

    #[test]
    fn what_is_nearly_ours_is_said() {
        let version = classify("discovery.k8s.io/v1beta1", "EndpointSlice");
        assert!(
            matches!(version, Class::OtherVersion(Kind::EndpointSlice, text) if text.contains("discovery.k8s.io/v1"))
        );
        let spelling = classify("gateway.networking.k8s.io/v1", "HttpRoute");
        assert!(
            matches!(spelling, Class::OtherVersion(Kind::HttpRoute, text) if text.contains("kind: HTTPRoute"))
        );
        assert!(matches!(classify("gateway.networking.k8s.io/v1", "TLSRoute"), Class::Unsupported(_)));
        assert!(matches!(classify("sidegate.dev/v1alpha1", "RateLimit"), Class::Unknown(_)));
    }
}
