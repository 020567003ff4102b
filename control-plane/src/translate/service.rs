//! What a Service says about itself: its ports, their protocol, its names.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::model::Name;

/// The TCP ports of a Service with their numbers, each number once.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = (u16, &ServicePort)> {
    let mut seen = BTreeSet::new();
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| Some((port_number(port.port)?, port)))
        .filter(move |(number, _)| seen.insert(*number))
}

/// The TCP port with this number.
pub(super) fn port(service: &Service, number: u16) -> Option<&ServicePort> {
    ports(service).find(|(candidate, _)| *candidate == number).map(|(_, port)| port)
}

/// A number that a port can have.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Whether the port says that it speaks HTTP/2 without TLS: by `appProtocol`, or by the name's first part.
pub(super) fn declares_h2(port: &ServicePort) -> bool {
    if let Some(protocol) = port.app_protocol.as_deref() {
        return matches!(protocol, "kubernetes.io/h2c" | "h2c" | "grpc" | "http2");
    }
    let first = port.name.as_deref().and_then(|name| name.split('-').next());
    matches!(first, Some("grpc" | "http2" | "h2c"))
}

/// Whether the port says that what it carries is not HTTP in the clear: by `appProtocol`, or by the name's first part.
pub(super) fn declares_opaque(port: &ServicePort) -> bool {
    if let Some(protocol) = port.app_protocol.as_deref() {
        return matches!(protocol, "tcp" | "tls" | "https" | "kubernetes.io/wss");
    }
    let first = port.name.as_deref().and_then(|name| name.split('-').next());
    matches!(first, Some("tcp" | "tls" | "https"))
}

/// Whether the port says that what it carries is HTTP in the clear, of whatever version.
pub(super) fn declares_http(port: &ServicePort) -> bool {
    if let Some(protocol) = port.app_protocol.as_deref() {
        return declares_h2(port) || matches!(protocol, "http" | "kubernetes.io/ws" | "grpc-web");
    }
    let first = port.name.as_deref().and_then(|name| name.split('-').next());
    declares_h2(port) || first == Some("http")
}

/// The labels of the Pods that the Service stands for, if it has any.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the Service is only a name for something outside of the cluster.
pub(super) fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// The Service's full name in the cluster's DNS.
pub(super) fn host(name: &Name) -> String {
    format!("{}.{}.svc.cluster.local", name.name, name.namespace)
}

/// The name of the cluster of a Service's port.
pub(super) fn cluster_name(name: &Name, port: u16) -> String {
    format!("outbound|{port}||{}", host(name))
}
