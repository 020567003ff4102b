//! What a proxy proves itself with, and whom it believes: files on its machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::super::{ROOT_FILE, ca_folder};
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
    // Where everything is named, no folder need be known.
    let folder = || ca_folder::choose(args.ca_dir.as_deref());
    let root = match &args.root_file {
        Some(file) => file.clone(),
        None => folder()?.join(ROOT_FILE),
    };
    let (token, made_for) = match &args.token_file {
        Some(file) => (file.clone(), None),
        None => (make(args, &folder()?)?, Some(LIFE)),
    };
    let socket = args.sds_socket.as_deref().map(absolute).transpose()?;
    Ok(Proof { root: absolute(&root)?, token: absolute(&token)?, socket, made_for })
}

fn make(args: &Args, folder: &Path) -> Result<PathBuf, String> {
    if !folder.is_dir() {
        return Err(format!(
            "{} is not here, so no token can be made: start `sidegate serve`, or give its --ca-dir, or --token-file and --root-file, or --plaintext for a control plane without TLS on this machine",
            folder.display()
        ));
    }
    let subject =
        Subject { namespace: args.target.namespace.clone(), account: args.account().to_owned(), pod: None };
    let text = TokenKey::open(folder)
        .map_err(|error| error.to_string())?
        .mint(&subject, LIFE, SystemTime::now())
        .map_err(|error| error.to_string())?;
    let file = folder.join("tokens").join(format!("{}.{}.token", subject.namespace, subject.account));
    tokens::write(&file, &text).map_err(|error| error.to_string())?;
    Ok(file)
}

/// The proxy may be started elsewhere. The file may be made later.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// How long a token lives that was made in passing. A proxy needs it once; from then on its certificate speaks for it.
const LIFE: Duration = Duration::from_secs(3600);
