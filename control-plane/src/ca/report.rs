//! What people see of the authority: in `/status`, and while a rotation goes on.

use serde::{Deserialize, Serialize};

use super::revocation::Revoked;
use super::rotation::{Phase, Waiting};

/// The authority at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The trust domain that it signs for.
    pub trust_domain: String,
    /// The roots that are trusted, the one that signs first.
    pub roots: Vec<Root>,
    /// In how many seconds the key that signs leaves expires; negative when it has.
    pub issuing_expires_seconds: i64,
    /// How many leaves may be in use.
    pub live_leaves: usize,
    /// How many certificates are revoked and not over yet.
    #[serde(default)]
    pub revoked_leaves: usize,
    /// How many identities are denied.
    #[serde(default)]
    pub denied_identities: usize,
    /// The leaf in use that expires first.
    pub next_expiry: Option<Expiry>,
    /// The rotation of the root.
    pub rotation: Turn,
    /// What is wrong now.
    pub problems: Vec<String>,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Made by us, or given by the user.
    pub own: bool,
    /// In how many seconds it expires.
    pub expires_seconds: i64,
}

/// A leaf and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Whose it is.
    pub identity: String,
    /// In how many seconds it expires.
    pub expires_seconds: i64,
}

/// How far the rotation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The phase.
    pub phase: Phase,
    /// For how many seconds it has been in it.
    pub seconds: u64,
    /// The root in force, or the old one.
    pub current: String,
    /// The new one.
    pub next: Option<String>,
    /// Whom it waits for.
    pub waiting: Vec<Waiting>,
    /// Whom it was told not to wait for (`sidegate rotate-root --without`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// How many more it waits for than are listed.
    pub more: usize,
    /// Seconds since 1970 at the control plane, to which `waiting` relates.
    pub now: u64,
}

/// What counts no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Certificates that were revoked and are not over yet.
    pub certificates: Vec<Revoked>,
    /// Identities that are denied.
    pub identities: Vec<String>,
}

/// Why something counts no more (RFC 5280, 5.3.1, as far as it is about workloads).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nobody has said.
    #[default]
    Unspecified,
    /// Somebody else may have its key.
    KeyCompromise,
    /// It has moved to another owner.
    AffiliationChanged,
    /// Another one takes its place.
    Superseded,
    /// It is not needed any more.
    CessationOfOperation,
    /// It may no longer what it could.
    PrivilegeWithdrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The word for people, the same as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }
}

/// How many are listed.
pub(super) const LISTED: usize = 50;
