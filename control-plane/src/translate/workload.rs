//! What a Pod says about itself: where it is, whether it serves, and where its sidecar stands.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::verdict::Problem;
use crate::model::annotation::{self, INBOUND, OUTBOUND_PROXY};

/// Whether a Pod may get requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// It is going away and still answers.
    Draining,
    Unready,
}

/// The Pod's address.
pub(super) fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// Whether the Pod may get requests. One without a `Ready` condition may: manifests in a folder have no kubelet.
pub(super) fn readiness(pod: &Pod) -> Readiness {
    let status = pod.status.as_ref();
    let ended = matches!(status.and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded"));
    let condition = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"));
    if ended || condition.is_some_and(|condition| condition.status != "True") {
        Readiness::Unready
    } else if pod.metadata.deletion_timestamp.is_some() {
        Readiness::Draining
    } else {
        Readiness::Ready
    }
}

/// The pairs of app port and sidecar port of the Pod's annotation; none when it has none.
pub(super) fn inbound_ports(pod: &Pod) -> Result<Vec<(u16, u16)>, Problem> {
    let Some(text) = text_of(pod, INBOUND) else { return Ok(Vec::new()) };
    annotation::inbound(text).map_err(|problem| invalid(INBOUND, &problem))
}

/// The sidecar's port in front of an app port; the app port itself where there is none.
pub(super) fn reached_at(pod: &Pod, app: u16) -> u16 {
    let pairs = inbound_ports(pod).unwrap_or_default();
    pairs.into_iter().find(|(candidate, _)| *candidate == app).map_or(app, |(_, sidecar)| sidecar)
}

/// Whether a sidecar stands in front of an app port.
pub(super) fn has_sidecar(pod: &Pod, app: u16) -> bool {
    inbound_ports(pod).unwrap_or_default().iter().any(|(candidate, _)| *candidate == app)
}

/// The port of the outbound HTTP proxy, if the Pod asks for one.
pub(super) fn outbound_proxy(pod: &Pod) -> Result<Option<u16>, Problem> {
    let Some(text) = text_of(pod, OUTBOUND_PROXY) else { return Ok(None) };
    annotation::outbound_proxy(text).map(Some).map_err(|problem| invalid(OUTBOUND_PROXY, &problem))
}

/// The number of a named container port.
pub(super) fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| {
        // A sidecar container of Kubernetes' own kind is an init container that keeps running.
        spec.containers.iter().chain(spec.init_containers.iter().flatten())
    });
    let number = containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| port.name.as_deref() == Some(name))?
        .container_port;
    super::service::port_number(number)
}

/// The service account that the Pod runs as.
pub(super) fn service_account(pod: &Pod) -> &str {
    let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The name of what owns the Pod: its Deployment, StatefulSet, DaemonSet, Job; else its `app` label; else itself.
pub(super) fn workload_name(pod: &Pod) -> &str {
    let own = pod.metadata.name.as_deref().unwrap_or("");
    let label =
        |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let owner =
        pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller.unwrap_or(false));
    if let Some(owner) = owner {
        // A ReplicaSet of a Deployment is called `<deployment>-<pod-template-hash>`.
        let hash = label("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        return deployment.unwrap_or(&owner.name);
    }
    label("app.kubernetes.io/name").or_else(|| label("app")).unwrap_or(own)
}

fn text_of<'a>(pod: &'a Pod, annotation: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(annotation).map(|text| text.trim())
}

fn invalid(annotation: &str, problem: &str) -> Problem {
    Problem::new("Invalid", format!("annotation {annotation}: {problem}"))
}
