//! Who is at the other end of a stream: the node of the first request → the scope that it is served.

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::google::protobuf::value::Kind;
use tonic::Status;

use crate::model::{Name, Scope};

/// A proxy, as it introduced itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyNode {
    /// `node.id`: free text, unique for each process.
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
    let text = |key: &str| metadata_text(node, key);
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
