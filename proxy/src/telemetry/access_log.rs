//! Access logs: one line per exchange, written by a thread of the log's own.
//!
//! A worker formats the line into its lane of the log's [`Outlet`] and goes on; the outlet's thread takes whole lanes and writes
//! them. When the thread cannot keep up (a pipe that nobody reads, a slow disk), lanes fill up and further lines are dropped
//! and counted: traffic never waits for a log.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::format::LogFormat;
use super::record::Record;

mod sink;

use sink::Sink;

/// One access log: where and in which form.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// `/dev/stdout`, `/dev/stderr` or a file.
    pub(crate) path: Arc<str>,
    /// The format, parsed.
    pub(crate) format: LogFormat,
}

/// Bytes that all lanes of an outlet may hold.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of capacity that an empty lane keeps.
const KEPT_CAPACITY: usize = 256 * 1024;

/// How long the writing thread waits for company after the first line.
const GATHER: Duration = Duration::from_millis(20);

/// Log files at a time; a configuration that wants more has its further lines counted as dropped.
const OUTLETS: usize = 16;

/// Every file that is logged to. A file stays open once used.
#[derive(Debug)]
pub(super) struct Outlets {
    slots: usize,
    by_path: Mutex<FxHashMap<Arc<str>, Arc<Outlet>>>,
    /// Lines for files past the bound on files.
    refused: AtomicU64,
}

/// What became of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogTotals {
    pub(super) written: u64,
    /// The queue was full.
    pub(super) dropped: u64,
    /// The file could not be written.
    pub(super) failed: u64,
}

impl Outlets {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, by_path: Mutex::default(), refused: AtomicU64::new(0) }
    }

    pub(super) fn reopen(&self) {
        for outlet in self.all() {
            outlet.reopen.store(true, Ordering::Relaxed);
            outlet.wake();
        }
    }

    pub(super) fn flush(&self, within: Duration) {
        for outlet in self.all() {
            outlet.flush(within);
        }
    }

    pub(super) fn totals(&self) -> LogTotals {
        let mut totals = LogTotals { dropped: self.refused.load(Ordering::Relaxed), ..LogTotals::default() };
        for outlet in self.all() {
            totals.written += outlet.written.load(Ordering::Relaxed);
            totals.dropped += outlet.dropped.load(Ordering::Relaxed);
            totals.failed += outlet.failed.load(Ordering::Relaxed);
        }
        totals
    }

    fn all(&self) -> Vec<Arc<Outlet>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, path: &Arc<str>) -> Option<Arc<Outlet>> {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outlet) = by_path.get(path) {
            return Some(outlet.clone());
        }
        if by_path.len() >= OUTLETS {
            return None;
        }
        let outlet = Outlet::start(path, self.slots);
        by_path.insert(path.clone(), outlet.clone());
        Some(outlet)
    }
}

impl Drop for Outlets {
    fn drop(&mut self) {
        for outlet in self.all() {
            outlet.closing.store(true, Ordering::Relaxed);
            outlet.wake();
        }
    }
}

/// One worker's way to the outlets.
#[derive(Debug)]
pub(super) struct LogWriter {
    outlets: Arc<Outlets>,
    worker: usize,
    known: RefCell<FxHashMap<Arc<str>, Option<Arc<Outlet>>>>,
}

impl LogWriter {
    pub(super) fn new(outlets: Arc<Outlets>, worker: usize) -> Self {
        Self { outlets, worker, known: RefCell::default() }
    }

