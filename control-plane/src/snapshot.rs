//! The landing: the resources of one scope at one generation, and the cells in which they wait for their readers.
//!
//! `publish` writes, `xds` reads. Snapshots are immutable and only the latest is kept: a reader that was slow
//! finds one newer snapshot, never a queue of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sidegate_xds::resource::{ResourceType, content_version};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::model::Scope;

/// One resource, encoded once for all its receivers.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Hash of the body ([`content_version`]); shared, because every stream remembers it.
    pub version: Arc<str>,
    /// The encoded message (the inside of the `Any`).
    pub body: Bytes,
}

impl Resource {
    /// Encodes a message and derives its version.
    pub fn new<M: prost::Message>(message: &M) -> Self {
        let body = sidegate_xds::resource::encode(message);
        Self { version: content_version(&body).into(), body }
    }

    /// The same for a message that holds a private key. Versions are shown to people, so that this one is a hash under a key of
    /// this process: it tells nothing of the content. (Another process has other versions, and sends such a resource again.)
    pub fn confidential<M: prost::Message>(message: &M) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let body = sidegate_xds::resource::encode(message);
        let version = format!("{:016x}", KEY.hash_one(&body));
        Self { version: version.into(), body }
    }
}

impl fmt::Debug for Resource {
    /// Without the body: it may be a private key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, body } = self;
        formatter
            .debug_struct("Resource")
            .field("version", version)
            .field("bytes", &body.len())
            .finish_non_exhaustive()
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
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`; empty unless the scope is secure.
    pub secrets: BTreeMap<String, Resource>,
}

impl Resources {
    /// The resources of one type.
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, Resource> {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoint => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Route => &self.routes,
            ResourceType::Secret => &self.secrets,
        }
    }

    /// A version of all resources of one type together: equal sets have equal versions, in every process.
    fn version_of(&self, kind: ResourceType) -> Arc<str> {
        let mut text = String::new();
        for (name, resource) in self.of(kind) {
            text.push_str(name);
            text.push('\0');
            text.push_str(&resource.version);
            text.push('\0');
        }
        content_version(text.as_bytes()).into()
    }
}

/// The resources of one scope at one generation of the view.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The view's generation that these were made from.
    pub generation: u64,
    /// When the change that led to this generation was first seen.
    pub since: Instant,
    /// The resources.
    pub resources: Arc<Resources>,
    /// The policies that the resources carry, as verdicts name them: `AuthorizationPolicy shop/web`.
    pub policies: Arc<BTreeSet<String>>,
    versions: [Arc<str>; ResourceType::COUNT],
}

impl Snapshot {
    /// Resources as of a generation.
    pub fn new(generation: u64, since: Instant, resources: Resources) -> Self {
        let versions = ResourceType::ALL.map(|kind| resources.version_of(kind));
        Self { generation, since, resources: Arc::new(resources), policies: Arc::default(), versions }
    }

    /// The same, saying which policies it carries.
    #[must_use]
    pub fn carrying(self, policies: BTreeSet<String>) -> Self {
        Self { policies: Arc::new(policies), ..self }
    }

    /// The same resources at a later generation.
    pub fn renewed(&self, generation: u64, since: Instant) -> Self {
        Self { generation, since, ..self.clone() }
    }

    /// The same without its secrets.
    pub fn without_secrets(&self) -> Self {
        let resources = Resources { secrets: BTreeMap::new(), ..Resources::clone(&self.resources) };
        let policies = Arc::clone(&self.policies);
        Self { policies, ..Self::new(self.generation, self.since, resources) }
    }

    /// The version of all resources of one type together.
    pub fn version(&self, kind: ResourceType) -> &Arc<str> {
        &self.versions[kind as usize]
    }
}

/// What a reader of one scope holds: nothing until the first snapshot is made, then always the latest.
pub type SnapshotReader = watch::Receiver<Option<Arc<Snapshot>>>;

/// One cell for each scope that is of interest. Clones share the cells.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Locked for a map operation only, never across an await. `publish` adds, writes and removes; a stream that
    /// opens adds the cell of its scope.
    cells: Mutex<BTreeMap<Scope, watch::Sender<Option<Arc<Snapshot>>>>>,
    wanted: Notify,
}

impl Snapshots {
    /// The snapshots of a scope from now on. A scope that nobody followed before is made known to the publisher.
    pub fn follow(&self, scope: &Scope) -> SnapshotReader {
        let mut cells = self.cells();
        let cell = cells.entry(scope.clone()).or_insert_with(|| watch::Sender::new(None));
        let reader = cell.subscribe();
        if reader.borrow().is_none() {
            self.shared.wanted.notify_one();
        }
        reader
    }

    /// Resolves when a scope without a snapshot was asked for since the last call.
    pub async fn wanted(&self) {
        self.shared.wanted.notified().await;
    }

    /// Every scope that has a cell, and whether somebody follows it now.
    pub fn scopes(&self) -> Vec<(Scope, bool)> {
        self.cells().iter().map(|(scope, cell)| (scope.clone(), cell.receiver_count() > 0)).collect()
    }

    /// The scopes that are followed and have no snapshot yet.
    pub fn missing(&self) -> Vec<Scope> {
        let cells = self.cells();
        cells.iter().filter(|(_, cell)| cell.borrow().is_none()).map(|(scope, _)| scope.clone()).collect()
    }

    /// The latest snapshot of a scope.
    pub fn latest(&self, scope: &Scope) -> Option<Arc<Snapshot>> {
        self.cells().get(scope).and_then(|cell| cell.borrow().clone())
    }

    /// Replaces the snapshot of a scope and wakes its readers.
    pub fn publish(&self, scope: &Scope, snapshot: Arc<Snapshot>) {
        let mut cells = self.cells();
        let cell = cells.entry(scope.clone()).or_insert_with(|| watch::Sender::new(None));
        cell.send_replace(Some(snapshot));
    }

    /// Drops the cell of a scope unless somebody follows it; says whether it is gone.
    pub fn forget(&self, scope: &Scope) -> bool {
        let mut cells = self.cells();
        let idle = cells.get(scope).is_none_or(|cell| cell.receiver_count() == 0);
        if idle {
            cells.remove(scope);
        }
        idle
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<Scope, watch::Sender<Option<Arc<Snapshot>>>>> {
        // Every map operation leaves the map whole, so a panic elsewhere does not spoil it.
        self.shared.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
