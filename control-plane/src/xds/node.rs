//! Who is at the other end of a stream: the node of the first request → the scope that it is served.

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::google::protobuf::value::Kind;
use tonic::Status;

use crate::model::{Name, Scope, is_name};

/// A proxy, as it introduced itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyNode {
    /// `node.id`: free text of one line, unique for each process.
    pub id: String,
    /// What it is served.
    pub scope: Scope,
}

impl ProxyNode {
    /// What it serves, for people: `gateway shop/web`.
    pub fn title(&self) -> String {
        let foreign = if self.is_foreign() { " (foreign)" } else { "" };
        match &self.scope {
            Scope::Gateway { gateway, .. } => format!("gateway {gateway}{foreign}"),
            Scope::Sidecar { pod, .. } => format!("sidecar {pod}{foreign}"),
        }
    }

    /// Whether this is a data plane other than ours.
    pub fn is_foreign(&self) -> bool {
        match &self.scope {
            Scope::Gateway { foreign, .. } | Scope::Sidecar { foreign, .. } => *foreign,
        }
    }
}

/// Reads the node of a stream's first request. `secure` says that the stream's caller has proven an identity.
///
/// # Errors
/// `INVALID_ARGUMENT` with a text that says what to set.
pub(super) fn identify(node: Option<&Node>, secure: bool) -> Result<ProxyNode, Status> {
    let node = node.filter(|node| !node.id.is_empty()).ok_or_else(|| {
        invalid("the first request of a stream must carry `node` with an `id`: set node.id and node.metadata in the proxy's bootstrap")
    })?;
    if node.id.len() > LONGEST_ID || node.id.chars().any(char::is_control) {
        return Err(invalid(&format!("node.id is longer than {LONGEST_ID} bytes, or not one line of text")));
    }
    let text = |key: &str| name(node, key);
    let namespace = text("NAMESPACE")?.ok_or_else(|| {
        invalid("node.metadata.NAMESPACE is missing: set it to the namespace of the Gateway or Pod that this proxy serves")
    })?;
    let foreign = text("SIDEGATE")?.is_none();
    let scope = match (text("GATEWAY")?, text("POD_NAME")?) {
        (Some(gateway), None) => Scope::Gateway { gateway: Name::new(namespace, gateway), foreign, secure },
        (None, Some(pod)) => Scope::Sidecar { pod: Name::new(namespace, pod), foreign, secure },
        (Some(_), Some(_)) => {
            return Err(invalid(
                "node.metadata has both GATEWAY and POD_NAME: keep GATEWAY for a gateway, or POD_NAME for a sidecar",
            ));
        }
        (None, None) => {
            return Err(invalid(
                "node.metadata says neither GATEWAY (the name of a Gateway) nor POD_NAME (the name of a Pod): set one of them",
            ));
        }
    };
    Ok(ProxyNode { id: node.id.clone(), scope })
}

/// The name of an object. What cannot be one is not looked for, and not repeated either.
fn name(node: &Node, key: &str) -> Result<Option<String>, Status> {
    let text = metadata_text(node, key)?;
    if key != "SIDEGATE" && text.as_deref().is_some_and(|text| !is_name(text)) {
        return Err(invalid(&format!(
            "node.metadata.{key} is not a name: at most 253 of a-z, 0-9, '-' and '.'"
        )));
    }
    Ok(text)
}

fn metadata_text(node: &Node, key: &str) -> Result<Option<String>, Status> {
    let value = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(key));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(text)) if text.is_empty() => Ok(None),
        Some(Kind::StringValue(text)) => Ok(Some(text.clone())),
        Some(_) => Err(invalid(&format!("node.metadata.{key} must be a string"))),
    }
}

fn invalid(text: &str) -> Status {
    Status::invalid_argument(format!("{text} (`sidegate bootstrap` prints a bootstrap that fits)"))
}

/// How long a node's id may be.
const LONGEST_ID: usize = 1024;

#[cfg(test)]
mod tests {
    use sidegate_xds::google::protobuf::{Struct, Value};

    use super::*;

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let fields = metadata
            .iter()
            .map(|(key, text)| {
                ((*key).to_owned(), Value { kind: Some(Kind::StringValue((*text).to_owned())) })
            })
            .collect();
        Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    #[test]
    fn gateways_and_sidecars_are_told_apart() {
        let gateway = identify(
            Some(&node("g", &[("NAMESPACE", "shop"), ("GATEWAY", "web"), ("SIDEGATE", "1")])),
            false,
        )
        .unwrap();
        assert_eq!(
            gateway.scope,
            Scope::Gateway { gateway: Name::new("shop", "web"), foreign: false, secure: false }
        );
        let sidecar =
            identify(Some(&node("s", &[("NAMESPACE", "shop"), ("POD_NAME", "web-1")])), false).unwrap();
        assert_eq!(
            sidecar.scope,
            Scope::Sidecar { pod: Name::new("shop", "web-1"), foreign: true, secure: false }
        );
        assert!(sidecar.is_foreign());
    }

    #[test]
    fn m4_what_is_no_name_is_refused_and_not_repeated() {
        let long = "x".repeat(1 << 20);
        for wrong in [long.as_str(), "web\n2026-12-01 ERROR forged", "Web", "..", "a/b"] {
            for key in ["NAMESPACE", "POD_NAME"] {
                let other = if key == "NAMESPACE" { "POD_NAME" } else { "NAMESPACE" };
                let node = node("n", &[(key, wrong), (other, "shop")]);
                let status = identify(Some(&node), false).unwrap_err();
                assert!(status.message().contains(key), "{}", status.message());
                assert!(status.message().len() < 300 && !status.message().contains(wrong));
            }
        }
        for id in [long.as_str(), "a\nb"] {
            let node = node(id, &[("NAMESPACE", "shop"), ("GATEWAY", "web")]);
            assert!(identify(Some(&node), true).unwrap_err().message().contains("node.id"));
        }
    }

    #[test]
    fn every_refusal_says_what_to_set() {
        let cases: [(Option<Node>, &str); 5] = [
            (None, "node.id"),
            (Some(node("", &[("NAMESPACE", "shop"), ("GATEWAY", "web")])), "node.id"),
            (Some(node("g", &[("GATEWAY", "web")])), "NAMESPACE"),
            (Some(node("g", &[("NAMESPACE", "shop")])), "POD_NAME"),
            (Some(node("g", &[("NAMESPACE", "shop"), ("GATEWAY", "web"), ("POD_NAME", "p")])), "both"),
        ];
        for (node, expected) in cases {
            let status = identify(node.as_ref(), true).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(expected), "{}", status.message());
        }
    }
}
