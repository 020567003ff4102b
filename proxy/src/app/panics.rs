//! A panic is a defect of ours: it is counted and told. It ends the task that it happened in (one connection, or one HTTP/2 stream), whose
//! places and counts are given back as its values are dropped; the process lives. A worker that loses its own loop ends the process: half
//! a proxy is worse than one that is started again.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::telemetry::Metrics;

/// Counts and tells every panic of this process.
pub(super) fn count(metrics: Metrics) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        let thread = std::thread::current();
        tracing::error!("thread {} panicked: {panic}", thread.name().unwrap_or("(unnamed)"));
    }));
}

/// Says that a worker's thread has ended, however it did.
#[derive(Debug)]
pub(super) struct Alive(pub(super) Arc<Notify>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
