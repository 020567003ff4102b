//! Who is calling: the proof that a caller gives, a token or the certificate of its connection → an identity, or the reason why not.
//!
//! An identity comes from the proof alone; whatever else a caller says of itself is compared with it or ignored.

mod bearer;
pub mod leaf;
pub mod refusal;
pub mod review;
mod session;
pub(crate) mod shares;
mod standing;
mod subject;
pub mod tokens;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::watch;

use leaf::{Anchors, Chain};
use refusal::{Reason, Refusal, Refusals};
use review::{Asker, Reviewer};
pub use session::{Caller, Proof, Session, TOKEN_GRACE, WallClock};
use standing::Seats;
pub use standing::Standing;
pub use subject::Subject;
use tokens::{ISSUER, Proven, TokenKey};

/// The other end of a connection of the TLS port.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificates that it showed, verified at the handshake.
    pub chain: Option<Chain>,
    /// What it has shown on this connection; a connection of nobody is not kept.
    pub standing: Arc<Standing>,
}

/// Finds out who calls. Clones share everything.
#[derive(Clone)]
pub struct Authenticator {
    parts: Arc<Parts>,
}

struct Parts {
    tokens: TokenKey,
    reviewer: Option<Reviewer>,
    anchors: watch::Receiver<Arc<Anchors>>,
    refusals: Refusals,
    clock: WallClock,
    seats: Seats,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = &self.parts;
        formatter.debug_struct("Authenticator").field("reviewer", &parts.reviewer).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// One that believes this key's tokens, what the API server says of others, and certificates under these anchors.
    pub fn new(
        tokens: TokenKey,
        reviewer: Option<Reviewer>,
        anchors: watch::Receiver<Arc<Anchors>>,
        refusals: Refusals,
    ) -> Self {
        Self::with_clock(tokens, reviewer, anchors, refusals, Arc::new(SystemTime::now))
    }

    /// As [`Authenticator::new`], by another clock.
    pub fn with_clock(
        tokens: TokenKey,
        reviewer: Option<Reviewer>,
        anchors: watch::Receiver<Arc<Anchors>>,
        refusals: Refusals,
        clock: WallClock,
    ) -> Self {
        Self {
            parts: Arc::new(Parts { tokens, reviewer, anchors, refusals, clock, seats: Seats::default() }),
        }
    }

    /// Where refusals are counted and logged.
    pub fn refusals(&self) -> &Refusals {
        &self.parts.refusals
    }

    /// Finds out who makes a call. `what` is the call, for the log.
    ///
    /// # Errors
    /// Why nobody is believed to; it is counted and logged here.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        what: &str,
    ) -> Result<Session, Refusal> {
        let address = peer.map(|peer| peer.address);
        self.open(headers, peer).await.inspect_err(|refusal| {
            self.parts.refusals.note(refusal, address, what);
        })
    }

    async fn open(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Session, Refusal> {
        let caller = self.identify(headers, peer).await?;
        let session = |caller: Caller| {
            let chain = caller.leaf().and_then(|_| peer.and_then(|peer| peer.chain.clone()));
            let (anchors, clock) = (self.parts.anchors.clone(), Arc::clone(&self.parts.clock));
            Session::new(caller, chain, peer.map(|peer| peer.address), anchors, clock)
        };
        let Some(peer) = peer else { return Ok(session(caller)) };
        self.parts.seats.take(&peer.standing, session(caller.clone()), peer.address.ip())?;
        Ok(session(caller).on(peer.standing.call()))
    }

    async fn identify(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Refusal> {
        let token = bearer::token(headers)?;
        let anchors = Arc::clone(&self.parts.anchors.borrow());
        let now = (self.parts.clock)();
        let leaf = match peer.and_then(|peer| peer.chain.as_ref()) {
            Some(chain) => Some(anchors.identify(chain, now)?),
            None => None,
        };
        let proven = match token {
            Some(token) => self.prove(token, now, peer, leaf.is_some()).await.map(Some),
            None => Ok(None),
        };
        let caller = match (leaf, proven) {
            (None, Ok(None)) => return Err(no_proof()),
            (Some(leaf), Ok(None)) => Caller::by_leaf(leaf, false),
            // A certificate is enough by itself, and whoever has it could leave the old token out: it adds nothing, and takes nothing.
            (Some(leaf), Err(refusal)) if refusal.reason == Reason::TokenExpired => {
                Caller::by_leaf(leaf, false)
            }
            (_, Err(refusal)) => return Err(refusal),
            (leaf, Ok(Some(proven))) => {
                let identity = identity(&anchors, &proven.subject)?;
                match leaf {
                    Some(leaf) if leaf.identity != identity => {
                        return Err(disagreement(&leaf.identity, &identity));
                    }
                    Some(leaf) => Caller::by_leaf(leaf, true),
                    None => {
                        let proof = Proof::Token { expires: proven.expires, pod: proven.subject.pod };
                        Caller { identity, proof, token: true }
                    }
                }
            }
        };
        anchors.admit(&caller.identity)?;
        Ok(caller)
    }

    /// Our tokens are ours to judge and nobody else sees them; all others are the API server's.
    async fn prove(
        &self,
        token: &str,
        now: SystemTime,
        peer: Option<&Peer>,
        known: bool,
    ) -> Result<Proven, Refusal> {
        let claim = bearer::peek(token)?;
        if claim.iss == ISSUER {
            return self.parts.tokens.verify(token, now);
        }
        match &self.parts.reviewer {
            Some(reviewer) => {
                let asker = Asker::new(peer, known);
                reviewer.review(token, claim.exp, now, &asker).await
            }
            None => Err(Refusal::new(
                Reason::TokenIssuer,
                "the token is not this control plane's own, and it knows no Kubernetes API server to ask: make one with `sidegate token`, or start `sidegate serve` with --token-review",
            )),
        }
    }
}

fn identity(anchors: &Anchors, subject: &Subject) -> Result<SpiffeId, Refusal> {
    SpiffeId::workload(anchors.trust_domain(), &subject.namespace, &subject.account).map_err(|error| {
        Refusal::new(Reason::TokenSubject, format!("the account makes no identity: {error}"))
    })
}

fn no_proof() -> Refusal {
    Refusal::new(
        Reason::NoProof,
        "this port answers those who prove who they are: send `authorization: Bearer <token>` (`sidegate token` makes one), or connect with a client certificate of this mesh",
    )
}

fn disagreement(leaf: &SpiffeId, token: &SpiffeId) -> Refusal {
    Refusal::new(
        Reason::Disagreement,
        format!(
            "the client certificate is {leaf}'s and the token {token}'s: send one of them, or both of one identity"
        ),
    )
}
