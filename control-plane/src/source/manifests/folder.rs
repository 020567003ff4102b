//! The memory of a folder: what each file said when it was last read. Decides which files to read again, which to
//! leave alone because somebody is writing them, and which are gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::scan::{Found, Listing, OutOfSight, is_at_or_below};
use super::sheet::Sheet;
use super::standing::{LAST_GOOD, NOTHING, Standing, finding};
use super::watch::News;
use super::{Limits, Timing};
use crate::model::{Batch, Finding, ObjectKey};
use crate::source::validate::Problem;

/// A round's time, and what the watcher heard.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// The clock that file times are in.
    pub(super) wall: SystemTime,
    pub(super) news: News,
}

/// What a round found.
#[derive(Debug)]
pub(super) struct Refreshed {
    /// What changed, if anything; always something the first time.
    pub(super) batch: Option<Batch>,
    /// When something that was put off is due.
    pub(super) again: Option<Duration>,
}

/// Every file of a folder as it was last read.
#[derive(Debug)]
pub(super) struct Folder {
    limits: Limits,
    timing: Timing,
    records: BTreeMap<String, Record>,
    /// What was last found about the folder itself.
    findings: Vec<Finding>,
    standing: Standing,
    /// Whether a sheet has changed since the last settlement.
    has_changed: bool,
    is_new: bool,
}

#[derive(Debug)]
struct Record {
    found: Found,
    /// Whether the file was old enough when it was read for its stamp to show any later change.
    settled: bool,
    missing_since: Option<Instant>,
    sheet: Sheet,
}

impl Folder {
    pub(super) fn new(limits: Limits, timing: Timing) -> Self {
        Self {
            limits,
            timing,
            records: BTreeMap::new(),
            findings: Vec::new(),
            standing: Standing::default(),
            has_changed: false,
            is_new: true,
        }
    }

    /// Whether nothing has been read yet.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The file and document of each object in force.
    pub(super) fn places(&self) -> BTreeMap<ObjectKey, (String, usize)> {
        self.standing.places()
    }

    /// Takes in what the folder looks like now. A folder that cannot be listed leaves everything as it was.
    pub(super) fn refresh(&mut self, listing: Result<Listing, String>, moment: &Moment) -> Refreshed {
        let mut again = Again(None);
        let findings = match listing {
            Ok(listing) => {
                let mut findings = self.out_of_sight(&listing);
                self.forget_missing(&listing, moment, &mut again);
                self.read_changed(listing, moment, &mut again, &mut findings);
                findings
            }
            Err(message) => vec![missing_folder(message)],
        };
        let batch = self.settle(findings);
        if let Some(batch) = &batch {
            self.log(batch);
        }
        Refreshed { batch, again: again.0 }
    }

    fn settle(&mut self, findings: Vec<Finding>) -> Option<Batch> {
        let is_first = std::mem::take(&mut self.is_new);
        if !std::mem::take(&mut self.has_changed) && findings == self.findings && !is_first {
            return None;
        }
        self.findings.clone_from(&findings);
        let sheets = self.records.iter().map(|(file, record)| (file.as_str(), &record.sheet));
        let batch = self.standing.settle(sheets, findings);
        batch.or_else(|| is_first.then(Batch::default))
    }

    /// Forgets files that have been missing for a while; until then, what they said may be in the next file.
    fn forget_missing(&mut self, listing: &Listing, moment: &Moment, again: &mut Again) {
        let gone_after = self.timing.gone_after;
        let has_changed = &mut self.has_changed;
        self.records.retain(|file, record| {
            if listing.files.contains_key(file) {
                record.missing_since = None;
                return true;
            }
            if listing.cannot_see(file) {
                return true;
            }
            *has_changed = true;
            let since = *record.missing_since.get_or_insert(moment.now);
            let left = gone_after.saturating_sub(moment.now.saturating_duration_since(since));
            if left.is_zero() {
                return false;
            }
            // It claims nothing any more, so that another file can be the one that it was renamed to, and what it
            // provided stays until then.
            record.sheet = Sheet { torn: true, ..Sheet::default() };
            record.settled = false;
            again.at(left);
            true
        });
    }

