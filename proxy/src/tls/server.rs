//! Terminating TLS: which certificate is shown to whom, and the handshake within its bounds.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use rustc_hash::FxHashMap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

use super::failure::{Distrust, Failure, HandshakeFailure};
use super::material::{Identity, MaterialError};
use super::parameters::Parameters;
use super::peer::{Established, Peer};
use super::resumption::{Memory, Remember};
use super::verifier::Clients;
use super::verify::{Policy, Revoked, covers};
use crate::io::{Io, Session};

/// What a [`ServerContext`] is made of (`DownstreamTlsContext`).
#[derive(Debug)]
pub(crate) struct ServerPlan {
    /// The certificates, the default first; at least one.
    pub(crate) identities: Vec<Arc<Identity>>,
    /// Whether clients show theirs.
    pub(crate) clients: ClientAuthentication,
    /// `alpn_protocols`, most wanted first.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Versions, suites, groups.
    pub(crate) parameters: Parameters,
    /// How sessions are remembered.
    pub(crate) remember: Remember,
    /// `full_scan_certs_on_sni_mismatch`: a client that asks for an unknown name may get any certificate that suits its algorithms, not
    /// only the first.
    pub(crate) full_scan: bool,
    /// `require_sni`.
    pub(crate) require_sni: bool,
}

/// Whether clients show a certificate.
#[derive(Clone, Debug)]
pub(crate) enum ClientAuthentication {
    /// They are not asked.
    None,
    /// They may; one that is shown must be trusted.
    Optional(Arc<Policy>),
    /// They must.
    Required(Arc<Policy>),
}

impl ClientAuthentication {
    fn policy(&self) -> Option<&Arc<Policy>> {
        match self {
            Self::None => None,
            Self::Optional(policy) | Self::Required(policy) => Some(policy),
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::None => [0; 32],
            Self::Optional(policy) => policy.fingerprint,
            Self::Required(policy) => {
                let mut fingerprint = policy.fingerprint;
                fingerprint[0] ^= 1;
                fingerprint
            }
        }
    }
}

/// A cell with the configuration that handshakes use from now on; empty until its certificates have arrived.
#[derive(Default)]
pub(crate) struct ServerContext {
    current: ArcSwapOption<State>,
}

impl fmt::Debug for ServerContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerContext").field("ready", &self.is_ready()).finish()
    }
}

struct State {
    config: Arc<ServerConfig>,
    memory: Memory,
    require_sni: bool,
    /// What clients are held against, if they are.
    policy: Option<Arc<Policy>>,
}

impl ServerContext {
    /// Puts a configuration in force. Sessions stay resumable when what decides about clients is the same.
    ///
    /// # Errors
    /// When the parts do not go together; what was in force stays.
    pub(crate) fn install(&self, plan: &ServerPlan) -> Result<(), MaterialError> {
        let refused = |error: rustls::Error| MaterialError::Refused(error.to_string());
        let fingerprint = plan.clients.fingerprint();
        let known = self.current.load().as_ref().map(|state| state.memory.clone());
        let same = |memory: &Memory| {
            memory.fingerprint == fingerprint && memory.ticketer.is_some() == plan.remember.tickets
        };
        let memory = match known.filter(same) {
            Some(memory) => memory,
            None => Memory::new(fingerprint, plan.remember).map_err(refused)?,
        };
        let builder = ServerConfig::builder_with_provider(plan.parameters.provider());
        let builder = builder.with_protocol_versions(plan.parameters.versions()).map_err(refused)?;
        let clients = |policy: &Arc<Policy>, required| Arc::new(Clients { policy: policy.clone(), required });
        let builder = match &plan.clients {
            ClientAuthentication::None => builder.with_no_client_auth(),
            ClientAuthentication::Optional(policy) => {
                builder.with_client_cert_verifier(clients(policy, false))
            }
            ClientAuthentication::Required(policy) => {
                builder.with_client_cert_verifier(clients(policy, true))
            }
        };
        let certificates = Arc::new(Certificates::new(plan));
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(certificates)));
        config.alpn_protocols.clone_from(&plan.alpn);
        config.session_storage = memory.storage.clone();
        // Early data stays off: it can be replayed.
        config.max_early_data_size = 0;
        config.send_tls13_tickets = usize::from(plan.remember.tickets || plan.remember.sessions);
        if let Some(ticketer) = &memory.ticketer {
            config.ticketer = ticketer.clone();
        }
        let require_sni = plan.require_sni;
        let policy = plan.clients.policy().cloned();
        let state = State { config: Arc::new(config), memory, require_sni, policy };
        self.current.store(Some(Arc::new(state)));
        Ok(())
    }

    /// Whether handshakes can be made.
    pub(crate) fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }

    /// Differs when somebody may have been revoked, or denied, or is so no longer.
    pub(crate) fn revocation(&self) -> [u8; 32] {
        let state = self.current.load();
        let policy = state.as_ref().and_then(|state| state.policy.as_ref());
        policy.map_or([0; 32], |policy| policy.revocation)
    }

    /// Why a client that was accepted would not be accepted any more, if so.
    pub(crate) fn revokes(&self, peer: &Peer) -> Option<Revoked> {
        let state = self.current.load();
        peer.revoked_by(state.as_ref()?.policy.as_ref()?)
    }

    /// Makes no handshake any more, not even a resumed one, until something is installed anew.
    pub(crate) fn withdraw(&self) {
        self.current.store(None);
    }
}

