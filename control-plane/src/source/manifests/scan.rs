//! What is in a folder: every manifest file with a stamp that tells whether it has changed. Reads no file.
//!
//! Links are followed, each file and directory is listed once however many names lead to it, hidden entries are left
//! out. That is what makes a mounted ConfigMap work: `web.yaml` → `..data/web.yaml`, and `..data` is hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Limits;

/// A device and an inode: what a path leads to.
pub(super) type FileIdentity = (u64, u64);

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) identity: FileIdentity,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long the file has been as it is; `None` when its clock runs ahead of ours.
    pub(super) fn age(&self, wall: SystemTime) -> Option<Duration> {
        let seconds = u64::try_from(self.changed.0).ok()?;
        let nanoseconds = u32::try_from(self.changed.1).ok()?;
        wall.duration_since(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)).ok()
    }
}

/// A manifest file.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// Everything found, and what could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By path below the folder, with `/`.
    pub(super) files: BTreeMap<String, Found>,
    /// Every directory that was read.
    pub(super) directories: BTreeMap<PathBuf, FileIdentity>,
    /// What could not be looked at. Files at or below such a path are not gone: they are out of sight.
    pub(super) out_of_sight: BTreeMap<String, OutOfSight>,
}

/// Why a path could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutOfSight {
    pub(super) reason: String,
    /// A link that leads nowhere, by whose name it would not be a manifest: none of our business, unless it led to
    /// manifests before.
    pub(super) only_if_known: bool,
}

impl Listing {
    /// Whether a file that is not listed may still be there.
    pub(super) fn cannot_see(&self, file: &str) -> bool {
        self.out_of_sight.keys().any(|path| is_at_or_below(file, path))
    }
}

/// Whether a file is what a path names, or is in it.
pub(super) fn is_at_or_below(file: &str, path: &str) -> bool {
    path == "." || file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Lists a folder. `before` is called with each directory before its entries are read.
pub(super) fn list(
    root: &Path,
    limits: &Limits,
    before: &mut dyn FnMut(&Path, FileIdentity),
) -> io::Result<Listing> {
    let metadata = fs::metadata(root)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a folder"));
    }
    let mut walk = Walk { limits, before, listing: Listing::default(), seen: BTreeSet::new(), entries: 0 };
    walk.directory(root, "", &metadata, 0)?;
    let mut listing = walk.listing;
    let mut seen = BTreeSet::new();
    listing.files.retain(|_, found| seen.insert(found.stamp.identity));
    Ok(listing)
}

/// A listing of one file, whatever its name.
pub(super) fn single(path: &Path) -> io::Result<Listing> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files = BTreeMap::from([(name, Found { path: path.to_owned(), stamp })]);
    Ok(Listing { files, ..Listing::default() })
}

/// Whether a file of this name is a manifest.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

struct Walk<'w> {
    limits: &'w Limits,
    before: &'w mut dyn FnMut(&Path, FileIdentity),
    listing: Listing,
    seen: BTreeSet<FileIdentity>,
    entries: usize,
}

impl Walk<'_> {
    /// Lists one directory and those in it. An error is of this directory; what is wrong below is noted.
    fn directory(&mut self, path: &Path, below: &str, metadata: &Metadata, depth: usize) -> io::Result<()> {
        let identity = (metadata.dev(), metadata.ino());
        if !self.seen.insert(identity) {
            return Ok(());
        }
        (self.before)(path, identity);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            self.entries += 1;
            if self.entries > self.limits.entries {
                let message =
                    format!("more than {} entries in all; the rest is not looked at", self.limits.entries);
                self.out_of_sight(".", message);
                break;
            }
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                entries.push(entry.path());
            }
        }
        self.listing.directories.insert(path.to_owned(), identity);
        // In order, so that of two names for one thing it is always the same one that counts.
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let below = if below.is_empty() { name.into_owned() } else { format!("{below}/{name}") };
            self.entry(path, below, depth);
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, below: String, depth: usize) {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                // A plain file that went away meanwhile is gone; a link that leads nowhere may be about to be mended.
                let leads_nowhere = error.kind() == io::ErrorKind::NotFound;
                if !leads_nowhere || fs::symlink_metadata(&path).is_ok() {
                    let reason = format!("cannot be looked at: {error}");
                    let only_if_known = leads_nowhere && !is_manifest(&path);
                    self.listing.out_of_sight.insert(below, OutOfSight { reason, only_if_known });
                }
                return;
            }
        };
        if metadata.is_dir() {
            if depth + 1 >= self.limits.depth {
                let message = format!("nested deeper than {} directories; not looked at", self.limits.depth);
                self.out_of_sight(&below, message);
            } else if let Err(error) = self.directory(&path, &below, &metadata, depth + 1) {
                self.out_of_sight(&below, format!("cannot be listed: {error}"));
            }
        } else if metadata.is_file() && is_manifest(&path) {
            self.listing.files.insert(below, Found { path, stamp: Stamp::of(&metadata) });
        }
    }

    fn out_of_sight(&mut self, below: &str, reason: String) {
        self.listing.out_of_sight.insert(below.to_owned(), OutOfSight { reason, only_if_known: false });
    }
}
