//! Manifests in, decoded resources out.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::{Metadata, address, socket_address};
use sidegate_xds::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use sidegate_xds::envoy::config::listener::v3::{Listener, filter};
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::ClusterSpecifier;
use sidegate_xds::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::google::protobuf::value::Kind as ValueKind;
use sidegate_xds::resource::from_any;

use crate::model::{Name, Scope, Trust, View};
use crate::snapshot::Resource;
use crate::translate::{Translation, translate};

/// A class, and a Gateway `edge/public` with one listener `http` on port 80 for every host and every namespace.
pub(super) const GATEWAY: &str = r#"
kind: GatewayClass
metadata: {name: sidegate}
spec: {controllerName: sidegate.dev/gateway-controller}
---
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: sidegate
  listeners:
  - {name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}
---
"#;

/// Services `shop/web` and `shop/canary`, port 80, without endpoints.
pub(super) const SERVICES: &str = r#"
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Service
metadata: {name: canary, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
"#;

/// Reads documents separated by `---` into a view. `apiVersion` may be left out.
pub(super) fn view(yaml: &str) -> View {
    let mut view = View { generation: 1, ..View::default() };
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document).unwrap();
        if value.is_null() {
            continue;
        }
        insert(&mut view, value);
    }
    view
}

fn insert(view: &mut View, mut value: Value) {
    let kind = value["kind"].as_str().unwrap().to_owned();
    if value.get("apiVersion").is_none() {
        value["apiVersion"] = Value::from(match kind.as_str() {
            "EndpointSlice" => "discovery.k8s.io/v1",
            "Namespace" | "Service" | "Pod" | "Secret" | "ConfigMap" => "v1",
            "ReferenceGrant" => "gateway.networking.k8s.io/v1",
            _ => "gateway.networking.k8s.io/v1",
        });
    }
    let text = |key: &str| value["metadata"].get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let name = Name::new(text("namespace"), text("name"));
    match kind.as_str() {
        "Namespace" => drop(view.namespaces.insert(name.name, read(value))),
        "GatewayClass" => drop(view.gateway_classes.insert(name.name, read(value))),
        "Service" => drop(view.services.insert(name, read(value))),
        "EndpointSlice" => drop(view.endpoint_slices.insert(name, read(value))),
        "Pod" => drop(view.pods.insert(name, read(value))),
        "Secret" => drop(view.secrets.insert(name, read(value))),
        "ConfigMap" => drop(view.config_maps.insert(name, read(value))),
        "Gateway" => drop(view.gateways.insert(name, read(value))),
        "HTTPRoute" => drop(view.http_routes.insert(name, read(value))),
        "GRPCRoute" => drop(view.grpc_routes.insert(name, read(value))),
        "ReferenceGrant" => drop(view.reference_grants.insert(name, read(value))),
        "RateLimitPolicy" => drop(view.rate_limit_policies.insert(name, read(value))),
        "BackendPolicy" => drop(view.backend_policies.insert(name, read(value))),
        "AuthorizationPolicy" => drop(view.authorization_policies.insert(name, read(value))),
        "JWTPolicy" => drop(view.jwt_policies.insert(name, read(value))),
        "ExternalAuthorizationPolicy" => drop(view.external_authorization_policies.insert(name, read(value))),
        "MeshTLSPolicy" => drop(view.mesh_tls_policies.insert(name, read(value))),
        other => panic!("fixture of unknown kind {other}"),
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_yaml::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:?}")))
}

/// The Gateway `edge/public` of these manifests.
pub(super) fn gateway(yaml: &str) -> Shown {
    gateway_named(yaml, "edge", "public")
}

/// Another Gateway.
pub(super) fn gateway_named(yaml: &str, namespace: &str, name: &str) -> Shown {
    let scope = Scope::Gateway { gateway: Name::new(namespace, name), foreign: false, secure: false };
    Shown(translate(&view(yaml), None, &scope))
}

/// The Gateway `edge/public`, for a proxy that has proven who it is.
pub(super) fn secure_gateway(yaml: &str) -> Shown {
    let scope = Scope::Gateway { gateway: Name::new("edge", "public"), foreign: false, secure: true };
    Shown(translate(&view(yaml), Some(&trust()), &scope))
}

/// The sidecar of a Pod, that has proven who it is.
pub(super) fn secure_sidecar(yaml: &str, namespace: &str, name: &str) -> Shown {
    let scope = Scope::Sidecar { pod: Name::new(namespace, name), foreign: false, secure: true };
    Shown(translate(&view(yaml), Some(&trust()), &scope))
}

/// Two trust domains, the own one with two roots.
pub(super) fn trust() -> Trust {
    let root = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
    Trust {
        trust_domain: "mesh.test".to_owned(),
        bundles: [
            ("mesh.test".to_owned(), vec![root("one"), root("two")]),
            ("away.test".to_owned(), vec![root("away")]),
        ]
        .into_iter()
        .collect(),
        ..Trust::default()
    }
}

/// The sidecar of a Pod.
pub(super) fn sidecar(yaml: &str, namespace: &str, name: &str) -> Shown {
    let scope = Scope::Sidecar { pod: Name::new(namespace, name), foreign: false, secure: false };
    Shown(translate(&view(yaml), None, &scope))
}

