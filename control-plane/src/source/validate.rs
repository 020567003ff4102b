//! What the custom resource definitions and the API server check and the published Rust types do not: ranges, names,
//! patterns, what goes together. Pure; the same for every source.
//!
//! It works on the tree of values, not on the types, because the types of the Gateway API repeat the same filter four
//! times under different names: here each rule is written once.

use serde_json::Value;

use crate::model::Kind;

pub mod path;

pub(crate) mod annotations;

mod access;
mod token;
mod external;
mod core;
mod filters;
mod gateway;
mod names;
mod policy;
mod references;
mod route;
mod tree;

use tree::{Node, Report};

/// One thing wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `spec.rules[0].backendRefs[1].weight`.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether the object cannot be used; otherwise only the field is left out.
    pub refuses: bool,
}

impl Problem {
    /// A problem for which the object cannot be used.
    pub fn refused(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()).filter(|field| !field.is_empty()),
            message: message.into(),
            refuses: true,
        }
    }

    /// A problem for which one field is left out.
    pub fn ignored(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { refuses: false, ..Self::refused(field, message) }
    }
}

/// Checks an object that has already been read as its published type.
pub fn check(kind: Kind, object: &Value) -> Vec<Problem> {
    let mut report = Report::default();
    let root = Node::root(object);
    metadata(kind, &root, &mut report);
    match kind {
        Kind::Namespace | Kind::ServiceAccount | Kind::ConfigMap => {}
        Kind::Service => core::service(&root, &mut report),
        Kind::EndpointSlice => core::endpoint_slice(&root, &mut report),
        Kind::Pod => core::pod(&root, &mut report),
        Kind::Secret => core::secret(&root, &mut report),
        Kind::GatewayClass => gateway::gateway_class(&root, &mut report),
        Kind::Gateway => gateway::gateway(&root, &mut report),
        Kind::ReferenceGrant => gateway::reference_grant(&root, &mut report),
        Kind::HttpRoute => route::http_route(&root, &mut report),
        Kind::GrpcRoute => route::grpc_route(&root, &mut report),
        Kind::RateLimitPolicy => policy::rate_limit_policy(&root, &mut report),
        Kind::BackendPolicy => policy::backend_policy(&root, &mut report),
        Kind::AuthorizationPolicy => access::authorization_policy(&root, &mut report),
        Kind::JwtPolicy => token::jwt_policy(&root, &mut report),
        Kind::ExternalAuthorizationPolicy => external::external_authorization_policy(&root, &mut report),
        Kind::MeshTlsPolicy => policy::mesh_tls_policy(&root, &mut report),
    }
    report.problems
}

/// The names that every object has.
fn metadata(kind: Kind, root: &Node<'_>, report: &mut Report) {
    let metadata = root.get("metadata");
    let name = metadata.get("name");
    match kind {
        Kind::Namespace | Kind::Service => report.text(&name, names::LABEL),
        _ => report.text(&name, names::SUBDOMAIN),
    }
    report.text(&metadata.get("namespace"), names::LABEL);
}

#[cfg(test)]
mod tests;
