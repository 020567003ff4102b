//! A token in a file of its own: whole or not at all, for its owner alone.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Why a token was not written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct WriteError {
    path: PathBuf,
    reason: io::Error,
}

/// Writes a token, over one that is there; the folder is made when it is missing.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, token: &str) -> Result<(), WriteError> {
    let failed = |reason| WriteError { path: path.to_owned(), reason };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // Mode 0600 from its first moment, whatever the mode of an older file was.
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    draft.write_all(token.as_bytes()).and_then(|()| draft.write_all(b"\n")).map_err(failed)?;
    draft.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
