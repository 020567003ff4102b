//! The landing: the resources of one scope at one generation. Immutable; `publish` writes, `xds` reads.

use std::collections::BTreeMap;

use bytes::Bytes;
use sidegate_xds::resource::{ResourceType, content_version};

/// One resource, encoded once for all its receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Hash of the body ([`content_version`]).
    pub version: String,
    /// The encoded message (the inside of the `Any`).
    pub body: Bytes,
}

impl Resource {
    /// Encodes a message and derives its version.
    pub fn new<M: prost::Message>(message: &M) -> Self {
        let body = sidegate_xds::resource::encode(message);
        Self { version: content_version(&body), body }
    }
}

/// The resources of one scope, by type and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `envoy.config.cluster.v3.Cluster`.
    pub clusters: BTreeMap<String, Resource>,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    pub endpoints: BTreeMap<String, Resource>,
    /// `envoy.config.listener.v3.Listener`.
    pub listeners: BTreeMap<String, Resource>,
    /// `envoy.config.route.v3.RouteConfiguration`.
    pub routes: BTreeMap<String, Resource>,
}

impl Resources {
    /// The resources of one type.
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, Resource> {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoint => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Route => &self.routes,
        }
    }
}

/// The resources of one scope at one generation of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The view's generation that these were made from.
    pub generation: u64,
    /// The resources.
    pub resources: Resources,
}
