//! What the ADS service counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sidegate_xds::resource::ResourceType;

/// The counters of the ADS service. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Streams open now.
    pub streams: Gauge,
    /// Streams that were turned away or cut, by cause.
    pub refused_streams: Family<CauseLabel, Counter>,
    /// Connections that the plaintext port closed at once, by cause.
    pub refused_connections: Family<CauseLabel, Counter>,
    /// Responses sent.
    pub pushes: Family<TypeLabel, Counter>,
    /// Resource bytes sent.
    pub push_bytes: Family<TypeLabel, Counter>,
    /// Responses that a proxy refused.
    pub rejections: Family<TypeLabel, Counter>,
    /// From a change of the world until a proxy had accepted everything that follows from it.
    pub convergence: Histogram,
}

/// The resource type as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    /// `cluster`, `endpoint`, `listener`, `route`.
    pub r#type: &'static str,
}

impl From<ResourceType> for TypeLabel {
    fn from(kind: ResourceType) -> Self {
        Self { r#type: kind.noun() }
    }
}

/// Why a stream or connection did not go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// `node`, `limit`, `identity_limit`, `stalled`; of connections `limit`, `address_limit`.
    pub cause: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            refused_streams: Family::default(),
            refused_connections: Family::default(),
            pushes: Family::default(),
            push_bytes: Family::default(),
            rejections: Family::default(),
            // 1 ms to about 33 s.
            convergence: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Names the counters in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sidegate_xds_streams", "ADS streams open now", self.streams.clone());
        registry.register(
            "sidegate_xds_refused_streams",
            "ADS streams turned away or cut, by cause",
            self.refused_streams.clone(),
        );
        registry.register(
            "sidegate_xds_refused_connections",
            "Connections that the plaintext port closed at once, by cause",
            self.refused_connections.clone(),
        );
        registry.register("sidegate_xds_pushes", "Responses sent, by resource type", self.pushes.clone());
        registry.register(
            "sidegate_xds_push_bytes",
            "Bytes of resources sent, by resource type",
            self.push_bytes.clone(),
        );
        registry.register(
            "sidegate_xds_rejections",
            "Responses refused by a proxy (NACK), by resource type",
            self.rejections.clone(),
        );
        registry.register(
            "sidegate_convergence_seconds",
            "From a change until a proxy had accepted all that follows from it",
            self.convergence.clone(),
        );
    }
}
