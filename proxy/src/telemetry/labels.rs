//! Istio's standard labels, from what tells series apart and from what this proxy is.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use super::request::{Labels, Protocol};

/// The workload that this proxy stands beside, or the gateway that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalWorkload {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) workload: Arc<str>,
}

/// A series' labels, ready to be written.
#[derive(Debug)]
pub(super) struct IstioLabels<'a> {
    labels: &'a Labels,
    local: &'a LocalWorkload,
}

/// What Istio writes where it knows nothing.
const UNKNOWN: &str = "unknown";

impl<'a> IstioLabels<'a> {
    pub(super) fn new(labels: &'a Labels, local: &'a LocalWorkload) -> Self {
        Self { labels, local }
    }

    /// Namespace and name of the workload that answers.
    fn destination(&self) -> (&str, &str) {
        match &self.labels.workload {
            Some((namespace, name)) => (namespace, name),
            None if self.labels.inbound => self.local(),
            None => ("", ""),
        }
    }

    /// Namespace and name of the workload that asks; an inbound proxy is not told.
    fn source(&self) -> (&str, &str) {
        if self.labels.inbound { ("", "") } else { self.local() }
    }

    fn local(&self) -> (&str, &str) {
        (&self.local.namespace, &self.local.workload)
    }

    /// The Service: whole name, namespace, name.
    fn service(&self) -> (String, &str, &str) {
        match &self.labels.service {
            Some((namespace, name)) => (format!("{name}.{namespace}.svc.cluster.local"), namespace, name),
            // A cluster that names no Kubernetes port is a name of its own: static ones, passing through.
            None if !self.labels.cluster.contains('|') => (String::new(), "", &self.labels.cluster),
            None => (String::new(), "", ""),
        }
    }
}

impl EncodeLabelSet for IstioLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (source_namespace, source) = self.source();
        let (destination_namespace, destination) = self.destination();
        let (service, service_namespace, service_name) = self.service();
        let code = self.labels.code.to_string();
        let grpc_status = self.labels.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        // Istio's source reporter does not say.
        let (reporter, security) = match (self.labels.inbound, self.labels.mutual) {
            (true, true) => ("destination", "mutual_tls"),
            (true, false) => ("destination", "none"),
            (false, _) => ("source", UNKNOWN),
        };
        let source_principal = self.labels.source.as_deref().unwrap_or_default();
        let destination_principal = self.labels.destination.as_deref().unwrap_or_default();
        for (name, value) in [
            ("reporter", reporter),
            ("source_workload", source),
            ("source_workload_namespace", source_namespace),
            ("source_canonical_service", source),
            ("source_canonical_revision", "latest"),
            ("source_principal", source_principal),
            ("source_cluster", UNKNOWN),
            ("destination_workload", destination),
            ("destination_workload_namespace", destination_namespace),
            ("destination_canonical_service", destination),
            ("destination_canonical_revision", "latest"),
            ("destination_principal", destination_principal),
            ("destination_cluster", UNKNOWN),
            ("destination_service", &service),
            ("destination_service_name", service_name),
            ("destination_service_namespace", service_namespace),
            ("request_protocol", self.labels.protocol.as_str()),
            ("response_flags", self.labels.flags),
            ("connection_security_policy", security),
        ] {
            let value = if value.is_empty() { UNKNOWN } else { value };
            (name, value).encode(encoder.encode_label())?;
        }
        if self.labels.protocol == Protocol::Tcp {
            return Ok(());
        }
        ("response_code", &*code).encode(encoder.encode_label())?;
        // Empty, not unknown, where there is no gRPC.
        ("grpc_response_status", &*grpc_status).encode(encoder.encode_label())
    }
}
