//! When to look again: events of the file system where there are some, a slow poll in any case.
//!
//! Each directory that is read is watched on its own, so that hidden directories (`.git`) cost nothing and linked ones
//! count. What an event says is only a hint; what is true is what the next round sees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Timing;
use super::scan::{FileIdentity, Listing, is_manifest};

/// The watches on a folder's directories.
pub(super) struct Watch {
    root: PathBuf,
    hints: mpsc::Sender<Hint>,
    /// None when the system refuses; then the poll does it all.
    watcher: Option<RecommendedWatcher>,
    directories: BTreeMap<PathBuf, FileIdentity>,
    complained: bool,
}

/// What one event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// Something happened at this path.
    Changed(PathBuf),
    /// Somebody is writing this file and has not closed it.
    Writing(PathBuf),
}

impl Watch {
    /// Watches nothing yet: each round names the directories that it reads.
    pub(super) fn new(root: &Path, hints: mpsc::Sender<Hint>) -> Self {
        let mut watch = Self {
            root: root.to_owned(),
            hints,
            watcher: None,
            directories: BTreeMap::new(),
            complained: false,
        };
        watch.renew();
        watch
    }

    /// Watches a directory, unless it is watched already.
    pub(super) fn directory(&mut self, path: &Path, identity: FileIdentity) {
        if self.directories.contains_key(path) {
            return;
        }
        self.directories.insert(path.to_owned(), identity);
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
            self.complain(&error);
        }
    }

    /// Whether a watched directory is no longer what its path leads to. The watches of the system belong to
    /// directories, not to paths, and cannot be taken back one by one without harm to another path to the same
    /// directory: they are all made anew.
    pub(super) fn is_stale(&self, listing: Option<&Listing>) -> bool {
        let Some(listing) = listing else { return !self.directories.is_empty() };
        self.directories.iter().any(|(path, identity)| listing.directories.get(path) != Some(identity))
    }

    /// Whether something happened to a watched directory itself. It may have been removed and made again, even with the
    /// same number: then its watch is dead and does not say so.
    pub(super) fn is_told_of(&self, news: &News) -> bool {
        news.changed.iter().any(|path| self.directories.contains_key(path))
    }

    /// Drops all watches and starts over.
    pub(super) fn renew(&mut self) {
        self.directories.clear();
        let (root, hints) = (self.root.clone(), self.hints.clone());
        let created = notify::recommended_watcher(move |event: notify::Result<Event>| {
            for hint in hints_of(&root, event) {
                // A full queue holds news already; the round that it causes sees everything.
                let _ = hints.try_send(hint);
            }
        });
        self.watcher = match created {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                self.complain(&error);
                None
            }
        };
    }

    fn complain(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(folder = %self.root.display(), %error, "cannot watch everything; changes are found by polling");
        }
    }
}

/// What an event is worth.
fn hints_of(root: &Path, event: notify::Result<Event>) -> Vec<Hint> {
    // An error, or an overflow of the system's queue, means that anything may have changed.
    let Ok(event) = event else { return vec![Hint::Changed(root.to_owned())] };
    if event.need_rescan() {
        return vec![Hint::Changed(root.to_owned())];
    }
    let is_write = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
    let is_close = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
    if matches!(event.kind, EventKind::Access(_)) && !is_close {
        return Vec::new();
    }
    let concerns = |path: &PathBuf| !is_hidden(root, path) && (is_manifest(path) || !(is_write || is_close));
    let paths = event.paths.into_iter().filter(concerns);
    if is_write && SAYS_WHEN_CLOSED {
        return paths.map(Hint::Writing).collect();
    }
    paths.map(Hint::Changed).collect()
}

/// Whether the system tells when a writer closes a file.
const SAYS_WHEN_CLOSED: bool = cfg!(target_os = "linux");

