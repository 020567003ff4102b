//! The deny list as commands change it, beside what people write.

use std::fmt::Write as _;
use std::io;

use sidegate_xds::spiffe::SpiffeId;

use super::directory::{Directory, read_text};
use super::error::CaError;
use super::report::Reason;
use super::serving;
use super::trust::{DENIED, MOST_DENIED, denied};

/// Reads an id that a command names.
///
/// # Errors
/// When it is none.
pub fn identity(text: &str) -> Result<SpiffeId, CaError> {
    text.parse().map_err(|error| CaError::Refused(format!("{text:?} is no SPIFFE id: {error}")))
}

/// Writes an id onto the list; false when it is there.
pub(super) fn add(
    directory: &Directory,
    trust_domain: &str,
    identity: &SpiffeId,
    reason: Reason,
) -> Result<bool, CaError> {
    if serving::identity(trust_domain)? == *identity {
        return Err(CaError::Refused(format!(
            "{identity} is the control plane's own identity: revoke its certificate by --serial, and it gets another"
        )));
    }
    let (mut text, ids) = read(directory)?;
    if ids.iter().any(|id| id == identity.as_str()) {
        return Ok(false);
    }
    if ids.len() >= MOST_DENIED {
        return Err(CaError::Refused(format!(
            "{MOST_DENIED} identities are denied already, and no proxy takes more: remove those that are gone from {}",
            directory.file(DENIED).display()
        )));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let _ = writeln!(text, "{identity} # {}", reason.word());
    directory.write(DENIED, &text)?;
    tracing::info!(%identity, ?reason, "denied an identity");
    Ok(true)
}

/// Takes an id off the list.
pub(super) fn remove(directory: &Directory, identity: &SpiffeId) -> Result<(), CaError> {
    let (text, ids) = read(directory)?;
    if !ids.iter().any(|id| id == identity.as_str()) {
        return Err(CaError::Refused(format!(
            "{identity} is not denied; `sidegate revoke --list` tells who is"
        )));
    }
    directory.write(DENIED, &without(&text, identity.as_str()))?;
    tracing::info!(%identity, "an identity is denied no more");
    Ok(())
}

/// The text without the lines of one id; everything else stays as people wrote it.
fn without(text: &str, id: &str) -> String {
    let other = |line: &&str| line.split('#').next().unwrap_or_default().trim() != id;
    text.split_inclusive('\n').filter(other).collect()
}

fn read(directory: &Directory) -> Result<(String, Vec<String>), CaError> {
    let path = directory.file(DENIED);
    if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(CaError::content(
            &path,
            "it is a link, so whoever made it keeps the list: change what it leads to",
        ));
    }
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(CaError::File { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let ids =
        denied(&text).map_err(|what| CaError::content(&path, format!("{what}: mend the line first")))?;
    Ok((text, ids))
}
