//! `sidegate serve`: creates every task of the control plane and hands each its ends; the only room that knows all.

mod files;
mod findings;
mod security;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::ca::rotation::Witness;
use crate::ca::{Authority, CaError, Certifier};
use crate::check;
use crate::index;
use crate::jwks;
use crate::model::{Trust, View};
use crate::publish;
use crate::snapshot::Snapshots;
use crate::source::{Source, SourceError};
use crate::status::{self, Reporter};
use crate::xds::{self, Metrics, Service, StreamReport, Streams};
use security::Security;
pub use security::{SecurityError, TrustSettings};

/// Where the control plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Plaintext ADS; loopback only.
    pub xds: SocketAddr,
    /// ADS and the certificate service, over TLS; not without an authority.
    pub secure: SocketAddr,
    /// `/status`, `/metrics`, `/healthz`.
    pub admin: SocketAddr,
}

/// Why the control plane cannot start or go on; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The ADS address.
    #[error(transparent)]
    Xds(#[from] xds::BindError),
    /// The admin address.
    #[error("{}", xds::describe_bind("--admin-address", .0, .1))]
    Admin(SocketAddr, io::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The ADS transport.
    #[error("the ADS service ended: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The TLS port.
    #[error(transparent)]
    Security(#[from] security::SecurityError),
    /// Signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves what a source says until a signal asks for the end. Without options for the authority there is none.
///
/// # Errors
/// When an address cannot be taken, the authority cannot be opened, or the source or the transport cannot go on.
pub async fn serve(
    source: impl Source,
    addresses: Addresses,
    guard: jwks::Guard,
    trust: Option<TrustSettings>,
) -> Result<(), AppError> {
    let signalled = end_signal().map_err(AppError::Signals)?;
    let listeners = Listeners::bind(addresses).await?;
    // Nothing is served yet, so the disk may be waited for.
    let security = match trust {
        Some(settings) => Some(Security::open(addresses.secure, settings).await?),
        None => None,
    };
    // A batch is a whole change; the index takes it at once, so the source seldom waits.
    let (batch_sender, batches) = mpsc::channel(4);
    let (view_sender, views) = watch::channel(Arc::default());
    tokio::spawn(index::run(batches, view_sender));
    let (keyed_sender, keyed) = watch::channel(Arc::default());
    tokio::spawn(jwks::run(views, keyed_sender, guard));
    let (ending, served) = start(keyed, listeners, security);
    tokio::pin!(served);
    tokio::select! {
        () = signalled => {
            tracing::info!("ending: streams are being closed");
            ending.send_replace(true);
            // A peer that does not let go of its connection must not hold up the end.
            let _ = timeout(END_LIMIT, served).await;
            Ok(())
        }
        result = source.run(batch_sender) => Ok(result?),
        result = &mut served => Ok(result?),
    }
}

/// Starts every task behind the index; gives the handle that ends the streams, and the ADS service to be polled.
fn start(
    views: watch::Receiver<Arc<View>>,
    listeners: Listeners,
    security: Option<Security>,
) -> (watch::Sender<bool>, impl Future<Output = Result<(), tonic::transport::Error>>) {
    let (snapshots, streams, metrics) = (Snapshots::default(), Streams::default(), Metrics::default());
    let (ending, end) = watch::channel(false);
    let (verdict_sender, verdicts) = watch::channel(Arc::default());
    announce("xds", &listeners.xds);
    announce("admin", &listeners.admin);
    if listeners.admin.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback()) {
        tracing::warn!(
            "--admin-address is not a loopback address: whoever reaches it reads /status and /metrics, which name every proxy"
        );
    }
    let certifier = security.as_ref().map(|security| security.certifier.clone());
    let mut reporter = Reporter::new(
        views.clone(),
        verdicts,
        streams.clone(),
        snapshots.clone(),
        &metrics,
        certifier.clone(),
    );
    if let Some(security) = &security {
        reporter.register(|registry| security.refusals.register(registry));
    }
    let trust = vouched(certifier.as_ref());
    match certifier {
        Some(Certifier::Own(authority)) => {
            let witnesses = witnesses(authority.clone(), streams.clone(), snapshots.clone());
            tokio::spawn(authority.run(witnesses));
        }
        Some(Certifier::External(external)) => drop(tokio::spawn(external.run())),
        None => {}
    }
    // What the system lets a process open, is shared by both ports, the lists that say who may call, and everything else.
    let files = files::raise_limit();
    let service = Service::new(snapshots.clone(), streams, metrics, end.clone()).within(files);
    let secure = security.map(|security| {
        announce("tls", &security.listener);
        security.serve(&service, views.clone(), end, files)
    });
    tokio::spawn(findings::log(views.clone()));
    let asked = judge(views.clone(), trust.clone());
    tokio::spawn(publish::run(views, trust, snapshots.clone(), verdict_sender));
    tokio::spawn(status::serve(listeners.admin, Arc::new(reporter.asking(asked))));
    let plain = service.serve(listeners.xds);
    let served = async move {
        match secure {
            Some(secure) => tokio::try_join!(plain, secure).map(|_| ()),
            None => plain.await,
        }
    };
    (ending, served)
}

/// Answers `sidegate authz check` from what is in force now.
fn judge(
    views: watch::Receiver<Arc<View>>,
    trust: watch::Receiver<Option<Arc<Trust>>>,
) -> Box<status::Judge> {
    Box::new(move |question, wanted| {
        let question = serde_json::from_slice(question)
            .map_err(|error| format!("the question is not understood: {error}"))?;
        let (view, trust) = (views.borrow().clone(), trust.borrow().clone());
        let answers = check::answer(&view, trust.as_deref(), &question, &|| wanted.is_over())?;
        serde_json::to_vec(&answers).map_err(|error| error.to_string())
    })
}

/// Whom workloads trust, as translation takes it. Without an authority nobody vouches for anybody: no mutual TLS, and no secrets.
fn vouched(certifier: Option<&Certifier>) -> watch::Receiver<Option<Arc<Trust>>> {
    let Some(certifier) = certifier else { return watch::channel(None).1 };
    let mut trust = certifier.trust();
    let (sender, receiver) = watch::channel(Some(trust.borrow_and_update().clone()));
    tokio::spawn(async move {
        while trust.changed().await.is_ok() {
            sender.send_replace(Some(trust.borrow_and_update().clone()));
        }
    });
    receiver
}

/// Whom a rotation of the root may ask: proxies that have proven who they are.
fn witnesses(authority: Authority, streams: Streams, snapshots: Snapshots) -> impl Fn() -> Vec<Witness> {
    move || {
        let current = streams.current();
        let domain = authority.trust_domain();
        let identity = |report: &StreamReport| Some(report.caller.as_ref()?.identity.to_string());
        xds::witness::witnesses(current, &snapshots, domain, identity, Instant::now())
    }
}

struct Listeners {
    xds: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    async fn bind(addresses: Addresses) -> Result<Self, AppError> {
        let xds = xds::bind(addresses.xds).await?;
        let admin = TcpListener::bind(addresses.admin)
            .await
            .map_err(|reason| AppError::Admin(addresses.admin, reason))?;
        Ok(Self { xds, admin })
    }
}

fn announce(what: &str, listener: &TcpListener) {
    match listener.local_addr() {
        Ok(address) => tracing::info!("{what} listening on {address}"),
        Err(error) => tracing::warn!(%error, "{what} listening"),
    }
}

/// Resolves when the process is asked to end. From here on the signals no longer end it by themselves.
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// How long the end may take.
const END_LIMIT: Duration = Duration::from_secs(2);
