//! Why a demo cannot start or cannot go on; each text says which part, and what it said itself.

use super::layout::NoPort;
use super::manifests::ManifestError;
use super::processes::ProcessError;

/// What stops the demo.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// A part did not start, or did not do what the script asked.
    #[error("{part}: {reason}\n\nThe end of its log:\n{log}")]
    Part {
        /// The process.
        part: String,
        /// What it failed to do.
        reason: String,
        /// Its last lines.
        log: String,
    },
    /// A change was not applied at every proxy.
    #[error("{change}: not applied at every proxy after {seconds} s: {missing}")]
    NotApplied {
        /// What was changed.
        change: String,
        /// How long it was waited for.
        seconds: u64,
        /// Who lags, and why if they say.
        missing: String,
    },
    /// The shop runs, but no request gets through.
    #[error("the shop does not answer through the gateway after {seconds} s: {reason}")]
    NoAnswer {
        /// How long it was waited for.
        seconds: u64,
        /// The last failure.
        reason: String,
    },
    /// No free port.
    #[error(transparent)]
    Port(#[from] NoPort),
    /// A manifest is not as the script needs it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A process cannot be started or signalled.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The temporary folder.
    #[error("the demo's folder: {0}")]
    Folder(String),
    /// Signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signal(String),
}

impl DemoError {
    /// The temporary folder cannot be used.
    #[allow(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
    pub(super) fn folder(error: std::io::Error) -> Self {
        Self::Folder(error.to_string())
    }
}
