//! A caller whose proof was good at the beginning of a call, and the end of that: expiry, revocation, denial, roots that went.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::leaf::{Anchors, Chain, Leaf};
use super::refusal::{Reason, Refusal};
use super::standing::Call;

/// The wall clock. Certificates and tokens end by it, whatever the machine did meanwhile.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Who calls, and how it was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// In whose name.
    pub identity: SpiffeId,
    /// By what.
    pub proof: Proof,
    /// Whether a token was shown that is good today, alone or beside a certificate.
    pub token: bool,
}

/// What an identity was proven by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A bearer token.
    Token {
        /// When it ends.
        expires: SystemTime,
        /// The Pod that it is bound to.
        pod: Option<String>,
    },
    /// The certificate of the TLS connection.
    Leaf(Leaf),
}

impl Caller {
    /// The holder of a certificate, which `token` vouches for too or does not.
    pub(crate) fn by_leaf(leaf: Leaf, token: bool) -> Self {
        Self { identity: leaf.identity.clone(), proof: Proof::Leaf(leaf), token }
    }

    /// The certificate that it showed.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.proof {
            Proof::Leaf(leaf) => Some(leaf),
            Proof::Token { .. } => None,
        }
    }
}

/// A caller for as long as its call goes on.
pub struct Session {
    caller: Caller,
    /// What was shown at the handshake, to be judged again.
    chain: Option<Chain>,
    peer: Option<SocketAddr>,
    anchors: watch::Receiver<Arc<Anchors>>,
    clock: WallClock,
    /// Counts on the connection for as long as the call goes on.
    _call: Option<Call>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        caller: Caller,
        chain: Option<Chain>,
        peer: Option<SocketAddr>,
        anchors: watch::Receiver<Arc<Anchors>>,
        clock: WallClock,
    ) -> Self {
        Self { caller, chain, peer, anchors, clock, _call: None }
    }

    /// The same, for as long as a call goes on.
    pub(super) fn on(self, call: Call) -> Self {
        Self { _call: Some(call), ..self }
    }

    #[cfg(test)]
    pub(super) fn set_clock(&mut self, clock: WallClock) {
        self.clock = clock;
    }

    /// Who it is.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Where it calls from.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether the caller is still who it was, between two calls.
    pub(super) fn holds(&mut self) -> bool {
        let now = (self.clock)();
        if self.left(now).is_none() {
            return false;
        }
        if !self.anchors.has_changed().unwrap_or(false) {
            return true;
        }
        let anchors = Arc::clone(&self.anchors.borrow_and_update());
        self.judge(&anchors, now).is_ok()
    }

    /// Resolves when the caller is no longer who it was: with the reason. May be dropped and asked again at any time.
    pub async fn lapsed(&mut self) -> Refusal {
        let mut followed = true;
        loop {
            let now = (self.clock)();
            let Some(left) = self.left(now) else { return self.over() };
            if followed && self.anchors.has_changed().is_ok_and(|changed| changed) {
                let anchors = Arc::clone(&self.anchors.borrow_and_update());
                if let Err(refusal) = self.judge(&anchors, now) {
                    return refusal;
                }
            }
            tokio::select! {
                // Looked at again before it is due, because the wall clock may be set.
                () = sleep(left.min(CLOCK_LOOK)) => {}
                // The change is not taken here: `has_changed` must still find it when this future is dropped.
                changed = has_changed(self.anchors.clone()), if followed => followed = changed,
            }
        }
    }

    /// How long the proof is good for by the clock alone.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        let end = match &self.caller.proof {
            Proof::Leaf(leaf) => leaf.not_after,
            Proof::Token { expires, .. } => expires.checked_add(TOKEN_GRACE)?,
        };
        end.duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// A good caller that has been here since its proof was valid: it is to come back, not to be told off.
    fn over(&self) -> Refusal {
        let text = match &self.caller.proof {
            Proof::Leaf(_) => "certificate expired; reconnect with the renewed one",
            Proof::Token { .. } => {
                "the token that opened this stream has expired; reconnect with a certificate or a fresh token"
            }
        };
        Refusal::new(Reason::ProofOver, text)
    }

    fn judge(&self, anchors: &Anchors, now: SystemTime) -> Result<(), Refusal> {
        anchors.admit(&self.caller.identity)?;
        match &self.chain {
            Some(chain) => anchors.identify(chain, now).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Waits for a change; false when none can follow.
async fn has_changed(mut anchors: watch::Receiver<Arc<Anchors>>) -> bool {
    anchors.changed().await.is_ok()
}

/// How long a stream may go on after the token that opened it: enough to get a certificate and come back with that. A token that
/// somebody stole is good for no longer either.
pub const TOKEN_GRACE: Duration = Duration::from_secs(5 * 60);

/// How often the wall clock is looked at.
const CLOCK_LOOK: Duration = Duration::from_secs(30);
