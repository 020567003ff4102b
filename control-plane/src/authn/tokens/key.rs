//! The key of the tokens on disk: `token-key.pem` in the authority's folder, for its owner alone.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use super::TokenKey;

/// The file in the folder.
const FILE: &str = "token-key.pem";

/// A key is a few hundred bytes; whatever is larger is none.
const LARGEST: u64 = 16 * 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refuses.
    #[error("{}: {reason}; give a folder that this user owns with --ca-dir", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// Others may read it.
    #[error(
        "{}: other users may read this key (mode {mode:03o}): anybody who could may have made tokens with it. Remove it, and a new one is made",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error("{}: not a P-256 key in PKCS#8 PEM form ({reason}); remove it, and a new one is made", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
}

pub(super) fn open(folder: &Path) -> Result<TokenKey, KeyError> {
    let path = folder.join(FILE);
    let failed = |reason| KeyError::File { path: path.clone(), reason };
    let pem = match read(&path) {
        Err(KeyError::File { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
            match make(folder, &path) {
                // Another process was quicker: its key is the key.
                Err(KeyError::File { reason, .. }) if reason.kind() == io::ErrorKind::AlreadyExists => {
                    read(&path)?
                }
                made => made?,
            }
        }
        found => found?,
    };
    parse(&path, &pem)
}

fn read(path: &Path) -> Result<String, KeyError> {
    let failed = |reason| KeyError::File { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    if metadata.len() > LARGEST {
        return Err(KeyError::Form { path: path.to_owned(), reason: "too large".to_owned() });
    }
    fs::read_to_string(path).map_err(failed)
}

/// Writes a new key, whole or not at all, and never over one that is there.
fn make(folder: &Path, path: &Path) -> Result<String, KeyError> {
    let failed = |reason| KeyError::File { path: path.to_owned(), reason };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| failed(io::Error::other(error.to_string())))?;
    let pem = key.serialize_pem();
    // Mode 0600 from its first moment.
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    draft.write_all(pem.as_bytes()).map_err(failed)?;
    draft.as_file().sync_all().map_err(failed)?;
    draft.persist_noclobber(path).map_err(|error| failed(error.error))?;
    Ok(pem)
}

fn parse(path: &Path, pem: &str) -> Result<TokenKey, KeyError> {
    let wrong = |reason: String| KeyError::Form { path: path.to_owned(), reason };
    let text = |error: jsonwebtoken::errors::Error| wrong(error.to_string());
    let pair = rcgen::KeyPair::from_pem(pem).map_err(|error| wrong(error.to_string()))?;
    if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        return Err(wrong("another kind of key".to_owned()));
    }
    let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(text)?;
    let public = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(text)?;
    let id = public.thumbprint(ThumbprintHash::SHA256).map_err(text)?;
    let checking = DecodingKey::from_jwk(&public).map_err(text)?;
    Ok(TokenKey { signing, checking, id })
}