    fn read_changed(
        &mut self,
        listing: Listing,
        moment: &Moment,
        again: &mut Again,
        findings: &mut Vec<Finding>,
    ) {
        let mut room = self.room(&listing);
        for (file, found) in listing.files {
            let known = self.records.get(&file);
            if known.is_some_and(|record| record.settled && record.found.stamp == found.stamp) {
                continue;
            }
            if known.is_none() && !room.admits(&found) {
                findings.push(too_many(&file, &self.limits));
                continue;
            }
            if let Some(wait) = self.put_off(known, &found, moment) {
                again.at(wait);
                continue;
            }
            let sheet = match read_bounded(&found.path, self.limits.file_bytes) {
                Ok(bytes) => Sheet::read(&found.path, &bytes, &self.limits),
                // It went away since it was listed: the next round sees that.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    again.at(self.timing.quiet);
                    continue;
                }
                Err(error) => Sheet::unreadable(format!("cannot be read: {error}")),
            };
            self.has_changed = true;
            let settled = found.stamp.age(moment.wall).is_none_or(|age| age > COARSEST_CLOCK);
            self.records.insert(file, Record { found, settled, missing_since: None, sheet });
        }
    }

    /// How many files and bytes may still be taken in beside those that are known.
    fn room(&self, listing: &Listing) -> Room {
        let known = listing.files.iter().filter(|(file, _)| self.records.contains_key(*file));
        let (files, bytes) =
            known.fold((0, 0), |(files, bytes), (_, found)| (files + 1, bytes + found.stamp.size));
        Room {
            files: self.limits.files.saturating_sub(files),
            bytes: self.limits.total_bytes.saturating_sub(bytes),
        }
    }

    /// How long to wait before a file is read, because somebody seems to be writing it.
    fn put_off(&self, known: Option<&Record>, found: &Found, moment: &Moment) -> Option<Duration> {
        if let Some(since) = moment.news.writing.get(&found.path) {
            let left = self.timing.torn_for.saturating_sub(moment.now.saturating_duration_since(*since));
            return Some(left).filter(|left| !left.is_zero());
        }
        // A writer first makes the file empty. What held objects is not believed to be empty at once.
        let age = found.stamp.age(moment.wall)?;
        let held = known.is_some_and(|record| !record.sheet.claims.is_empty() || record.sheet.torn);
        let patience = match (held, found.stamp.size) {
            (true, 0) => self.timing.torn_for,
            (true, _) if !moment.news.changed.contains(&found.path) => self.timing.quiet,
            _ => return None,
        };
        let stamp_is_new = known.is_some_and(|record| record.found.stamp != found.stamp);
        Some(patience.saturating_sub(age)).filter(|left| stamp_is_new && !left.is_zero())
    }

    fn out_of_sight(&self, listing: &Listing) -> Vec<Finding> {
        let known = |path: &str| self.records.keys().any(|file| is_at_or_below(file, path));
        let matter = listing.out_of_sight.iter().filter(|(path, why)| !why.only_if_known || known(path));
        let finding = |(path, why): (&String, &OutOfSight)| {
            let in_force = if known(path) { LAST_GOOD } else { NOTHING };
            finding(path, 0, None, &Problem::refused("", &why.reason), in_force)
        };
        matter.map(finding).collect()
    }

    fn log(&self, batch: &Batch) {
        let skipped: usize = self.records.values().map(|record| record.sheet.skipped).sum();
        tracing::debug!(
            files = self.records.len(),
            changes = batch.changes.len(),
            findings = batch.findings.len(),
            skipped,
            "read the manifests"
        );
    }
}

/// File systems stamp files with clocks as coarse as this: a file younger than it may change without a new stamp.
const COARSEST_CLOCK: Duration = Duration::from_secs(2);

/// The earliest of several times.
struct Again(Option<Duration>);

impl Again {
    fn at(&mut self, wait: Duration) {
        self.0 = Some(self.0.map_or(wait, |earlier| earlier.min(wait)));
    }
}

struct Room {
    files: usize,
    bytes: u64,
}

impl Room {
    fn admits(&mut self, found: &Found) -> bool {
        let (Some(files), Some(bytes)) =
            (self.files.checked_sub(1), self.bytes.checked_sub(found.stamp.size))
        else {
            return false;
        };
        (self.files, self.bytes) = (files, bytes);
        true
    }
}

/// At most one byte more than the bound, which is enough to know that it is passed.
fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_many(file: &str, limits: &Limits) -> Finding {
    let message = format!(
        "not read: the folder holds more than {} files or {} bytes; split it or join files",
        limits.files, limits.total_bytes
    );
    finding(file, 0, None, &Problem::refused("", message), NOTHING)
}

fn missing_folder(message: String) -> Finding {
    let message = format!("{message}; everything stays as it was until the folder is back");
    finding(".", 0, None, &Problem::refused("", message), LAST_GOOD)
}

#[cfg(test)]
mod tests;
