//! What is known about a kind before any object of it is read: its name, its group, the versions that are the same
//! on the wire. And which kind, namespace and name an object has.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Kind, Name, Object, ObjectKey};

impl Kind {
    /// Every kind that Sidegate reads.
    pub const ALL: [Kind; 18] = [
        Kind::Namespace,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Pod,
        Kind::ServiceAccount,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::GatewayClass,
        Kind::Gateway,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::ReferenceGrant,
        Kind::RateLimitPolicy,
        Kind::BackendPolicy,
        Kind::AuthorizationPolicy,
        Kind::JwtPolicy,
        Kind::ExternalAuthorizationPolicy,
        Kind::MeshTlsPolicy,
    ];

    /// The name as a manifest writes it: `HTTPRoute`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Pod => "Pod",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::GatewayClass => "GatewayClass",
            Kind::Gateway => "Gateway",
            Kind::HttpRoute => "HTTPRoute",
            Kind::GrpcRoute => "GRPCRoute",
            Kind::ReferenceGrant => "ReferenceGrant",
            Kind::RateLimitPolicy => "RateLimitPolicy",
            Kind::BackendPolicy => "BackendPolicy",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::JwtPolicy => "JWTPolicy",
            Kind::ExternalAuthorizationPolicy => "ExternalAuthorizationPolicy",
            Kind::MeshTlsPolicy => "MeshTLSPolicy",
        }
    }

    /// The API group, "" for core.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Namespace
            | Kind::Service
            | Kind::Pod
            | Kind::ServiceAccount
            | Kind::Secret
            | Kind::ConfigMap => "",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::GatewayClass | Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute | Kind::ReferenceGrant => {
                "gateway.networking.k8s.io"
            }
            Kind::RateLimitPolicy
            | Kind::BackendPolicy
            | Kind::AuthorizationPolicy
            | Kind::JwtPolicy
            | Kind::ExternalAuthorizationPolicy
            | Kind::MeshTlsPolicy => "sidegate.dev",
        }
    }

    /// The versions that have the same form on the wire, the preferred one first.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Kind::GatewayClass | Kind::Gateway | Kind::HttpRoute | Kind::ReferenceGrant => &["v1", "v1beta1"],
            Kind::RateLimitPolicy
            | Kind::BackendPolicy
            | Kind::AuthorizationPolicy
            | Kind::JwtPolicy
            | Kind::ExternalAuthorizationPolicy
            | Kind::MeshTlsPolicy => &["v1alpha1"],
            _ => &["v1"],
        }
    }

    /// The preferred `apiVersion`: `gateway.networking.k8s.io/v1`.
    pub fn api_version(self) -> String {
        let version = self.versions()[0];
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Namespace | Kind::GatewayClass)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for ObjectKey {
    /// `HTTPRoute shop/web`, as findings and verdicts name an object.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Pod(_) => Kind::Pod,
            Object::ServiceAccount(_) => Kind::ServiceAccount,
            Object::Secret(_) => Kind::Secret,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::GatewayClass(_) => Kind::GatewayClass,
            Object::Gateway(_) => Kind::Gateway,
            Object::HttpRoute(_) => Kind::HttpRoute,
            Object::GrpcRoute(_) => Kind::GrpcRoute,
            Object::ReferenceGrant(_) => Kind::ReferenceGrant,
            Object::RateLimitPolicy(_) => Kind::RateLimitPolicy,
            Object::BackendPolicy(_) => Kind::BackendPolicy,
            Object::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Object::JwtPolicy(_) => Kind::JwtPolicy,
            Object::ExternalAuthorizationPolicy(_) => Kind::ExternalAuthorizationPolicy,
            Object::MeshTlsPolicy(_) => Kind::MeshTlsPolicy,
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::Namespace(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
            Object::Pod(object) => &object.metadata,
            Object::ServiceAccount(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
            Object::ConfigMap(object) => &object.metadata,
            Object::GatewayClass(object) => &object.metadata,
            Object::Gateway(object) => &object.metadata,
            Object::HttpRoute(object) => &object.metadata,
            Object::GrpcRoute(object) => &object.metadata,
            Object::ReferenceGrant(object) => &object.metadata,
            Object::RateLimitPolicy(object) => &object.metadata,
            Object::BackendPolicy(object) => &object.metadata,
            Object::AuthorizationPolicy(object) => &object.metadata,
            Object::JwtPolicy(object) => &object.metadata,
            Object::ExternalAuthorizationPolicy(object) => &object.metadata,
            Object::MeshTlsPolicy(object) => &object.metadata,
        }
    }

    /// Whether two values are one and the same object in memory: a quick answer before comparing field by field.
    pub fn is_identical(&self, other: &Object) -> bool {
        self.address() == other.address()
    }

    fn address(&self) -> *const () {
        match self {
            Object::Namespace(object) => Arc::as_ptr(object).cast(),
            Object::Service(object) => Arc::as_ptr(object).cast(),
            Object::EndpointSlice(object) => Arc::as_ptr(object).cast(),
            Object::Pod(object) => Arc::as_ptr(object).cast(),
            Object::ServiceAccount(object) => Arc::as_ptr(object).cast(),
            Object::Secret(object) => Arc::as_ptr(object).cast(),
            Object::ConfigMap(object) => Arc::as_ptr(object).cast(),
            Object::GatewayClass(object) => Arc::as_ptr(object).cast(),
            Object::Gateway(object) => Arc::as_ptr(object).cast(),
            Object::HttpRoute(object) => Arc::as_ptr(object).cast(),
            Object::GrpcRoute(object) => Arc::as_ptr(object).cast(),
            Object::ReferenceGrant(object) => Arc::as_ptr(object).cast(),
            Object::RateLimitPolicy(object) => Arc::as_ptr(object).cast(),
            Object::BackendPolicy(object) => Arc::as_ptr(object).cast(),
            Object::AuthorizationPolicy(object) => Arc::as_ptr(object).cast(),
            Object::JwtPolicy(object) => Arc::as_ptr(object).cast(),
            Object::ExternalAuthorizationPolicy(object) => Arc::as_ptr(object).cast(),
            Object::MeshTlsPolicy(object) => Arc::as_ptr(object).cast(),
        }
    }

    /// Kind, namespace and name; cluster-scoped objects have an empty namespace whatever their metadata says.
    pub fn key(&self) -> ObjectKey {
        let kind = self.kind();
        let metadata = self.metadata();
        let namespace = metadata.namespace.clone().filter(|_| kind.is_namespaced());
        let name = metadata.name.clone().unwrap_or_default();
        ObjectKey { kind, name: Name::new(namespace.unwrap_or_default(), name) }
    }
}
