//! Connections come in: the handshake, within a time and a number; then they are guests.
//!
//! Who has not proven an identity yet is a stranger. When there are too many, the one that has been one for longest goes: an honest
//! caller is a stranger for milliseconds, so that those who only hold their places hold nobody else's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::guest::Guest;
use crate::authn::leaf::{Anchors, explain};
use crate::authn::refusal::{Reason, Refusal, Refusals};
use crate::ca::Serving;

/// The certificate that the port shows, and the next ones; while there is none, nobody is let in.
pub type Shown = watch::Receiver<Option<Arc<Serving>>>;

/// What connections meet first.
#[derive(Debug)]
pub struct Door {
    shown: Shown,
    anchors: watch::Receiver<Arc<Anchors>>,
    refusals: Refusals,
    limits: Limits,
}

/// How many may be inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) strangers: usize,
    pub(super) connections: usize,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
    /// How long somebody may stay without having proven an identity.
    pub(super) stranger: Duration,
    /// How often it is looked whether somebody who has is still who it was.
    pub(super) look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: 512,
            connections: 10_000,
            handshake: Duration::from_secs(10),
            stranger: Duration::from_secs(30),
            look: Duration::from_secs(5),
        }
    }
}

/// What a guest brings: the connection after its handshake.
pub(super) type Entrance = Result<Guest, std::io::Error>;

impl Door {
    /// A door that shows this certificate and believes certificates under these anchors.
    pub fn new(shown: Shown, anchors: watch::Receiver<Arc<Anchors>>, refusals: Refusals) -> Self {
        Self { shown, anchors, refusals, limits: Limits::default() }
    }

    /// The same, with so few connections that files are left for everything else when the process may open so many.
    #[must_use]
    pub fn within(mut self, files: usize) -> Self {
        let room = files.saturating_sub(RESERVE.min(files / 2));
        self.limits.connections = self.limits.connections.min(room);
        self.limits.strangers = self.limits.strangers.min(room / 4);
        self
    }

    #[cfg(test)]
    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Lets connections in for as long as somebody takes them.
    pub(super) async fn accept(mut self, listener: TcpListener, guests: mpsc::Sender<Entrance>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut strangers: VecDeque<oneshot::Sender<()>> = VecDeque::new();
        let mut config = None;
        while !guests.is_closed() {
            let (connection, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or a connection that died in the queue: neither lasts.
                    tracing::warn!(%error, "the TLS port cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.overload(address, "there are too many connections");
                continue;
            };
            let Some(config) = self.config(&mut config) else { continue };
            if let Some(oldest) = make_room(&mut strangers, self.limits.strangers) {
                drop(oldest);
                self.overload(address, "too many callers have proven nothing yet; the oldest was cut");
            }
            let (stays, evicted) = oneshot::channel();
            strangers.push_back(stays);
            let arrival = Arrival {
                connection,
                address,
                config,
                evicted,
                place,
                limits: self.limits,
                refusals: self.refusals.clone(),
            };
            tokio::spawn(arrival.enter(guests.clone()));
        }
    }

    fn overload(&self, address: SocketAddr, why: &str) {
        self.refusals.note(&Refusal::new(Reason::Overload, why), Some(address), "a connection was");
    }

    /// The configuration of the next handshake: made anew when the certificate or trust has changed.
    fn config(&mut self, current: &mut Option<Arc<ServerConfig>>) -> Option<Arc<ServerConfig>> {
        let changed = |changed: Result<bool, _>| changed.unwrap_or(false);
        if current.is_none() || changed(self.shown.has_changed()) || changed(self.anchors.has_changed()) {
            let shown = self.shown.borrow_and_update().clone();
            match shown.map(|shown| configure(&shown, &self.anchors.borrow_and_update())) {
                Some(Ok(config)) => *current = Some(Arc::new(config)),
                Some(Err(error)) => tracing::error!(%error, "the TLS port keeps its last configuration"),
                None => *current = None,
            }
        }
        current.clone()
    }
}

/// Takes out the stranger that has been one for longest, when there is no place for another.
fn make_room(strangers: &mut VecDeque<oneshot::Sender<()>>, limit: usize) -> Option<oneshot::Sender<()>> {
    if strangers.len() < limit {
        return None;
    }
    strangers.retain(|stranger| !stranger.is_closed());
    if strangers.len() < limit { None } else { strangers.pop_front() }
}

fn configure(shown: &Serving, anchors: &Anchors) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(anchors.verifier())
        .with_single_cert(shown.chain.clone(), shown.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is taken up again would skip the look at the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// One connection on its way in.
struct Arrival {
    connection: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    evicted: oneshot::Receiver<()>,
    place: OwnedSemaphorePermit,
    limits: Limits,
    refusals: Refusals,
}

impl Arrival {
    async fn enter(mut self, guests: mpsc::Sender<Entrance>) {
        // A connection that is gone is found out by the handshake.
        let _ = self.connection.set_nodelay(true);
        let handshake = TlsAcceptor::from(self.config).accept(self.connection);
        let done = tokio::select! {
            done = timeout(self.limits.handshake, handshake) => done,
            _ = &mut self.evicted => return,
        };
        let refusal = match done {
            Ok(Ok(stream)) => {
                let guest = Guest::new(stream, self.address, self.evicted, &self.limits, self.place);
                // The server may have ended meanwhile.
                let _ = guests.send(Ok(guest)).await;
                return;
            }
            Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => explain(error),
                // Somebody who only looks whether the port is open says nothing and goes.
                None if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
                None => Refusal::new(Reason::HandshakeFailed, format!("the TLS handshake failed: {error}")),
            },
            Err(_) => Refusal::new(
                Reason::HandshakeTimeout,
                format!("the TLS handshake was not done within {} seconds", self.limits.handshake.as_secs()),
            ),
        };
        self.refusals.note(&refusal, Some(self.address), "a connection was");
    }
}

/// Files for everything else: the lists of the denied and the revoked, manifests, the ledger, the other ports.
const RESERVE: usize = 512;

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::tests::fixture::{root, trust};

    #[test]
    fn h3_connections_leave_files_for_the_list_of_the_denied() {
        let root = root("a");
        let anchors = Arc::new(Anchors::new(&trust(&[&root])).unwrap());
        let serving = crate::secure::tests::shown(&root);
        let limits = |files| {
            let shown = watch::channel(serving.clone()).1;
            let anchors = watch::channel(Arc::clone(&anchors)).1;
            Door::new(shown, anchors, Refusals::default()).within(files).limits
        };
        assert_eq!((limits(1 << 20).connections, limits(1 << 20).strangers), (10_000, 512));
        assert_eq!((limits(1024).connections, limits(1024).strangers), (512, 128));
        assert_eq!(limits(256).connections, 128);
    }

    #[test]
    fn the_oldest_stranger_makes_room_when_all_places_are_taken_and_not_before() {
        let (mut strangers, mut waiting) = (VecDeque::new(), Vec::new());
        for place in 0..3 {
            assert!(make_room(&mut strangers, 3).is_none(), "{place} of three are taken");
            let (stranger, gone) = oneshot::channel();
            strangers.push_back(stranger);
            waiting.push(gone);
        }
        let out = make_room(&mut strangers, 3).unwrap();
        assert_eq!(strangers.len(), 2);
        drop(waiting.remove(0));
        assert!(out.is_closed(), "it was the oldest");
        strangers.push_back(oneshot::channel().0);
        // Who has gone, or is known by now, has no place.
        assert!(make_room(&mut strangers, 3).is_none());
        assert_eq!(strangers.len(), 2);
    }
}
