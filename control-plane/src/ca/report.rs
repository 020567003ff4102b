//! What people see of the authority: in `/status`, and while a rotation goes on.

use serde::{Deserialize, Serialize};

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
    /// How many more it waits for than are listed.
    pub more: usize,
    /// Seconds since 1970 at the control plane, to which `waiting` relates.
    pub now: u64,
}

/// How many are listed.
pub(super) const LISTED: usize = 50;
