//! The plain types of the world: objects as Kubernetes publishes them, the view of all of them at one moment,
//! whom a proxy serves, and what was found wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use gateway_api::experimental::gatewayclasses::GatewayClass;
use gateway_api::experimental::gateways::Gateway;
use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use gateway_api::experimental::referencegrants::ReferenceGrant;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub mod access;
pub mod account;
pub mod annotation;
pub mod block;
pub mod kind;
pub mod pem;
pub mod policy;

use access::external::ExternalAuthorizationPolicy;
use access::{AuthorizationPolicy, JwtPolicy};
use policy::{BackendPolicy, MeshTlsPolicy, RateLimitPolicy};

/// A namespace and a name; cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Name {
    /// The namespace, or "" for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Name {
    /// Both parts at once.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return formatter.write_str(&self.name);
        }
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Whether Kubernetes allows this as a name: a DNS subdomain.
pub fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |part: &str| !part.is_empty() && part.bytes().all(inside);
    text.len() <= 253 && text.split('.').all(label)
}

/// What somebody else has written, no longer than this many bytes and a sign that more was there.
pub fn shorten(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
    text
}

/// The kinds that Sidegate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the Kubernetes kind of the same name")]
pub enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    ServiceAccount,
    Secret,
    ConfigMap,
    GatewayClass,
    Gateway,
    HttpRoute,
    GrpcRoute,
    ReferenceGrant,
    RateLimitPolicy,
    BackendPolicy,
    AuthorizationPolicy,
    JwtPolicy,
    ExternalAuthorizationPolicy,
    MeshTlsPolicy,
}

impl Kind {
    /// Whether objects of the kind keep somebody out: without them, more may pass.
    pub fn is_policy_of_access(self) -> bool {
        use Kind::{AuthorizationPolicy, ExternalAuthorizationPolicy, JwtPolicy, MeshTlsPolicy};
        matches!(self, AuthorizationPolicy | ExternalAuthorizationPolicy | JwtPolicy | MeshTlsPolicy)
    }
}

/// One object, by kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the Kubernetes kind of the same name")]
pub enum Object {
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    ServiceAccount(Arc<ServiceAccount>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    HttpRoute(Arc<HttpRoute>),
    GrpcRoute(Arc<GrpcRoute>),
    ReferenceGrant(Arc<ReferenceGrant>),
    RateLimitPolicy(Arc<RateLimitPolicy>),
    BackendPolicy(Arc<BackendPolicy>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    JwtPolicy(Arc<JwtPolicy>),
    ExternalAuthorizationPolicy(Arc<ExternalAuthorizationPolicy>),
    MeshTlsPolicy(Arc<MeshTlsPolicy>),
}

/// Which object: kind, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: Name,
}

/// One change that a source reports.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now this.
    Apply(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

/// What changed at once: applied to the index as a whole, so that no view shows half of it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The whole current set of findings; replaces the earlier one.
    pub findings: Vec<Finding>,
    /// Not to be published: something that may be a policy cannot be used, and what it said before is not known.
    pub held_back: bool,
}

/// Everything at one moment. Immutable; a new one is made for every batch of changes.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each map is named after its kind")]
pub struct View {
    /// Grows by one with every view of this process.
    pub generation: u64,
    /// See [`Batch::held_back`].
    pub held_back: bool,
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub endpoint_slices: BTreeMap<Name, Arc<EndpointSlice>>,
    pub pods: BTreeMap<Name, Arc<Pod>>,
    pub service_accounts: BTreeMap<Name, Arc<ServiceAccount>>,
    pub secrets: BTreeMap<Name, Arc<Secret>>,
    pub config_maps: BTreeMap<Name, Arc<ConfigMap>>,
    pub gateway_classes: BTreeMap<String, Arc<GatewayClass>>,
    pub gateways: BTreeMap<Name, Arc<Gateway>>,
    pub http_routes: BTreeMap<Name, Arc<HttpRoute>>,
    pub grpc_routes: BTreeMap<Name, Arc<GrpcRoute>>,
    pub reference_grants: BTreeMap<Name, Arc<ReferenceGrant>>,
    pub rate_limit_policies: BTreeMap<Name, Arc<RateLimitPolicy>>,
    pub backend_policies: BTreeMap<Name, Arc<BackendPolicy>>,
    pub authorization_policies: BTreeMap<Name, Arc<AuthorizationPolicy>>,
    pub jwt_policies: BTreeMap<Name, Arc<JwtPolicy>>,
    pub external_authorization_policies: BTreeMap<Name, Arc<ExternalAuthorizationPolicy>>,
    /// What was fetched for the URLs that JWTPolicies name; a URL without an entry has not answered yet.
    pub key_sets: BTreeMap<String, Arc<str>>,
    pub mesh_tls_policies: BTreeMap<Name, Arc<MeshTlsPolicy>>,
    /// What is wrong with the source's documents right now.
    pub findings: Vec<Finding>,
}

/// Whom workloads trust, in each trust domain that is known. Made by the certificate authority, read by translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The mesh's own trust domain: identities are `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub trust_domain: String,
    /// Roots in PEM form, one certificate each, by trust domain. Of the own trust domain's, the first is the one that signs now:
    /// a proxy whose certificate does not chain to it renews soon.
    pub bundles: BTreeMap<String, Vec<String>>,
    /// Certificate revocation lists in PEM form, possibly empty.
    pub revocation: Vec<String>,
    /// SPIFFE ids that are refused whatever certificate they show; connections that they have are closed.
    pub denied: Vec<String>,
}

/// Whom a proxy serves; it decides which resources the proxy sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The listeners of one Gateway.
    Gateway {
        /// The Gateway.
        gateway: Name,
        /// A data plane other than ours (its node carries no `SIDEGATE` metadata).
        foreign: bool,
        /// It has proven who it is, over TLS: it may have secrets, and it can speak mutual TLS.
        secure: bool,
    },
    /// One Pod, inbound and outbound.
    Sidecar {
        /// The Pod.
        pod: Name,
        /// A data plane other than ours.
        foreign: bool,
        /// It has proven who it is, over TLS: it may have secrets, and it can speak mutual TLS.
        secure: bool,
    },
}

impl Scope {
    /// Whether its proxies have proven who they are: only they get secrets and mutual TLS.
    pub fn is_secure(&self) -> bool {
        match self {
            Scope::Gateway { secure, .. } | Scope::Sidecar { secure, .. } => *secure,
        }
    }
}

/// One thing wrong with one document of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// The file, relative to the folder; for Kubernetes, the API server's name.
    pub file: String,
    /// The document within the file, from 1.
    pub document: usize,
    /// `Kind namespace/name`, when it could be read.
    pub object: Option<String>,
    /// Where in the object: `spec.rules[0].matches[1].path`.
    pub field: Option<String>,
    /// What is wrong, and what to do about it.
    pub message: String,
    /// What is in force instead: `last good form` or `nothing`; `the rest of the object` when only an annotation is ignored.
    pub in_force: String,
}

/// What translation says about an object: a condition, as the Gateway API has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// `Kind namespace/name`.
    pub object: String,
    /// `metadata.generation`, 0 when the document has none.
    pub generation: i64,
    /// `Accepted`, `ResolvedRefs`, `Programmed`.
    #[serde(rename = "type")]
    pub condition: String,
    /// Whether it holds.
    pub status: bool,
    /// The Gateway API's reason, e.g. `BackendNotFound`.
    pub reason: String,
    /// For people.
    pub message: String,
}
