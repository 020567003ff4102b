//! What the tests of this room share: resources written as Envoy's YAML.

use std::sync::LazyLock;

use prost::{Message, Name};
use sidegate_xds::json::{Descriptors, Format};
use sidegate_xds::resource::{ResourceType, to_any};

use crate::compile::{Resource, Update};

/// A message from YAML.
pub(crate) fn yaml<M: Message + Name + Default>(text: &str) -> M {
    static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(|| Descriptors::load().unwrap());
    DESCRIPTORS.decode(text, Format::Yaml).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

/// A resource of a type from YAML, with a version.
pub(crate) fn resource(kind: ResourceType, name: &str, text: &str) -> Resource {
    let body = match kind {
        ResourceType::Cluster => to_any(&yaml::<crate::compile::Cluster>(text)),
        ResourceType::Endpoint => to_any(&yaml::<crate::compile::ClusterLoadAssignment>(text)),
        ResourceType::Listener => to_any(&yaml::<crate::compile::Listener>(text)),
        ResourceType::Route => to_any(&yaml::<crate::compile::RouteConfiguration>(text)),
        ResourceType::Secret => to_any(&yaml::<crate::compile::Secret>(text)),
    };
    Resource { name: name.to_owned(), version: "1".to_owned(), body }
}

/// An update of one resource.
pub(crate) fn upsert(kind: ResourceType, name: &str, text: &str) -> Update {
    Update { kind, upserts: vec![resource(kind, name, text)], removals: Vec::new() }
}

/// An update that removes one resource.
pub(crate) fn removal(kind: ResourceType, name: &str) -> Update {
    Update { kind, upserts: Vec::new(), removals: vec![name.to_owned()] }
}

/// An EDS cluster.
pub(crate) fn eds_cluster(name: &str) -> Update {
    let text = format!(
        "{{name: {name}, type: EDS, connect_timeout: 2s, lb_policy: LEAST_REQUEST,
          eds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 5s}}}}}}"
    );
    upsert(ResourceType::Cluster, name, &text)
}

/// An assignment of ports on one address.
pub(crate) fn assignment(name: &str, ports: &[u16]) -> Update {
    let endpoint = |port: &u16| {
        format!("{{endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: {port}}}}}}}}}")
    };
    let endpoints: Vec<_> = ports.iter().map(endpoint).collect();
    let text = format!(
        "{{cluster_name: {name}, endpoints: [{{load_balancing_weight: 1, lb_endpoints: [{}]}}]}}",
        endpoints.join(", ")
    );
    upsert(ResourceType::Endpoint, name, &text)
}

/// A table that sends everything to one cluster.
pub(crate) fn table(name: &str, cluster: &str) -> Update {
    let text = format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    );
    upsert(ResourceType::Route, name, &text)
}

/// A listener whose routes come by RDS.
pub(crate) fn listener(name: &str, port: u16, routes: &str) -> Update {
    let text = format!(
        "
name: {name}
address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
default_filter_chain:
  filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {name}
      rds: {{route_config_name: {routes}, config_source: {{ads: {{}}, resource_api_version: V3}}}}
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    );
    upsert(ResourceType::Listener, name, &text)
}

/// A cluster that resolves one name.
pub(crate) fn dns_cluster(name: &str, host: &str, refresh: &str) -> Update {
    let text = format!(
        "{{name: {name}, type: STRICT_DNS, dns_refresh_rate: {refresh},
          load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [
            {{endpoint: {{address: {{socket_address: {{address: {host}, port_value: 80}}}}}}}}]}}]}}}}"
    );
    upsert(ResourceType::Cluster, name, &text)
}

/// What is to be resolved for a cluster.
pub(crate) fn resolvable(update: &Update) -> Vec<crate::compile::Resolvable> {
    let publisher = crate::snapshot::Publisher::new();
    let mut compiler = crate::compile::Compiler::new(publisher, crate::telemetry::Metrics::new(0));
    let outcome = compiler.apply(update.clone(), tokio::time::Instant::now());
    assert_eq!(outcome.rejections, []);
    compiler.resolvable()
}
