//! What the authority counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of one authority. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) issued: Family<ProofLabel, Counter>,
    pub(super) refused: Family<CauseLabel, Counter>,
    pub(super) live: Gauge,
    pub(super) root_expiry: Gauge,
    pub(super) issuing_expiry: Gauge,
    pub(super) rotation: Gauge,
    pub(super) waiting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProofLabel {
    pub(super) proof: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CauseLabel {
    pub(super) cause: &'static str,
}

impl Metrics {
    /// Enters everything into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sidegate_ca_certificates",
            "Certificates given out, by proof",
            self.issued.clone(),
        );
        registry.register(
            "sidegate_ca_refusals",
            "Requests for certificates that were refused, by cause",
            self.refused.clone(),
        );
        registry.register(
            "sidegate_ca_live_certificates",
            "Certificates that may be in use",
            self.live.clone(),
        );
        registry.register(
            "sidegate_ca_root_expiry_timestamp_seconds",
            "When the root that signs expires",
            self.root_expiry.clone(),
        );
        registry.register(
            "sidegate_ca_issuing_expiry_timestamp_seconds",
            "When the key that signs certificates expires",
            self.issuing_expiry.clone(),
        );
        registry.register(
            "sidegate_ca_rotation_phase",
            "0 stable, 1 distributing, 2 signing, 3 retiring",
            self.rotation.clone(),
        );
        registry.register(
            "sidegate_ca_rotation_waiting",
            "For how many the rotation of the root waits",
            self.waiting.clone(),
        );
    }
}
