//! Where objects come from: the one seam between the world and the index.
//!
//! A source watches something (a folder of manifests; the Kubernetes API next) and reports what changed in batches.
//! The first batch holds everything there is; nothing is published before it.

use tokio::sync::mpsc;

pub use crate::model::Batch;

pub mod manifests;
pub mod typed;
pub mod validate;

/// A source of objects. Ends only with an error that no retry can mend.
pub trait Source: Send + 'static {
    /// Sends the first full batch, then one for every change, until the receiver is gone.
    fn run(self, batches: mpsc::Sender<Batch>) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// Why a source cannot work; the text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder is missing or unreadable.
    #[error("{path}: {reason}; manifests are read from a folder that exists and that this user may read")]
    Folder {
        /// The folder.
        path: String,
        /// What the system says.
        reason: String,
    },
}