/// Hidden paths do not concern us, but for `..data`, the link by which a mounted ConfigMap changes all at once.
fn is_hidden(root: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else { return false };
    below.iter().any(|part| {
        let part = part.as_encoded_bytes();
        part.starts_with(b".") && !part.starts_with(b"..")
    })
}

/// What was heard since the last round.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// Files that changed and are closed.
    pub(super) changed: BTreeSet<PathBuf>,
    /// Files that are being written, with the time of the last write.
    pub(super) writing: BTreeMap<PathBuf, Instant>,
}

impl News {
    fn hear(&mut self, hint: Hint, now: Instant) {
        /// More than these are not told apart: their files are read as they are.
        const MOST: usize = 4096;
        match hint {
            Hint::Changed(path) => {
                self.writing.remove(&path);
                if self.changed.len() < MOST {
                    self.changed.insert(path);
                }
            }
            Hint::Writing(path) if self.writing.len() < MOST => {
                self.changed.remove(&path);
                self.writing.insert(path, now);
            }
            Hint::Writing(_) => {}
        }
    }
}

/// The receiving end of the hints.
#[derive(Debug)]
pub(super) struct Hints {
    events: mpsc::Receiver<Hint>,
    news: News,
    timing: Timing,
}

impl Hints {
    pub(super) fn new(events: mpsc::Receiver<Hint>, timing: Timing) -> Self {
        Self { events, news: News::default(), timing }
    }

    /// What was heard; files that are still being written are remembered for the next time too.
    pub(super) fn take(&mut self) -> News {
        let now = Instant::now();
        self.news.writing.retain(|_, since| now.saturating_duration_since(*since) < self.timing.torn_for);
        let writing = self.news.writing.clone();
        News { writing, changed: std::mem::take(&mut self.news.changed) }
    }

    /// Waits until the next round is due: `again` after the last one, or shortly after an event, or when the poll is.
    /// The poll takes at most a hundredth of the time.
    pub(super) async fn wait(&mut self, again: Option<Duration>, took: Duration) {
        let now = Instant::now();
        let due = now + again.unwrap_or_else(|| self.timing.poll.max(took * 100));
        tokio::select! {
            () = sleep_until(due) => {}
            Some(hint) = self.events.recv() => self.gather(hint).await,
        }
    }

    /// Takes in events until there are none for a moment.
    async fn gather(&mut self, first: Hint) {
        let latest = Instant::now() + self.timing.longest;
        let mut hint = first;
        loop {
            let now = Instant::now();
            self.news.hear(hint, now);
            match timeout_at(latest.min(now + self.timing.quiet), self.events.recv()).await {
                Ok(Some(next)) => hint = next,
                Ok(None) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RenameMode};

    use super::*;

    fn hints(kind: EventKind, path: &str) -> Vec<Hint> {
        hints_of(Path::new("/m"), Ok(Event::new(kind).add_path(PathBuf::from(path))))
    }

    #[test]
    fn only_what_may_matter_is_heard() {
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        let rename = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(hints(close, "/m/a.yaml"), [Hint::Changed("/m/a.yaml".into())]);
        assert_eq!(hints(read, "/m/a.yaml"), []);
        assert_eq!(hints(close, "/m/log.txt"), []);
        assert_eq!(hints(EventKind::Create(CreateKind::Folder), "/m/shop").len(), 1);
        assert_eq!(hints(rename, "/m/..data").len(), 1);
        assert_eq!(hints(rename, "/m/.git/index.yaml"), []);
        assert_eq!(hints_of(Path::new("/m"), Err(notify::Error::generic("x"))).len(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_is_being_written_until_it_is_closed() {
        let mut news = News::default();
        let now = Instant::now();
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for hint in hints(write, "/m/a.yaml") {
            news.hear(hint, now);
        }
        assert!(news.writing.contains_key(Path::new("/m/a.yaml")));
        for hint in hints(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/m/a.yaml") {
            news.hear(hint, now);
        }
        assert!(news.writing.is_empty());
        assert!(news.changed.contains(Path::new("/m/a.yaml")));
    }
}
