//! What the operator sees and may change: hands the admin server its view of the other rooms.

use std::net::TcpListener;
use std::rc::Rc;

use tokio::time::Instant;

use super::logging::Level;
use crate::admin::{self, Server, Stage, State};
use crate::compile::Ledger;
use crate::drain::{Drain, Phase};
use crate::overload;
use crate::settings::{Settings, render_child};
use crate::snapshot::Handle;
use crate::telemetry::{LocalWorkload, Metrics};
use crate::{identity, tls, xds};

/// What the operator's view is made of.
pub(super) struct Parts {
    pub(super) metrics: Metrics,
    pub(super) snapshots: Handle,
    pub(super) drain: Rc<Drain>,
    pub(super) overload: overload::Watch,
    pub(super) ledger: Ledger,
    pub(super) certificates: tls::Certificates,
    pub(super) identity: Option<identity::Status>,
    pub(super) status: xds::Status,
    pub(super) log: Level,
}

/// The admin server's state.
pub(super) fn state(settings: &Settings, parts: Parts) -> State {
    let Parts { metrics, snapshots, drain, overload, ledger, certificates, identity, status, log } = parts;
    let (explained, quitting, set) = (snapshots.clone(), drain.clone(), log.clone());
    let stage = stage(settings, snapshots.clone(), ledger.clone(), status, identity.clone());
    State {
        metrics,
        drain: drain.watch(),
        overload,
        server: server(settings),
        stage: Box::new(stage),
        certificates,
        identity,
        resources: Box::new(move |kind| ledger.entries(kind)),
        render: Box::new(|messages| {
            Box::pin(async { render_child(messages).await.map_err(|error| error.to_string()) })
        }),
        explain: Box::new(move |listener, question| {
            crate::exchange::explain(&explained.current(), listener, question)
        }),
        level: Box::new(move || log.get()),
        set_level: Box::new(move |level| set.set(level)),
        drain_listeners: Box::new(move |graceful| {
            drain.advance(if graceful { Phase::Lame } else { Phase::Draining });
        }),
        quit: Box::new(move || quitting.advance(Phase::Lame)),
        snapshots,
    }
}

fn server(settings: &Settings) -> Server {
    Server {
        started: Instant::now(),
        node_id: settings.node.id.clone(),
        node_cluster: settings.node.cluster.clone(),
        concurrency: settings.concurrency.get(),
        source: settings.source.clone(),
        bootstrap: settings.bootstrap_message(),
    }
}

/// Live once every listener that was accepted is published; with a control plane, not before it has named the listeners; with an identity,
/// as long as its certificate is in force.
fn stage(
    settings: &Settings,
    snapshots: Handle,
    ledger: Ledger,
    status: xds::Status,
    identity: Option<identity::Status>,
) -> impl Fn() -> Stage + use<> {
    let waits = settings.ads.as_ref().is_some_and(|ads| ads.listeners);
    move || {
        if identity.as_ref().is_some_and(|identity| identity.read().leaf.is_none()) {
            return Stage::PreInitializing;
        }
        let report = status.read();
        if waits && !report.has_listeners() {
            return if report.connected_since.is_some() {
                Stage::Initializing
            } else {
                Stage::PreInitializing
            };
        }
        let snapshot = snapshots.current();
        let missing = ledger.listeners().iter().any(|name| !snapshot.listeners.contains_key(name));
        if missing { Stage::Initializing } else { Stage::Live }
    }
}

/// The workload that this proxy stands beside, or the gateway that it is.
pub(super) fn local_workload(settings: &Settings) -> LocalWorkload {
    let (namespace, workload) = settings.workload();
    LocalWorkload { namespace, workload }
}

/// Binds the admin address, if there is one. Before any listener accepts: a proxy that cannot have it serves nobody.
pub(super) fn bind(settings: &Settings) -> Result<Option<TcpListener>, admin::BindError> {
    settings.admin.map(admin::bind).transpose()
}

/// Serves the admin page for as long as the control thread lives.
pub(super) fn start(listener: TcpListener, settings: &Settings, parts: Parts) {
    let state = state(settings, parts);
    tokio::task::spawn_local(async move {
        let Err(error) = admin::run(listener, state).await;
        tracing::error!("the admin server ended: {error}");
    });
    if let Some(address) = settings.admin {
        tracing::info!("admin on http://{address}");
    }
}
