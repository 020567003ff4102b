//! Where the certificate authority's folder is, when nobody says.

use std::env;
use std::path::{Path, PathBuf};

/// The folder that the flag names, or the user's own.
pub(super) fn choose(flag: Option<&Path>) -> Result<PathBuf, String> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = || absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    match flag {
        Some(path) => Ok(path.to_owned()),
        None => state().map(|state| state.join("sidegate/ca")).ok_or_else(|| {
            "there is no folder for the certificate authority, because neither XDG_STATE_HOME nor HOME is set: give one with --ca-dir, or --no-ca".to_owned()
        }),
    }
}