/// The certificates of a context, by name.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<Identity>>,
    /// Exact names, lower case.
    exact: FxHashMap<Box<str>, Vec<usize>>,
    /// What follows `*.`, lower case.
    wildcard: FxHashMap<Box<str>, Vec<usize>>,
    full_scan: bool,
}

impl Certificates {
    fn new(plan: &ServerPlan) -> Self {
        let mut exact: FxHashMap<Box<str>, Vec<usize>> = FxHashMap::default();
        let mut wildcard: FxHashMap<Box<str>, Vec<usize>> = FxHashMap::default();
        for (index, identity) in plan.identities.iter().enumerate() {
            for name in &identity.leaf.names.dns {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.into()).or_default().push(index),
                    None => exact.entry(name.into()).or_default().push(index),
                }
            }
        }
        Self { all: plan.identities.clone(), exact, wildcard, full_scan: plan.full_scan }
    }

    /// The certificates for a name; none when it is unknown.
    fn for_name(&self, name: &str) -> &[usize] {
        let name = name.to_ascii_lowercase();
        let exact = self.exact.get(&*name);
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let found = exact.or_else(|| self.wildcard.get(parent?));
        found.map_or(&[], Vec::as_slice)
    }

    /// Whether a request for the host may come on a connection that was shown `shown`: that certificate is the host's too, or the host
    /// has none of its own.
    fn admits(&self, shown: &Identity, host: &str) -> bool {
        let theirs = self.for_name(host);
        theirs.is_empty()
            || theirs.iter().any(|index| self.all[*index].leaf == shown.leaf)
            || covers_any(shown, host)
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<&Arc<Identity>> {
        let suits = |index: &usize| {
            self.all
                .get(*index)
                .is_some_and(|identity| identity.key.key.choose_scheme(hello.signature_schemes()).is_some())
        };
        let known = hello.server_name().map(|name| self.for_name(name)).unwrap_or_default();
        let known = known.iter().find(|index| suits(index)).copied();
        let fallback = || (0..self.all.len()).find(|index| (self.full_scan || *index == 0) && suits(index));
        // Certificates of another kind for the default name stand beside the first one.
        let beside = || {
            let first = self.all.first()?;
            (0..self.all.len()).find(|index| self.all[*index].leaf.names == first.leaf.names && suits(index))
        };
        // Where none suits, one is named all the same: rustls finds out what there is not in common, and its alert says so. Without any
        // it would say that access is denied.
        self.all.get(known.or_else(fallback).or_else(beside).unwrap_or_default())
    }
}

/// As rustls asks them.
#[derive(Debug)]
struct Resolver(Arc<Certificates>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.choose(&hello);
        let server_name = hello.server_name().map(|name| name.to_ascii_lowercase().into());
        // The session does not tell what it was asked for: noted here, within the call that asks.
        NOTED.set(Some(Noted { server_name, identity: identity.cloned(), choices: self.0.clone() }));
        identity.map(|identity| identity.key.clone())
    }
}

