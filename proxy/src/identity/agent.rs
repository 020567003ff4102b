//! `sidegate agent`: the same certificate for data planes that are not ours: by SDS on a Unix socket (Envoy), and in a folder (gRPC's
//! `file_watcher`, openssl).
//!
//! What it shares with the proxy is the keeper; here its material is served to others. Whoever can open the socket or the folder gets the
//! private key: both are for the user alone that the agent runs as.

use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::Handle;
use crate::settings::Identity;

mod folder;
mod sds;
mod socket;
mod subscriber;

use folder::Folder;
use socket::Socket;

/// What the agent is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the certificate comes from.
    pub identity: Identity,
    /// Where SDS is served, if it is.
    pub socket: Option<PathBuf>,
    /// Where the files are kept, if they are.
    pub out: Option<PathBuf>,
}

/// Why the agent cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket cannot be served.
    #[error("cannot serve SDS on {path}: {reason}")]
    Socket {
        /// Its path.
        path: String,
        /// What is in the way.
        reason: String,
    },
    /// The folder cannot be written.
    #[error("cannot keep files in {path}: {source}")]
    Folder {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The system gives no signals, or the server ended.
    #[error("{0}")]
    Ended(String),
}

/// Keeps and serves the certificate until SIGTERM or SIGINT.
///
/// # Errors
/// What is in the way, at the start; later problems are logged and tried again.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let failed = |error: io::Error| AgentError::Ended(error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let socket = options.socket.as_deref().map(Socket::bind).transpose()?;
    let folder = options.out.clone().map(Folder::open).transpose()?;
    let (handle, keeper) = super::new(options.identity);
    let serving = async {
        match &socket {
            Some(socket) => sds::serve(socket, handle.clone()).await,
            None => std::future::pending().await,
        }
    };
    let keeping = async {
        match folder {
            Some(folder) => keep(folder, handle.clone()).await,
            None => std::future::pending().await,
        }
    };
    if let Some(socket) = &options.socket {
        tracing::info!(socket = %socket.display(), "serving SDS: default and ROOTCA");
    }
    tokio::select! {
        () = keeper.run() => Ok(()),
        ended = serving => Err(AgentError::Ended(ended)),
        () = keeping => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Writes whatever is new; what cannot be written is tried again.
async fn keep(mut folder: Folder, mut handle: Handle) {
    loop {
        let retry = match folder.write(&handle.material()) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(folder = %folder.path().display(), %error, "cannot write the certificate; trying again");
                Some(RETRY)
            }
        };
        tokio::select! {
            () = handle.changed() => {}
            () = async { match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            } } => {}
        }
    }
}

/// After a folder could not be written.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);