/// A translation, and questions to it.
pub(super) struct Shown(pub(super) Translation);

impl Shown {
    pub(super) fn listener(&self, name: &str) -> Listener {
        decode(&self.0.resources.listeners, name)
    }

    pub(super) fn manager(&self, name: &str) -> HttpConnectionManager {
        let listener = self.listener(name);
        let chain = listener.default_filter_chain.unwrap();
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else {
            panic!("no config")
        };
        from_any(any).unwrap()
    }

    pub(super) fn table(&self, name: &str) -> RouteConfiguration {
        decode(&self.0.resources.routes, name)
    }

    pub(super) fn cluster(&self, name: &str) -> Cluster {
        decode(&self.0.resources.clusters, name)
    }

    pub(super) fn assignment(&self, name: &str) -> ClusterLoadAssignment {
        decode(&self.0.resources.endpoints, name)
    }

    /// The endpoints of a cluster as `address:port`, a draining one with `-` in front.
    pub(super) fn endpoints(&self, cluster: &str) -> Vec<String> {
        let localities = self.assignment(cluster).endpoints;
        localities
            .iter()
            .flat_map(|locality| &locality.lb_endpoints)
            .map(|each| {
                let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &each.host_identifier else {
                    panic!()
                };
                let address = show_address(endpoint.address.as_ref().unwrap());
                if each.health_status == 3 { format!("-{address}") } else { address }
            })
            .collect()
    }

    /// The virtual host that has this domain.
    pub(super) fn host(&self, table: &str, domain: &str) -> Option<VirtualHost> {
        self.table(table)
            .virtual_hosts
            .into_iter()
            .find(|host| host.domains.iter().any(|each| each == domain))
    }

    /// The routes of a domain on `edge/public/80`.
    pub(super) fn routes(&self, domain: &str) -> Vec<Route> {
        self.host("edge/public/80", domain).map(|host| host.routes).unwrap_or_default()
    }

    /// The first route of the domain `*` on `edge/public/80`.
    pub(super) fn route(&self) -> Route {
        self.routes("*").into_iter().next().expect("a route")
    }

    /// What is said about an object: `Condition=status Reason`.
    pub(super) fn said(&self, object: &str) -> Vec<String> {
        let about = self.0.verdicts.iter().filter(|verdict| verdict.object == object);
        about.map(|verdict| format!("{}={} {}", verdict.condition, verdict.status, verdict.reason)).collect()
    }

    /// The message of the verdict with this reason.
    pub(super) fn message(&self, reason: &str) -> String {
        let found = self.0.verdicts.iter().find(|verdict| verdict.reason == reason);
        found.unwrap_or_else(|| panic!("no {reason} in {:?}", self.0.verdicts)).message.clone()
    }
}

fn decode<M: Message + Default>(resources: &BTreeMap<String, Resource>, name: &str) -> M {
    let resource = resources.get(name).unwrap_or_else(|| panic!("{name} not in {:?}", resources.keys()));
    M::decode(resource.body.clone()).unwrap()
}

pub(super) fn show_address(address: &sidegate_xds::envoy::config::core::v3::Address) -> String {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { panic!("not a socket") };
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        panic!("no port")
    };
    format!("{}:{port}", socket.address)
}

/// The route action.
pub(super) fn action(route: &Route) -> RouteAction {
    match &route.action {
        Some(Action::Route(action)) => action.clone(),
        other => panic!("not forwarded: {other:?}"),
    }
}

/// Where a route sends to: `cluster`, `cluster@weight …`, or the status of its own answer.
pub(super) fn destination(route: &Route) -> String {
    let short = |name: &str| name.trim_end_matches(".svc.cluster.local").to_owned();
    match &route.action {
        Some(Action::DirectResponse(response)) => response.status.to_string(),
        Some(Action::Redirect(_)) => "redirect".to_owned(),
        Some(Action::Route(action)) => match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => short(name),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                let each = weighted
                    .clusters
                    .iter()
                    .map(|each| format!("{}@{}", short(&each.name), each.weight.unwrap().value));
                each.collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// `filter_metadata["sidegate"]`.
pub(super) fn metadata(metadata: &Option<Metadata>) -> BTreeMap<String, String> {
    let fields = &metadata.as_ref().unwrap().filter_metadata["sidegate"].fields;
    fields
        .iter()
        .map(|(key, value)| match &value.kind {
            Some(ValueKind::StringValue(text)) => (key.clone(), text.clone()),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The text that a matcher wants to see, exactly.
pub(super) fn exact(matcher: &sidegate_xds::envoy::r#type::matcher::v3::StringMatcher) -> String {
    use sidegate_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) if !matcher.ignore_case => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Standard base64.
pub(super) fn base64(text: &str) -> String {
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes).unwrap().as_str().unwrap().to_owned()
}

/// A Secret of type `kubernetes.io/tls` with what looks like a pair.
pub(super) fn pair(namespace: &str, name: &str) -> String {
    let block = |label: &str| base64(&format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n"));
    format!(
        "---\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\n\
         data: {{tls.crt: {}, tls.key: {}}}\n",
        block("CERTIFICATE"),
        block("PRIVATE KEY")
    )
}