fn covers_any(identity: &Identity, host: &str) -> bool {
    identity.leaf.names.dns.iter().any(|name| covers(name, host))
}

/// The certificates that a connection could have been shown.
#[derive(Clone, Debug)]
pub(crate) struct Choices(Arc<Certificates>);

impl Choices {
    /// Whether a request for the host may come on a connection that was shown this certificate (C5).
    pub(crate) fn admit(&self, shown: &Identity, host: &str) -> bool {
        self.0.admits(shown, host)
    }
}

/// What a ClientHello asked for and got.
struct Noted {
    server_name: Option<Box<str>>,
    identity: Option<Arc<Identity>>,
    choices: Arc<Certificates>,
}

thread_local! {
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
    /// Handshakes under way on this worker.
    static PENDING: Cell<usize> = const { Cell::new(0) };
}

/// A place among the handshakes under way.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let pending = PENDING.get();
        (pending < MOST_PENDING).then(|| {
            PENDING.set(pending + 1);
            Self
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PENDING.set(PENDING.get() - 1);
    }
}

/// Shakes hands with a client, within `time_limit` and [`MOST_PENDING`]. `ahead` was read already.
///
/// # Errors
/// Why no session came about; the client has been told by an alert where there is one.
pub(crate) async fn accept(
    io: Io,
    ahead: BytesMut,
    context: &ServerContext,
    time_limit: Duration,
) -> Result<(Io, Established), HandshakeFailure> {
    let Some(state) = context.current.load_full() else {
        return Err(HandshakeFailure::new(Failure::NotReady, super::NOT_READY));
    };
    let Some(_place) = Place::take() else {
        return Err(HandshakeFailure::new(
            Failure::Overflow,
            format!("TLS: {MOST_PENDING} handshakes pending"),
        ));
    };
    let session = UnbufferedServerConnection::new(state.config.clone())
        .map_err(|error| HandshakeFailure::new(Failure::Protocol, format!("TLS: {error}")))?;
    let mut noted = None;
    // Boxed: a connection must not carry the room of its handshake for its whole life.
    let mut shaking = Box::pin(io.secure(Session::Server(session), ahead));
    let noting = std::future::poll_fn(|context| {
        let polled = shaking.as_mut().poll(context);
        noted = NOTED.take().or(noted.take());
        polled
    });
    let io = match tokio::time::timeout(time_limit, noting).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return Err(HandshakeFailure::of(&error)),
        Err(_) => {
            return Err(HandshakeFailure::new(
                Failure::Timeout,
                format!("TLS: the handshake was not done within {time_limit:?}"),
            ));
        }
    };
    established(io, &state, noted)
}

fn established(io: Io, state: &State, noted: Option<Noted>) -> Result<(Io, Established), HandshakeFailure> {
    let (server_name, own, choices) = match noted {
        Some(noted) => (noted.server_name, noted.identity, Some(Choices(noted.choices))),
        None => (None, None, None),
    };
    if state.require_sni && server_name.is_none() {
        io.reset_on_close();
        return Err(HandshakeFailure::new(
            Failure::Protocol,
            "TLS: the client names no server (require_sni)",
        ));
    }
    let established = io.session(|session| Established::of(session, server_name, own, choices));
    match established {
        Some(Ok(established)) => {
            let peer = established.security.peer.as_ref();
            // A session that is resumed does not ask again.
            if peer.is_some_and(|peer| peer.certificate.has_expired(SystemTime::now())) {
                io.reset_on_close();
                return Err(HandshakeFailure::new(
                    Failure::Untrusted(Distrust::Time),
                    "TLS: the peer's certificate has expired since the session that it resumes",
                ));
            }
            Ok((io, established))
        }
        Some(Err(error)) => Err(HandshakeFailure::new(
            Failure::Untrusted(Distrust::Other),
            format!("TLS: the peer's certificate {error}"),
        )),
        None => Err(HandshakeFailure::new(Failure::Protocol, "TLS: no session")),
    }
}

/// Handshakes under way at once on one worker: more are refused, so that slow ones cannot pile up (C9).
const MOST_PENDING: usize = 2_048;
