//! Originating TLS: which name is asked for, who may answer to it, and which of our certificates is shown.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{DnsName, ServerName};
use rustls::sign::SingleCertAndKey;

use super::failure::{Distrust, Failure, HandshakeFailure};
use super::material::{Identity, MaterialError};
use super::parameters::Parameters;
use super::peer::{Established, Peer};
use super::verifier::Servers;
use super::verify::{Policy, Revoked};
use crate::io::{Io, Session};

/// What a [`ClientContext`] is made of (`UpstreamTlsContext`).
#[derive(Debug)]
pub(crate) struct ClientPlan {
    /// Our certificate, if we show one.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Who may answer.
    pub(crate) policy: Arc<Policy>,
    /// `sni`.
    pub(crate) server_name: Option<Box<str>>,
    /// `alpn_protocols`, most wanted first.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Versions, suites, groups.
    pub(crate) parameters: Parameters,
    /// Sessions may be resumed (`max_session_keys` is not 0).
    pub(crate) resume: bool,
}

/// A cell with the configuration that handshakes use from now on; empty until its certificates have arrived.
#[derive(Default)]
pub(crate) struct ClientContext {
    current: ArcSwapOption<State>,
}

struct State {
    config: Arc<ClientConfig>,
    server_name: Option<Box<str>>,
    identity: Option<Arc<Identity>>,
    policy: Arc<Policy>,
    generation: u64,
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientContext").field("generation", &self.generation()).finish()
    }
}

impl ClientContext {
    /// Puts a configuration in force. It has a generation of its own: connections of another one serve no new request, and sessions of
    /// another one are not resumed.
    ///
    /// # Errors
    /// When the parts do not go together; what was in force stays.
    pub(crate) fn install(&self, plan: &ClientPlan) -> Result<(), MaterialError> {
        let refused = |error: rustls::Error| MaterialError::Refused(error.to_string());
        let builder = ClientConfig::builder_with_provider(plan.parameters.provider());
        let builder = builder.with_protocol_versions(plan.parameters.versions()).map_err(refused)?;
        let verifier = Arc::new(Servers { policy: plan.policy.clone() });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &plan.identity {
            Some(identity) => {
                let resolver = SingleCertAndKey::from(rustls::sign::CertifiedKey::clone(&identity.key));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&plan.alpn);
        config.enable_early_data = false;
        // Room for sessions is taken at once: where one name is asked for, few servers are told apart.
        let sessions = if plan.server_name.is_some() { SESSIONS_OF_ONE_NAME } else { SESSIONS };
        config.resumption =
            if plan.resume { Resumption::in_memory_sessions(sessions) } else { Resumption::disabled() };
        self.current.store(Some(Arc::new(State {
            config: Arc::new(config),
            server_name: plan.server_name.clone(),
            identity: plan.identity.clone(),
            policy: plan.policy.clone(),
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
        })));
        Ok(())
    }

    /// Whether handshakes can be made.
    pub(crate) fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }

    /// Makes no handshake any more until something is installed anew; connections that were made serve no new request.
    pub(crate) fn withdraw(&self) {
        self.current.store(None);
    }

    /// Which configuration is in force; grows, never 0 once there is one.
    pub(crate) fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |state| state.generation)
    }

    /// Differs when somebody may have been revoked, or denied, or is so no longer.
    pub(crate) fn revocation(&self) -> [u8; 32] {
        self.current.load().as_ref().map_or([0; 32], |state| state.policy.revocation)
    }

    /// Why a server that was accepted would not be accepted any more, if so.
    pub(crate) fn revokes(&self, peer: &Peer) -> Option<Revoked> {
        peer.revoked_by(&self.current.load().as_ref()?.policy)
    }

    /// Prepares a handshake with a server, so that its first word leaves as soon as there is a connection: on a port that takes plaintext
    /// too, whoever is silent for long is taken for one that lets the server speak first. `name` is what to ask for instead of the
    /// configured name; `address` is whose address it is; `protocol` is what will be spoken, if that is known: of the other HTTP, none
    /// is offered.
    ///
    /// # Errors
    /// When nothing can be asked.
    pub(crate) fn prepare(
        &self,
        name: Option<&str>,
        address: IpAddr,
        protocol: Option<&'static [u8]>,
    ) -> Result<Box<Prepared>, HandshakeFailure> {
        let Some(state) = self.current.load_full() else {
            return Err(HandshakeFailure::new(
                Failure::NotReady,
                "TLS: the certificates of the cluster have not arrived yet",
            ));
        };
        let name = name.or(state.server_name.as_deref());
        let server_name = server_name(name, address)?;
        let name = name.map(Into::into);
        let alpn = offers(&state.config.alpn_protocols, protocol);
        let session = UnbufferedClientConnection::new_with_alpn(state.config.clone(), server_name, alpn)
            .map_err(|error| HandshakeFailure::new(Failure::Protocol, format!("TLS: {error}")))?;
        Ok(Box::new(Prepared { session, name, identity: state.identity.clone() }))
    }
}

