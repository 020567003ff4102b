//! The program's own log, on stderr; its level can be changed while it runs (`/logging`).

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::telemetry::Metrics;

/// Reads and changes the level.
#[derive(Clone)]
pub(super) struct Level {
    handle: reload::Handle<LevelFilter, Registry>,
}

/// Starts logging. A second start in one process (tests) keeps the first.
pub(super) fn start(level: LevelFilter) -> Level {
    let (filter, handle) = reload::Layer::new(level);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
    // Already initialised: then that one serves.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Level { handle }
}

/// Opens access logs again at SIGUSR1, which is what log rotation sends (as to Envoy). On a thread with a `LocalSet`.
pub(super) fn reopen_on_signal(metrics: Metrics) {
    let mut rotated = match signal(SignalKind::user_defined1()) {
        Ok(rotated) => rotated,
        Err(error) => return tracing::warn!("cannot listen for SIGUSR1: {error}"),
    };
    tokio::task::spawn_local(async move {
        while rotated.recv().await.is_some() {
            metrics.reopen_logs();
        }
    });
}

impl Level {
    /// The level in force.
    pub(super) fn get(&self) -> LevelFilter {
        self.handle.with_current(|level| *level).unwrap_or(LevelFilter::INFO)
    }

    /// Puts another level in force.
    pub(super) fn set(&self, level: LevelFilter) {
        // Fails only when the subscriber is gone, at the very end.
        let _ = self.handle.reload(level);
    }
}
