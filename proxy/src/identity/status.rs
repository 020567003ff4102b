//! How the proxy's own certificate is doing, for admin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::tls::Certificate;

/// What came of an attempt to get a certificate: closed, because it is a label of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is a new certificate.
    Renewed,
    /// The token cannot be read, or is none.
    Token,
    /// The roots cannot be read, or are none.
    Roots,
    /// The authority cannot be reached, or hung up.
    Unreachable,
    /// What answers at its address is not vouched for by the roots.
    Untrusted,
    /// It does not believe who we are, or does not give.
    Refused,
    /// It took too long.
    Timeout,
    /// Its answer is no certificate for us.
    Answer,
}

impl Outcome {
    /// All of them, with their labels.
    pub(crate) const ALL: [(Self, &'static str); 8] = [
        (Self::Renewed, "ok"),
        (Self::Token, "token"),
        (Self::Roots, "roots"),
        (Self::Unreachable, "unreachable"),
        (Self::Untrusted, "untrusted"),
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::Answer, "bad_answer"),
    ];
}

/// The identity's state. Cloning shares it: the keeper writes, admin reads, on the same thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    report: Arc<Mutex<Report>>,
}

/// What is known of the identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The authority's address.
    pub(crate) authority: String,
    /// The certificate in force.
    pub(crate) leaf: Option<Certificate>,
    /// When the last one ended, if none is in force any more.
    pub(crate) expired: Option<SystemTime>,
    /// The roots that vouch for the authority, the control plane and our own certificate.
    pub(crate) roots: Vec<Certificate>,
    /// Why the last attempt failed; gone with the next certificate.
    pub(crate) last_failure: Option<String>,
    /// Attempts by what came of them, in the order of [`Outcome::ALL`].
    pub(crate) attempts: [u64; Outcome::ALL.len()],
}

impl Status {
    /// What is known now.
    pub(crate) fn read(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Report {
    /// What is waited for, when no certificate is in force: one line.
    pub(crate) fn waits_for(&self) -> Option<String> {
        if self.leaf.is_some() {
            return None;
        }
        let authority = &self.authority;
        let what = match self.expired {
            None => format!("waiting for a certificate from {authority}"),
            Some(at) => {
                let at = crate::telemetry::rfc3339(at);
                format!("the proxy's certificate expired at {at}; waiting for another from {authority}")
            }
        };
        Some(match &self.last_failure {
            None => what,
            Some(failure) => format!("{what}: {failure}"),
        })
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        if let Some(index) = Outcome::ALL.iter().position(|(known, _)| *known == outcome) {
            self.attempts[index] += 1;
        }
    }
}