    /// Queues the record's line.
    pub(super) fn write(&self, log: &AccessLog, record: &Record) {
        let mut known = self.known.borrow_mut();
        let outlet = match known.get(&log.path) {
            Some(outlet) => outlet,
            None => known.entry(log.path.clone()).or_insert_with(|| self.outlets.get(&log.path)),
        };
        match outlet {
            Some(outlet) => outlet.push(self.worker, |line| log.format.write(record, line)),
            None => {
                self.outlets.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One file, its lanes and its thread.
#[derive(Debug)]
struct Outlet {
    lanes: Box<[Lane]>,
    lane_limit: usize,
    /// The thread sleeps until somebody clears this and wakes it.
    idle: AtomicBool,
    thread: OnceLock<Thread>,
    reopen: AtomicBool,
    closing: AtomicBool,
    passes: Mutex<Passes>,
    pass_ended: Condvar,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What one worker has queued. Locked by the worker while it formats a line, and by the thread for the exchange of two
/// buffers: neither waits for longer than that.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane(Mutex<Vec<u8>>);

/// Rounds over all lanes.
#[derive(Debug, Default)]
struct Passes {
    begun: u64,
    ended: u64,
    /// The pass that somebody waits for.
    wanted: u64,
}

impl Outlet {
    fn start(path: &Arc<str>, slots: usize) -> Arc<Self> {
        let outlet = Arc::new(Self {
            lanes: (0..slots).map(|_| Lane::default()).collect(),
            lane_limit: QUEUE_BYTES / slots.max(1),
            idle: AtomicBool::new(false),
            thread: OnceLock::new(),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            passes: Mutex::default(),
            pass_ended: Condvar::new(),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let (own, sink) = (outlet.clone(), Sink::new(path));
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || own.run(sink));
        match thread {
            Ok(thread) => {
                let _ = outlet.thread.set(thread.thread().clone());
            }
            // Lanes fill up and then count what they drop.
            Err(error) => tracing::error!(%path, %error, "no thread for the access log"),
        }
        outlet
    }

    fn push(&self, lane: usize, format: impl FnOnce(&mut Vec<u8>)) {
        let Some(lane) = self.lanes.get(lane) else { return };
        let mut bytes = lane.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = bytes.len();
        if before < self.lane_limit {
            format(&mut bytes);
        }
        let fits = before < self.lane_limit && bytes.len() <= self.lane_limit;
        if !fits {
            bytes.truncate(before);
        }
        drop(bytes);
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else if before == 0 {
            self.wake();
        }
    }

    /// Wakes the thread if it sleeps. Lines queued while it works are found by its next pass.
    fn wake(&self) {
        if self.idle.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn flush(&self, within: Duration) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        // A pass that begins after now sees everything that is queued now.
        let wanted = passes.begun + 1;
        passes.wanted = wanted;
        self.wake();
        let unfinished = |passes: &mut Passes| passes.ended < wanted;
        drop(self.pass_ended.wait_timeout_while(passes, within, unfinished));
    }

    /// The thread: sleeps, gathers, writes; ends when the process's telemetry is dropped.
    fn run(&self, mut sink: Sink) {
        let mut batch = Vec::new();
        loop {
            let last = self.closing.load(Ordering::Relaxed);
            if self.reopen.swap(false, Ordering::Relaxed) {
                sink.reopen();
            }
            self.pass(&mut sink, &mut batch);
            if last {
                return;
            }
            self.sleep();
            std::thread::sleep(GATHER);
        }
    }

    /// Takes every lane once, and writes it.
    fn pass(&self, sink: &mut Sink, batch: &mut Vec<u8>) {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).begun += 1;
        for lane in &self.lanes {
            batch.clear();
            if batch.capacity() > KEPT_CAPACITY {
                *batch = Vec::new();
            }
            std::mem::swap(&mut *lane.0.lock().unwrap_or_else(PoisonError::into_inner), batch);
            if !batch.is_empty() {
                let outcome = sink.write(batch);
                self.written.fetch_add(outcome.written, Ordering::Relaxed);
                self.failed.fetch_add(outcome.failed, Ordering::Relaxed);
            }
        }
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.ended = passes.begun;
        self.pass_ended.notify_all();
    }

    /// Until there is something to do.
    fn sleep(&self) {
        self.idle.store(true, Ordering::Release);
        // Whoever queued or asked before `idle` was set did not wake us.
        let queued = |lane: &Lane| !lane.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if self.lanes.iter().any(queued)
            || self.closing.load(Ordering::Relaxed)
            || self.reopen.load(Ordering::Relaxed)
            || self.is_awaited()
        {
            self.idle.store(false, Ordering::Release);
            return;
        }
        while self.idle.load(Ordering::Acquire) {
            std::thread::park();
        }
    }

    fn is_awaited(&self) -> bool {
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.ended < passes.wanted
    }
}

#[cfg(test)]
mod tests;
