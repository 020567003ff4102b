//! `sidegate serve`: creates every task of the control plane and hands each its ends; the only room that knows all.

mod findings;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::model::View;
use crate::publish;
use crate::snapshot::Snapshots;
use crate::source::SourceError;
use crate::status::{self, Reporter};
use crate::xds::{self, Metrics, Service, Streams};

/// Where the control plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Plaintext ADS; loopback only.
    pub xds: SocketAddr,
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
    /// Signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Serves what the views say until a signal asks for the end. `source` is what feeds the views; it ends only with an
/// error.
///
/// # Errors
/// When an address cannot be taken, or the source or the transport cannot go on.
pub async fn serve(
    views: watch::Receiver<Arc<View>>,
    source: impl Future<Output = Result<(), SourceError>>,
    addresses: Addresses,
) -> Result<(), AppError> {
    let signalled = end_signal().map_err(AppError::Signals)?;
    let listeners = Listeners::bind(addresses).await?;
    let plane = Plane::start(views, listeners);
    let (ending, served) = (plane.ending.clone(), plane.served);
    tokio::pin!(served);
    tokio::select! {
        () = signalled => {
            tracing::info!("ending: streams are being closed");
            ending.send_replace(true);
            // A peer that does not let go of its connection must not hold up the end.
            let _ = timeout(END_LIMIT, served).await;
            Ok(())
        }
        result = source => Ok(result?),
        result = &mut served => Ok(result?),
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

/// The running tasks.
struct Plane<F> {
    ending: watch::Sender<bool>,
    served: F,
}

impl Plane<()> {
    fn start(
        views: watch::Receiver<Arc<View>>,
        listeners: Listeners,
    ) -> Plane<impl Future<Output = Result<(), tonic::transport::Error>>> {
        let snapshots = Snapshots::default();
        let streams = Streams::default();
        let metrics = Metrics::default();
        let (ending, end) = watch::channel(false);
        let (verdict_sender, verdicts) = watch::channel(Arc::default());
        announce("xds", &listeners.xds);
        announce("admin", &listeners.admin);
        let reporter = Reporter::new(views.clone(), verdicts, streams.clone(), &metrics);
        tokio::spawn(findings::log(views.clone()));
        tokio::spawn(publish::run(views, snapshots.clone(), verdict_sender));
        tokio::spawn(status::serve(listeners.admin, Arc::new(reporter)));
        let service = Service::new(snapshots, streams, metrics, end);
        Plane { ending, served: service.serve(listeners.xds) }
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
