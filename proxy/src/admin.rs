//! The admin server: readiness, metrics, dumps, `/why` and `/explain`, for operators and their tools, under Envoy's paths.
//!
//! It runs on the control thread. What it shows comes from the rooms below it, and what it changes goes through the closures in
//! [`State`]; nothing here touches a request in flight. It is meant for loopback: see [`guard`] for what keeps browsers out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures_util::future::LocalBoxFuture;
use serde_json::Value;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

use crate::compile::Entry;
use crate::drain::{self, Phase};
use crate::exchange::Question;
use crate::identity;
use crate::overload::{self, Action};
use crate::snapshot;
use crate::telemetry::{ClusterState, IdentityState, Inputs, Metrics};
use crate::tls;

mod certs;
mod config_dump;
mod explain;
mod guard;
mod listen;
mod pages;
mod query;
mod reply;
mod status;

pub(crate) use explain::decide_json as decide;
pub(crate) use listen::{BindError, bind, run};

/// What the admin server shows and may change.
pub(crate) struct State {
    /// Counters and the flight recorder.
    pub(crate) metrics: Metrics,
    /// What is in force.
    pub(crate) snapshots: snapshot::Handle,
    /// How far the shutdown is.
    pub(crate) drain: drain::Watcher,
    /// Whether memory is scarce.
    pub(crate) overload: overload::Watch,
    /// Who this is.
    pub(crate) server: Server,
    /// How far the start is.
    pub(crate) stage: Box<dyn Fn() -> Stage>,
    /// The certificates in use.
    pub(crate) certificates: tls::Certificates,
    /// The proxy's own certificate, if it has one.
    pub(crate) identity: Option<identity::Status>,
    /// Every resource of a kind as it came, and what became of it.
    pub(crate) resources: Box<dyn Fn(ResourceType) -> Vec<Entry>>,
    /// Writes messages in Envoy's JSON form, one value each, in order.
    pub(crate) render: Box<Render>,
    /// What would be done with the request on the listener of that name.
    pub(crate) explain: Box<Explain>,
    /// The log level in force.
    pub(crate) level: Box<dyn Fn() -> LevelFilter>,
    /// Puts another log level in force.
    pub(crate) set_level: Box<dyn Fn(LevelFilter)>,
    /// Begins to drain; `graceful` asks connections to finish rather than cut.
    pub(crate) drain_listeners: Box<dyn Fn(bool)>,
    /// Ends the process in order.
    pub(crate) quit: Box<dyn Fn()>,
}

/// Messages → their JSON forms as one array, or what to tell the operator.
pub(crate) type Render = dyn Fn(Vec<Any>) -> LocalBoxFuture<'static, Result<Value, String>>;

/// A listener's name and a question → what would be done.
pub(crate) type Explain = dyn Fn(&str, &Question) -> Value;

/// Who this proxy is, for `/server_info`.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// When it began.
    pub(crate) started: Instant,
    /// `node.id`.
    pub(crate) node_id: String,
    /// `node.cluster`.
    pub(crate) node_cluster: String,
    /// Worker threads.
    pub(crate) concurrency: usize,
    /// Where the configuration came from: a file, or the command line.
    pub(crate) source: String,
    /// The bootstrap, for `/config_dump`.
    pub(crate) bootstrap: Any,
}

/// How far the start is, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing to serve by yet.
    PreInitializing,
    /// Waiting for the first listeners.
    Initializing,
    /// Serving.
    Live,
}

impl State {
    /// The word for `/ready` and `/server_info`, and Envoy's number for it.
    fn condition(&self) -> (&'static str, u64) {
        if self.drain.phase() >= Phase::Lame {
            return ("DRAINING", 1);
        }
        match (self.stage)() {
            Stage::Live => ("LIVE", 0),
            Stage::PreInitializing => ("PRE_INITIALIZING", 2),
            Stage::Initializing => ("INITIALIZING", 3),
        }
    }

    /// The earliest expiry of each source of certificates, in seconds since 1970.
    fn expiries(&self) -> BTreeMap<Arc<str>, u64> {
        let mut earliest = BTreeMap::new();
        for shown in self.certificates.read().iter() {
            let since = shown.certificate.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            if earliest.len() < SOURCES || earliest.contains_key(&shown.source) {
                let expiry = earliest.entry(shown.source.clone()).or_insert(u64::MAX);
                *expiry = since.as_secs().min(*expiry);
            }
        }
        earliest
    }

    /// The proxy's own certificate and its roots, for a scrape.
    fn identity_state(&self) -> Option<IdentityState> {
        let report = self.identity.as_ref()?.read();
        let seconds = |certificate: &tls::Certificate| {
            certificate.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
        };
        let attempts = identity::Outcome::ALL.iter().zip(report.attempts);
        Some(IdentityState {
            expiry: report.leaf.as_ref().map(seconds),
            roots_expiry: report.roots.iter().map(seconds).min(),
            attempts: attempts.map(|((_, label), count)| (*label, count)).collect(),
        })
    }

    /// What a scrape needs of other rooms.
    fn inputs(&self) -> Inputs {
        use std::sync::atomic::Ordering::Relaxed;
        let snapshot = self.snapshots.current();
        let clusters = snapshot.clusters.values().map(|cluster| {
            let endpoints = cluster.endpoints.load();
            ClusterState {
                name: cluster.name.clone(),
                members: endpoints.all.len() as u64,
                available: endpoints.available.len() as u64,
                requests: cluster.live.requests.load(Relaxed).into(),
                pending: cluster.live.pending.load(Relaxed).into(),
            }
        });
        let actions = Action::ALL.iter().map(|(action, name)| (*name, self.overload.is(*action)));
        Inputs {
            clusters: clusters.collect(),
            listeners: snapshot.listeners.len() as u64,
            concurrency: self.server.concurrency as u64,
            state: self.condition().1,
            overload: self.overload.report(),
            overload_actions: actions.collect(),
            certificates: self.expiries(),
            identity: self.identity_state(),
        }
    }
}

/// Sources of certificates that have a series.
const SOURCES: usize = 200;

/// State as connections share it.
type Shared = Rc<State>;

/// Whether only this host can reach the address.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
