//! Why a caller was turned away: one closed list, what each is to the caller, to the log and to the counters.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::model::shorten;

/// Why somebody was refused. Each is one label of one counter, so the list is what bounds the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Neither a token nor a certificate.
    NoProof,
    /// More than one `authorization` header.
    TwoTokens,
    /// Another scheme than `Bearer`, or nothing behind it.
    NotBearer,
    /// Not in the form of a token.
    TokenMalformed,
    /// Signed by nobody known here, or not signed.
    TokenSignature,
    /// For somebody else than this control plane.
    TokenAudience,
    /// Over.
    TokenExpired,
    /// Not valid yet.
    TokenTooEarly,
    /// From an issuer that nobody here can ask.
    TokenIssuer,
    /// The Kubernetes API server does not vouch for it.
    TokenRejected,
    /// It does not speak for a service account.
    TokenSubject,
    /// It is bound to another Pod.
    TokenPod,
    /// The Kubernetes API server gave no answer.
    ReviewUnavailable,
    /// The certificate is over.
    CertificateExpired,
    /// No root that is trusted now signed it.
    CertificateUntrusted,
    /// It was revoked.
    CertificateRevoked,
    /// It does not have exactly one URI with an id of this trust domain.
    CertificateIdentity,
    /// What a stream was opened with ended while it was open.
    ProofOver,
    /// Token and certificate speak for different identities.
    Disagreement,
    /// The identity is on the list of the denied.
    Denied,
    /// The node says that it serves what belongs to another identity.
    NodeIdentity,
    /// The node says that it serves what does not exist.
    NodeUnknown,
    /// What is served changed hands while the stream was open.
    NodeChanged,
    /// A secret was asked for by name that is not the caller's. It is answered with nothing, and the stream goes on.
    ForeignSecret,
    /// The control plane has not read its objects yet.
    NotReady,
    /// A certificate was asked for in somebody else's name.
    Impersonation,
    /// A signing request that cannot be read.
    Request,
    /// A signing request for more than the caller's identity.
    RequestForbidden,
    /// Too many certificates of one identity.
    CertificateLimit,
    /// A certificate was to be renewed by itself alone, and nothing runs as its account.
    AccountUnused,
    /// The authority cannot sign now.
    AuthorityUnavailable,
    /// The handshake was not finished in time.
    HandshakeTimeout,
    /// The handshake failed for a reason that is not the certificate's.
    HandshakeFailed,
    /// Too many connections or handshakes at once.
    Overload,
}

/// What a refusal is to the caller: gRPC's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It did not prove who it is.
    Unauthenticated,
    /// It proved who it is, and may not.
    PermissionDenied,
    /// The request itself is not acceptable.
    InvalidArgument,
    /// Nobody can say now; try again.
    Unavailable,
    /// Too much of something.
    ResourceExhausted,
}

impl Reason {
    /// The label on the counter and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoProof => "no-proof",
            Self::TwoTokens => "two-tokens",
            Self::NotBearer => "not-bearer",
            Self::TokenMalformed => "token-malformed",
            Self::TokenSignature => "token-signature",
            Self::TokenAudience => "token-audience",
            Self::TokenExpired => "token-expired",
            Self::TokenTooEarly => "token-too-early",
            Self::TokenIssuer => "token-issuer",
            Self::TokenRejected => "token-rejected",
            Self::TokenSubject => "token-subject",
            Self::TokenPod => "token-pod",
            Self::ReviewUnavailable => "review-unavailable",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateUntrusted => "certificate-untrusted",
            Self::CertificateRevoked => "certificate-revoked",
            Self::CertificateIdentity => "certificate-identity",
            Self::ProofOver => "proof-over",
            Self::Disagreement => "disagreement",
            Self::Denied => "denied",
            Self::NodeIdentity => "node-identity",
            Self::NodeUnknown => "node-unknown",
            Self::NodeChanged => "node-changed",
            Self::ForeignSecret => "foreign-secret",
            Self::NotReady => "not-ready",
            Self::Impersonation => "impersonation",
            Self::Request => "request",
            Self::RequestForbidden => "request-forbidden",
            Self::CertificateLimit => "certificate-limit",
            Self::AccountUnused => "account-unused",
            Self::AuthorityUnavailable => "authority-unavailable",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::HandshakeFailed => "handshake-failed",
            Self::Overload => "overload",
        }
    }

    /// What it is to the caller.
    pub const fn class(self) -> Class {
        match self {
            Self::NoProof
            | Self::TwoTokens
            | Self::NotBearer
            | Self::TokenMalformed
            | Self::TokenSignature
            | Self::TokenAudience
            | Self::TokenExpired
            | Self::TokenTooEarly
            | Self::TokenIssuer
            | Self::TokenRejected
            | Self::CertificateExpired
            | Self::CertificateUntrusted
            | Self::CertificateRevoked
            | Self::HandshakeTimeout
            | Self::HandshakeFailed => Class::Unauthenticated,
            Self::TokenSubject
            | Self::TokenPod
            | Self::CertificateIdentity
            | Self::Disagreement
            | Self::Denied
            | Self::NodeIdentity
            | Self::NodeUnknown
            | Self::NodeChanged
            | Self::ForeignSecret
            | Self::Impersonation
            | Self::AccountUnused
            | Self::RequestForbidden => Class::PermissionDenied,
            Self::Request => Class::InvalidArgument,
            // A stream that outlived its proof is to come back with the next one, which is the same caller's.
            Self::ReviewUnavailable | Self::NotReady | Self::ProofOver | Self::AuthorityUnavailable => {
                Class::Unavailable
            }
            Self::Overload | Self::CertificateLimit => Class::ResourceExhausted,
        }
    }
}

