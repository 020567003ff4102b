//! The ledger on disk: a line for each leaf before it is given out, so that no crash hides one from the rotation.

use std::fs::File;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::error::CaError;
use super::ledger::{Ledger, LiveLeaf};

/// What a line says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// A leaf is about to be given out.
    Issued(LiveLeaf),
    /// Its holder has got another one.
    Superseded { serial: String, at: u64 },
    /// It counts no more.
    Revoked { serial: String, at: u64 },
}

/// The open file. Whoever writes blocks until the disk has it.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    lines: usize,
    /// A write failed half way: the file must be written anew before anything is added.
    torn: bool,
}

/// Reads what lives, and begins a file with nothing else in it. Only a folder that has given out nothing may have none.
pub(super) fn open(
    directory: &Directory,
    now: u64,
    grace: u64,
    may_be_missing: bool,
) -> Result<(Ledger, Journal), CaError> {
    let mut ledger = Ledger::default();
    let text = directory.read(NAME)?;
    if text.is_none() && !may_be_missing {
        return Err(CaError::content(
            &directory.file(NAME),
            "the ledger of leaves is missing: bring it back from a backup. If it is lost, make an empty one with mode 0600, and begin no rotation of the root before every certificate that was given out has expired (--leaf-ttl): it would not wait for those",
        ));
    }
    if let Some(text) = text {
        // A line without an end was being written when the process died; its leaf was never given out.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (index, line) in whole.lines().enumerate() {
            let entry = serde_json::from_str(line).map_err(|error| {
                let line = index + 1;
                CaError::content(
                    &directory.file(NAME),
                    format!("line {line} is not an entry of the ledger of leaves ({error}): bring back the file from a backup; without it a rotation of the root cannot know who still uses the old one"),
                )
            })?;
            match entry {
                Entry::Issued(leaf) => ledger.insert(leaf),
                Entry::Superseded { serial, at } => {
                    let identity = ledger.get(&serial).map(|leaf| leaf.identity.clone());
                    if let Some(identity) = identity {
                        ledger.supersede(&serial, &identity, at);
                    }
                }
                Entry::Revoked { serial, at } => ledger.revoke(&serial, at),
            }
        }
    }
    ledger.expire(now, grace);
    let journal = Journal::begin(directory, &lines(&ledger))?;
    Ok((ledger, journal))
}

impl Journal {
    fn begin(directory: &Directory, lines: &[String]) -> Result<Self, CaError> {
        directory.write(NAME, &lines.concat())?;
        Ok(Self { file: directory.append(NAME)?, lines: lines.len(), torn: false })
    }

    /// Whether the file has grown so far beyond what lives that it should be written anew.
    pub(super) fn is_long(&self, live: usize) -> bool {
        self.torn || self.lines > live.saturating_mul(2) + SPARE_LINES
    }

    /// Writes the file anew, with these [`lines`] alone.
    pub(super) fn begin_anew(&mut self, directory: &Directory, lines: &[String]) -> Result<(), CaError> {
        *self = Self::begin(directory, lines)?;
        Ok(())
    }

    /// Writes into another file from here on.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, file: File) {
        self.file = file;
    }

    /// Adds entries and waits until they are on the disk.
    pub(super) fn add(&mut self, entries: &[Entry]) -> std::io::Result<()> {
        if self.torn {
            return Err(std::io::Error::other("an earlier entry is half written"));
        }
        let text: String = entries.iter().map(line).collect();
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        self.torn = written.is_err();
        self.lines += entries.len();
        written
    }
}

/// What the file has to say of a ledger.
pub(super) fn lines(ledger: &Ledger) -> Vec<String> {
    ledger.iter().cloned().map(|leaf| line(&Entry::Issued(leaf))).collect()
}

fn line(entry: &Entry) -> String {
    // Strings and numbers: there is nothing in an entry that JSON could not say.
    serde_json::to_string(entry).map(|text| text + "\n").unwrap_or_default()
}

const NAME: &str = "leaves.jsonl";

/// How many lines may be of no use before the file is written anew.
const SPARE_LINES: usize = 4096;
