//! Why the authority cannot open, and why it does not sign.

use std::io;
use std::path::{Path, PathBuf};

/// Why the authority cannot open or go on; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The system refuses something about a file.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// Somebody else may read or write what only we should.
    #[error("{}: others may read or change it (mode {mode:04o}), and it holds private keys: chmod {wanted:o} it, after checking who had access", .path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// The folder is not ours.
    #[error("{}: it belongs to another user (uid {owner}): give a folder of your own with --ca-dir", .path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A second control plane on one folder.
    #[error("{}: another control plane (process {process}) is using this folder: stop it, or give this one its own with --ca-dir", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// What the other wrote into its lock.
        process: String,
    },
    /// A file does not say what it should.
    #[error("{}: {what}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// Something else is wrong with what was asked for.
    #[error("{0}")]
    Refused(String),
}

impl CaError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::File { path, reason }
    }

    pub(super) fn content(path: &Path, what: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), what: what.into() }
    }
}

/// Why no certificate was given. The texts are for the caller: they name nothing that it did not say itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The signing request cannot be used.
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    /// The signing request is for somebody else, or for more than an id.
    #[error("the certificate signing request is refused: {0}")]
    Forbidden(String),
    /// The id is on the deny list.
    #[error("{0} is denied")]
    Denied(String),
    /// One identity asks too often.
    #[error("{identity} has got {limit} certificates within a minute: ask again in {seconds} seconds")]
    TooMany {
        /// Who asks.
        identity: String,
        /// How many it may have.
        limit: u32,
        /// How long to wait.
        seconds: u64,
    },
    /// There are too many live leaves.
    #[error(
        "{0} has too many certificates that are still valid: renew with the one that is to be replaced, or wait"
    )]
    Full(String),
    /// The authority cannot sign now; the operator finds why in its log.
    #[error("the authority cannot sign now: {0}")]
    Unavailable(&'static str),
}

impl IssueError {
    /// A closed word, for metrics.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Forbidden(_) => "forbidden",
            Self::Denied(_) => "denied",
            Self::TooMany { .. } => "rate",
            Self::Full(_) => "full",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
