//! Whose name a workload speaks in: the service account of a Pod and of a Gateway.

use gateway_api::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::Pod;

use super::annotation::SERVICE_ACCOUNT;
use super::{Scope, View};

/// Kubernetes' account of Pods that name none.
pub const DEFAULT: &str = "default";

/// The account of a Pod: `spec.serviceAccountName`, or `default`.
pub fn of_pod(pod: &Pod) -> &str {
    let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    named.filter(|name| !name.is_empty()).unwrap_or(DEFAULT)
}

/// The account of a Gateway: its annotation `sidegate.dev/service-account`, or its own name.
pub fn of_gateway(gateway: &Gateway) -> &str {
    let metadata = &gateway.metadata;
    let annotated = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(SERVICE_ACCOUNT))
        .map(String::as_str);
    annotated.filter(|name| !name.is_empty()).or(metadata.name.as_deref()).unwrap_or_default()
}

/// The account that a proxy of this scope must speak as; none when what it serves does not exist.
pub fn of_scope(view: &View, scope: &Scope) -> Option<String> {
    match scope {
        Scope::Gateway { gateway, .. } => {
            view.gateways.get(gateway).map(|gateway| of_gateway(gateway).to_owned())
        }
        Scope::Sidecar { pod, .. } => view.pods.get(pod).map(|pod| of_pod(pod).to_owned()),
    }
}

/// Whether a Pod or a Gateway of the namespace speaks as this account.
pub fn is_used(view: &View, namespace: &str, account: &str) -> bool {
    let pods = view.pods.iter().filter(|(name, _)| name.namespace == namespace);
    let gateways = view.gateways.iter().filter(|(name, _)| name.namespace == namespace);
    pods.map(|(_, pod)| of_pod(pod))
        .chain(gateways.map(|(_, gateway)| of_gateway(gateway)))
        .any(|one| one == account)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::Name;

    #[test]
    fn a_pod_has_its_account_or_the_default_one_and_a_gateway_its_annotation_or_its_name() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec}))
                .unwrap()
        };
        assert_eq!(of_pod(&pod(json!({"containers": [], "serviceAccountName": "web"}))), "web");
        assert_eq!(of_pod(&pod(json!({"containers": []}))), "default");
        assert_eq!(of_pod(&pod(json!({"containers": [], "serviceAccountName": ""}))), "default");
        let gateway = |annotations: serde_json::Value| -> Gateway {
            serde_json::from_value(json!({
                "metadata": {"name": "public", "namespace": "shop", "annotations": annotations},
                "spec": {"gatewayClassName": "sidegate", "listeners": []},
            }))
            .unwrap()
        };
        assert_eq!(of_gateway(&gateway(json!({}))), "public");
        assert_eq!(of_gateway(&gateway(json!({"sidegate.dev/service-account": "edge"}))), "edge");
        let mut view = View::default();
        let (name, scope) = (
            Name::new("shop", "web-1"),
            Scope::Sidecar { pod: Name::new("shop", "web-1"), foreign: false, secure: true },
        );
        assert_eq!(of_scope(&view, &scope), None);
        view.pods.insert(name, Arc::new(pod(json!({"containers": [], "serviceAccountName": "web"}))));
        assert_eq!(of_scope(&view, &scope).as_deref(), Some("web"));
        assert!(is_used(&view, "shop", "web"));
        assert!(!is_used(&view, "bank", "web") && !is_used(&view, "shop", "db"));
    }
}
