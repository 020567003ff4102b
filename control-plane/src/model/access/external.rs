//! ExternalAuthorizationPolicy, group `sidegate.dev/v1alpha1`: a service decides about each request. The fields are those of the
//! Gateway API's `ExternalAuth` filter (GEP-1494), attached like an [`AuthorizationPolicy`](super::AuthorizationPolicy).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::Selector;
use crate::model::policy::TargetRef;

/// Asks a service about each request where it arrives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuthorizationPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// Who is asked, and what it is told.
    pub spec: ExternalAuthorizationSpec,
}

/// The body of an [`ExternalAuthorizationPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuthorizationSpec {
    /// As in [`AuthorizationSpec`](super::AuthorizationSpec).
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// As in [`AuthorizationSpec`](super::AuthorizationSpec).
    #[serde(default)]
    pub selector: Option<Selector>,
    /// How it is asked.
    pub protocol: Protocol,
    /// Who is asked. In another namespace only where a ReferenceGrant allows it.
    pub backend_ref: BackendRef,
    /// For `protocol: GRPC`.
    #[serde(default)]
    pub grpc: Option<Grpc>,
    /// For `protocol: HTTP`.
    #[serde(default)]
    pub http: Option<Http>,
    /// How much of the body it sees; nothing when absent.
    #[serde(default)]
    pub forward_body: Option<ForwardBody>,
    /// How long it may take, a Gateway API duration; `1s` when absent.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Whether requests pass when it cannot be asked. Otherwise they are denied.
    #[serde(default)]
    pub fail_open: bool,
    /// The status of requests that are denied because it cannot be asked; 403 when absent.
    #[serde(default)]
    pub status_on_error: Option<u16>,
}

/// How a service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// The request's head, under a path of the service's own: 200 allows, anything else is the answer.
    Http,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// The Service's name.
    pub name: String,
    /// Its namespace; the policy's own when absent.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its port.
    pub port: u16,
}

/// What is told by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grpc {
    /// Request headers that it sees; all when empty.
    #[serde(default)]
    pub allowed_headers: Vec<String>,
}

/// What is told by HTTP, and heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// What stands before the request's own path.
    #[serde(default)]
    pub path: Option<String>,
    /// Request headers that it sees beside `host`, `content-length` and `authorization`.
    #[serde(default)]
    pub allowed_headers: Vec<String>,
    /// Headers of its answer that the request is given; none when empty.
    #[serde(default)]
    pub allowed_response_headers: Vec<String>,
}

/// How much of a body the service sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardBody {
    /// In bytes, 1 to 1 MiB. Requests with more are refused with 413, unless a part is enough.
    pub max_size: u32,
    /// Whether the beginning is enough.
    #[serde(default)]
    pub allow_partial: bool,
}
