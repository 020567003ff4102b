//! A folder of Kubernetes manifests as a source: any nesting, many documents a file, watched.
//!
//! The steps of one round, each in its file: `scan` lists what is there, `sheet` reads what one file says
//! (`sections` → `loose` → `identity` → [`super::typed`]), `folder` remembers every file and decides which to read
//! again, `standing` decides what is in force and what changed. `watch` says when the next round is due; everything
//! but `watch` works without a clock or events of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;

use super::{Batch, Source, SourceError};
use crate::model::ObjectKey;

mod folder;
mod identity;
mod loose;
mod scan;
mod sections;
mod sheet;
mod standing;
mod watch;

use folder::{Folder, Moment};
use watch::{Hints, Watch};

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
    limits: Limits,
    timing: Timing,
}

impl Manifests {
    /// A folder with the usual bounds and times.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), limits: Limits::default(), timing: Timing::default() }
    }

    /// The same with other times, for file systems and tests that need them.
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The same with other bounds.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

/// How much a folder may hold. What goes over a bound is reported and left out; what was in force stays.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Documents of one file, the items of lists included.
    pub documents: usize,
    /// Manifest files in all.
    pub files: usize,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Entries of all directories, of whatever kind.
    pub entries: usize,
    /// Directories within directories.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 4 << 20,
            documents: 10_000,
            files: 20_000,
            total_bytes: 256 << 20,
            entries: 200_000,
            depth: 32,
        }
    }
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A round starts when nothing has happened for this long…
    pub quiet: Duration,
    /// …or when the first event is this old.
    pub longest: Duration,
    /// A round starts after this long without any event: some file systems report none, and a link outside of the
    /// folder may change. Stretched when a round takes long.
    pub poll: Duration,
    /// A file is believed to be gone when it has been missing for this long: editors remove a file and write it anew.
    pub gone_after: Duration,
    /// A file that is being written is read when it has been closed, or has not grown for this long.
    pub torn_for: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(15),
            longest: Duration::from_millis(150),
            poll: Duration::from_secs(2),
            gone_after: Duration::from_millis(100),
            torn_for: Duration::from_secs(1),
        }
    }
}

impl Source for Manifests {
    async fn run(self, batches: mpsc::Sender<Batch>) -> Result<(), SourceError> {
        let (tx, rx) = mpsc::channel(1024);
        let mut hints = Hints::new(rx, self.timing);
        let mut desk = Desk::open(&self, Watch::new(&self.folder, tx));
        loop {
            let moment = Moment { now: Instant::now(), wall: SystemTime::now(), news: hints.take() };
            let round = match spawn_blocking(move || desk.round(&moment)).await {
                Ok(round) => round,
                Err(error) => return ended(error),
            };
            desk = round.desk;
            if let Some(error) = round.fatal {
                return Err(error);
            }
            if let Some(batch) = round.batch
                && batches.send(batch).await.is_err()
            {
                return Ok(());
            }
            tokio::select! {
                () = hints.wait(round.again, round.took) => {}
                () = batches.closed() => return Ok(()),
            }
        }
    }
}

/// A blocking round ends early only by a panic, which is ours to pass on, or because the runtime shuts down.
fn ended(error: JoinError) -> Result<(), SourceError> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Ok(()),
    }
}

/// What a round works on; it moves to a blocking thread and back.
struct Desk {
    root: PathBuf,
    limits: Limits,
    watch: Watch,
    folder: Folder,
}

/// What a round yields.
struct Round {
    desk: Desk,
    batch: Option<Batch>,
    /// When something that was put off is due.
    again: Option<Duration>,
    took: Duration,
    fatal: Option<SourceError>,
}

impl Desk {
    fn open(manifests: &Manifests, watch: Watch) -> Self {
        let Manifests { folder, limits, timing } = manifests.clone();
        Self { root: folder, limits, watch, folder: Folder::new(limits, timing) }
    }

    fn round(mut self, moment: &Moment) -> Round {
        let started = Instant::now();
        let listing = self.list(&moment.news);
        let fatal = match &listing {
            Err(error) if self.folder.is_new() => Some(cannot_open(&self.root, error)),
            _ => None,
        };
        let missing = |error| format!("the folder {} cannot be read: {error}", self.root.display());
        let refreshed = self.folder.refresh(listing.map_err(missing), moment);
        let took = started.elapsed();
        Round { desk: self, batch: refreshed.batch, again: refreshed.again, took, fatal }
    }

    /// Lists the folder. Each directory is watched before it is read, so that nothing falls between the two; when a
    /// directory went away, all watches are made anew and the folder is listed once more.
    fn list(&mut self, news: &watch::News) -> std::io::Result<scan::Listing> {
        let Self { root, limits, watch, .. } = self;
        if watch.is_told_of(news) {
            watch.renew();
        }
        let listing = scan::list(root, limits, &mut |path, identity| watch.directory(path, identity));
        if !watch.is_stale(listing.as_ref().ok()) {
            return listing;
        }
        watch.renew();
        scan::list(root, limits, &mut |path, identity| watch.directory(path, identity))
    }
}

fn cannot_open(root: &std::path::Path, error: &std::io::Error) -> SourceError {
    SourceError::Folder { path: root.display().to_string(), reason: error.to_string() }
}

/// What a folder says at one moment, and where each object stands.
#[derive(Debug)]
pub struct Reading {
    /// Everything that is in force, and everything that is wrong.
    pub batch: Batch,
    /// The file and the document (from 1) of each object in force.
    pub places: BTreeMap<ObjectKey, (String, usize)>,
}

impl Manifests {
    /// Reads the folder once; it may also be a single manifest.
    ///
    /// # Errors
    /// When it is not there or cannot be listed.
    pub fn read_once(&self) -> Result<Reading, SourceError> {
        let listing = if self.folder.is_file() {
            scan::single(&self.folder)
        } else {
            scan::list(&self.folder, &self.limits, &mut |_, _| {})
        };
        let listing = listing.map_err(|error| cannot_open(&self.folder, &error))?;
        let mut folder = Folder::new(self.limits, self.timing);
        let moment = Moment { now: Instant::now(), wall: SystemTime::now(), news: watch::News::default() };
        let batch = folder.refresh(Ok(listing), &moment).batch.unwrap_or_default();
        Ok(Reading { batch, places: folder.places() })
    }
}

#[cfg(test)]
mod tests;