/// A handshake before its first byte.
pub(crate) struct Prepared {
    session: UnbufferedClientConnection,
    name: Option<Box<str>>,
    identity: Option<Arc<Identity>>,
}

impl Prepared {
    /// Shakes hands.
    ///
    /// # Errors
    /// Why no session came about. Nothing was sent but the handshake.
    pub(crate) async fn connect(self: Box<Self>, io: Io) -> Result<(Io, Established), HandshakeFailure> {
        let Self { session, name, identity } = *self;
        let io = io.secure(Session::Client(session), BytesMut::new()).await;
        let io = io.map_err(|error| HandshakeFailure::of(&error))?;
        match io.session(|session| Established::of(session, name, identity, None)) {
            Some(Ok(established)) => Ok((io, established)),
            Some(Err(error)) => {
                let detail = format!("TLS: the peer's certificate {error}");
                Err(HandshakeFailure::new(Failure::Untrusted(Distrust::Other), detail))
            }
            None => Err(HandshakeFailure::new(Failure::Protocol, "TLS: no session")),
        }
    }
}

/// What to offer: as configured, without what we would not speak; where nothing is configured, what we speak.
fn offers(configured: &[Vec<u8>], protocol: Option<&'static [u8]>) -> Vec<Vec<u8>> {
    let Some(protocol) = protocol else { return configured.to_vec() };
    let is_http = |offer: &Vec<u8>| HTTP.contains(&offer.as_slice());
    let mut offers = configured.to_vec();
    offers.retain(|offer| offer.as_slice() == protocol || !is_http(offer));
    // Where HTTP was to be offered, and none or the other one is left, the one that will be spoken is.
    let meant = configured.is_empty() || configured.iter().any(is_http);
    if meant && !offers.iter().any(|offer| offer.as_slice() == protocol) {
        offers.push(protocol.to_vec());
    }
    offers
}

/// HTTP by ALPN (RFC 7301 §6).
const HTTP: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

/// What the session is for: a name is sent (SNI), an address is not.
fn server_name(name: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, HandshakeFailure> {
    let Some(name) = name else { return Ok(ServerName::IpAddress(address.into())) };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    DnsName::try_from(name.to_owned()).map(ServerName::DnsName).map_err(|_| {
        HandshakeFailure::new(Failure::Protocol, format!("TLS: {name:?} is no name to ask a server for"))
    })
}

/// Shared by all contexts, so that no two ever have the same.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// Sessions that are remembered.
const SESSIONS: usize = 256;
const SESSIONS_OF_ONE_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_is_offered_first_and_what_will_be_spoken_with_it() {
        let offered = |configured: &[&str], protocol: Option<&'static str>| {
            let configured: Vec<_> = configured.iter().map(|name| name.as_bytes().to_vec()).collect();
            let offers = offers(&configured, protocol.map(str::as_bytes));
            offers.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(offered(&["istio", "h2"], Some("h2")), "istio h2");
        assert_eq!(offered(&["istio", "http/1.1"], Some("http/1.1")), "istio http/1.1");
        assert_eq!(offered(&["istio", "h2", "http/1.1"], Some("http/1.1")), "istio http/1.1");
        assert_eq!(offered(&["istio", "h2"], Some("http/1.1")), "istio http/1.1", "not the other one");
        assert_eq!(offered(&["h2"], Some("http/1.1")), "http/1.1");
        assert_eq!(offered(&["http/1.0"], Some("http/1.1")), "http/1.1");
        assert_eq!(offered(&[], Some("h2")), "h2");
        assert_eq!(offered(&["istio"], Some("h2")), "istio", "as it is configured");
        assert_eq!(offered(&["istio"], None), "istio");
        assert_eq!(offered(&["istio", "h2"], None), "istio h2", "what is not looked into is offered whole");
        assert_eq!(offered(&[], None), "");
    }
}