/// A caller was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// For the caller's log: what to do. It never holds a token, a key, or what another caller may see.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        // What callers send may stand in it.
        Self { reason, text: shorten(text.into(), LONGEST) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<&Refusal> for tonic::Status {
    fn from(refusal: &Refusal) -> Self {
        let code = match refusal.reason.class() {
            Class::Unauthenticated => tonic::Code::Unauthenticated,
            Class::PermissionDenied => tonic::Code::PermissionDenied,
            Class::InvalidArgument => tonic::Code::InvalidArgument,
            Class::Unavailable => tonic::Code::Unavailable,
            Class::ResourceExhausted => tonic::Code::ResourceExhausted,
        };
        Self::new(code, refusal.text.clone())
    }
}

/// Counts and logs every refusal. Clones count together.
///
/// Strangers cause these lines, so they come at a bounded rate; what was left out is said with the next line, and the
/// counters miss nothing.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counts: Family<ReasonLabel, Counter>,
    /// Locked to count a line, never across an await.
    budget: Arc<Mutex<Budget>>,
}

/// The reason as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// [`Reason::label`].
    pub reason: &'static str,
}

#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Refusals {
    /// Names the counter in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sidegate_refused_callers",
            "Callers of the TLS port that were turned away, by reason",
            self.counts.clone(),
        );
    }

    /// Counts a refusal that is logged elsewhere.
    pub fn tally(&self, reason: Reason) {
        self.counts.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    /// Notes one refusal: of whom, and of what.
    pub fn note(&self, refusal: &Refusal, peer: Option<SocketAddr>, what: &str) {
        let reason = refusal.reason.label();
        self.tally(refusal.reason);
        let Some(left_out) = self.may_write(Instant::now()) else { return };
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        if left_out > 0 {
            tracing::warn!("{left_out} more refusals were counted and not logged");
        }
        // `Debug` escapes what a stranger may have put into a name, so that nobody writes lines of their own.
        tracing::warn!(reason, peer, "{what} refused: {:?}", refusal.text);
    }

    /// How often a reason was met.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts.get_or_create(&ReasonLabel { reason: reason.label() }).get()
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn may_write(&self, now: Instant) -> Option<u64> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.since.is_none_or(|since| now.duration_since(since) >= LOG_PERIOD) {
            *budget = Budget { since: Some(now), written: 0, left_out: budget.left_out };
        }
        if budget.written >= LOG_LINES {
            budget.left_out += 1;
            return None;
        }
        budget.written += 1;
        Some(std::mem::take(&mut budget.left_out))
    }
}

/// How long a text may be, in bytes.
const LONGEST: usize = 512;

/// How many refusals are logged within how long.
const LOG_LINES: u32 = 50;
const LOG_PERIOD: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_fill_the_log_and_nothing_is_lost() {
        let refusals = Refusals::default();
        let lines = (0..LOG_LINES + 7).filter(|_| refusals.may_write(Instant::now()).is_some()).count();
        assert_eq!(lines, LOG_LINES as usize);
        tokio::time::advance(LOG_PERIOD).await;
        assert_eq!(refusals.may_write(Instant::now()), Some(7));
        assert_eq!(refusals.may_write(Instant::now()), Some(0));
        let refusal = Refusal::new(Reason::Denied, "text");
        (0..100).for_each(|_| refusals.note(&refusal, None, "a stream"));
        assert_eq!(refusals.count(Reason::Denied), 100);
    }

    #[test]
    fn m4_nobody_is_quoted_at_length() {
        let refusal = Refusal::new(Reason::NodeIdentity, "ä".repeat(1 << 20));
        assert!(refusal.text.len() <= LONGEST + 3 && refusal.text.ends_with("ä…"), "{}", refusal.text.len());
        assert!(tonic::Status::from(&refusal).message().len() <= LONGEST + 3);
        assert_eq!(Refusal::new(Reason::NodeIdentity, "short").text, "short");
    }

    #[test]
    fn a_caller_learns_its_class() {
        let code = |reason| tonic::Status::from(&Refusal::new(reason, "x")).code();
        assert_eq!(code(Reason::NoProof), tonic::Code::Unauthenticated);
        assert_eq!(code(Reason::NodeIdentity), tonic::Code::PermissionDenied);
        assert_eq!(code(Reason::ReviewUnavailable), tonic::Code::Unavailable);
        assert_eq!(code(Reason::CertificateExpired), tonic::Code::Unauthenticated);
        assert_eq!(code(Reason::ProofOver), tonic::Code::Unavailable);
    }
}
