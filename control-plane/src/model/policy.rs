//! Sidegate's own kinds, group `sidegate.dev/v1alpha1`, in the Gateway API's policy style (GEP-713, direct attachment).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The group and version of the kinds of this file.
pub const API_VERSION: &str = "sidegate.dev/v1alpha1";

/// Limits requests where they are routed. Targets Gateway, HTTPRoute, GRPCRoute (optionally one rule by `sectionName`) or Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What to limit.
    pub spec: RateLimitSpec,
}

/// The body of a [`RateLimitPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// What the policy applies to; at least one.
    pub target_refs: Vec<TargetRef>,
    /// A token bucket in each proxy.
    pub local: LocalRateLimit,
}

/// A token bucket: `requests` per `per`, with room for `burst`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// Requests admitted in each interval; at least 1.
    pub requests: u32,
    /// The interval, a Gateway API duration (`1s`, `1m`, `500ms`); `1s` when absent.
    #[serde(default)]
    pub per: Option<String>,
    /// The bucket's size; `requests` when absent.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// How proxies talk to a Service. Targets Service, optionally one port by `sectionName`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What to change.
    pub spec: BackendSpec,
}

/// The body of a [`BackendPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendSpec {
    /// What the policy applies to; at least one.
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen; `LeastRequest` when absent.
    #[serde(default)]
    pub load_balancing: Option<LoadBalancing>,
    /// Bounds on what is open towards the Service from one proxy.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// How much of the traffic may be retries.
    #[serde(default)]
    pub retry_budget: Option<RetryBudget>,
    /// Time bounds.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancing {
    /// The better of two random endpoints by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
}

/// Bounds of one proxy towards one Service port (Envoy: `circuit_breakers`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections open at once.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Requests waiting for a connection.
    #[serde(default)]
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    #[serde(default)]
    pub max_requests: Option<u32>,
}

/// Retries as a share of active requests (Envoy: `retry_budget`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Percent of active requests; 20 when absent.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Retries always allowed at once; 3 when absent.
    #[serde(default)]
    pub min_concurrent: Option<u32>,
}

/// Time bounds towards a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until a connection is made; `2s` when absent.
    #[serde(default)]
    pub connect: Option<String>,
}

/// Whether workloads take mutual TLS only, or plaintext too. Targets its Namespace, Services or, by a selector, Pods; a policy of
/// the namespace [`MESH_NAMESPACE`] that targets nothing is the whole mesh's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTlsPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: MeshTlsSpec,
}

/// The body of a [`MeshTlsPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTlsSpec {
    /// What the policy applies to: the own Namespace, or Services, which stand for the Pods behind them.
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// Pods of the policy's namespace, instead of `target_refs`.
    #[serde(default)]
    pub selector: Option<PodSelector>,
    /// What holds for every port that `ports` does not name; what a wider policy says when absent.
    #[serde(default)]
    pub mode: Option<MeshTlsMode>,
    /// What holds for single ports of the app, by number.
    #[serde(default)]
    pub ports: BTreeMap<String, PortTls>,
}

/// Which Pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Labels that a Pod must have, all of them.
    pub match_labels: BTreeMap<String, String>,
}

/// What holds for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortTls {
    /// The mode.
    pub mode: MeshTlsMode,
}

/// What a workload takes on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MeshTlsMode {
    /// Mutual TLS of the mesh, and nothing else.
    Strict,
    /// Mutual TLS of the mesh, and whatever else came before there was a mesh.
    Permissive,
    /// No TLS of the mesh.
    Disable,
}

/// Where the control plane lives, and the policies that hold for the whole mesh.
pub const MESH_NAMESPACE: &str = "sidegate-system";

/// What a policy applies to (Gateway API `LocalPolicyTargetReferenceWithSectionName`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// The API group; "" for core.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name, in the policy's own namespace.
    pub name: String,
    /// A part of it: a listener, a rule, a port.
    #[serde(default)]
    pub section_name: Option<String>,
}
