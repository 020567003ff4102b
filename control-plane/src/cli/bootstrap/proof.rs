//! What a proxy proves itself with, and whom it believes: files on its machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Args;
use crate::authn::Subject;
use crate::authn::tokens::{self, TokenKey};

/// The files that a bootstrap names, all by absolute paths.
pub(super) struct Proof {
    pub(super) root: PathBuf,
    pub(super) token: PathBuf,
    /// Where the agent of an Envoy is.
    pub(super) socket: Option<PathBuf>,
    /// For how long the token is good that was made for this bootstrap; none when the user gave one.
    pub(super) made_for: Option<Duration>,
}

/// Takes the files that the user names; makes a token when none is named and the authority is on this machine.
pub(super) fn find(args: &Args) -> Result<Proof, String> {
    let root = args.root_file.clone().unwrap_or_else(|| args.ca_dir.join(super::super::ROOT_FILE));
    let (token, made_for) = match &args.token_file {
        Some(file) => (file.clone(), None),
        None => (make(args)?, Some(LIFE)),
    };
    let socket = args.sds_socket.as_deref().map(absolute).transpose()?;
    Ok(Proof { root: absolute(&root)?, token: absolute(&token)?, socket, made_for })
}

fn make(args: &Args) -> Result<PathBuf, String> {
    if !args.ca_dir.is_dir() {
        return Err(format!(
            "{} is not here, so no token can be made: give --token-file and --root-file, or the authority's folder with --ca-dir, or --plaintext for a control plane without TLS on this machine",
            args.ca_dir.display()
        ));
    }
    let subject =
        Subject { namespace: args.target.namespace.clone(), account: args.account().to_owned(), pod: None };
    let text = TokenKey::open(&args.ca_dir)
        .map_err(|error| error.to_string())?
        .mint(&subject, LIFE, SystemTime::now())
        .map_err(|error| error.to_string())?;
    let file = args.ca_dir.join("tokens").join(format!("{}.{}.token", subject.namespace, subject.account));
    tokens::write(&file, &text).map_err(|error| error.to_string())?;
    Ok(file)
}

/// The proxy may be started elsewhere. The file may be made later.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// How long a token lives that was made in passing. A proxy needs it once; from then on its certificate speaks for it.
const LIFE: Duration = Duration::from_secs(3600);
