//! Ending in order: a signal → not ready, still accepting → connections asked to finish → the rest cut at the deadline.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::drain::{Drain, Phase};
use crate::listener::Balance;
use crate::settings::Settings;

/// How it ended.
pub(super) enum Ended {
    /// Every connection finished.
    Quietly,
    /// So many connections were still open.
    Cut(usize),
    /// A worker was lost.
    Broken,
}

/// Waits for SIGTERM or SIGINT, or for the admin to start draining; then ends in order. A second signal ends at once.
pub(super) async fn conduct(drain: &Drain, balance: &Balance, lost: &Notify, settings: &Settings) -> Ended {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!("cannot listen for signals: {error}");
                return Ended::Cut(balance.connections());
            }
        };
    let mut watcher = drain.watch();
    tokio::select! {
        () = either(&mut terminate, &mut interrupt) => {}
        () = watcher.reached(Phase::Lame) => {}
        () = lost.notified() => return Ended::Broken,
    }
    drain.advance(Phase::Lame);
    tracing::info!("shutting down: not ready, accepting for {:?} more", settings.shutdown_delay);
    let ending = async {
        tokio::time::sleep(settings.shutdown_delay).await;
        drain.advance(Phase::Draining);
        let open = balance.connections();
        tracing::info!("draining {open} connections, for {:?} at most", settings.drain_time);
        wait_for_connections(balance, Instant::now() + settings.drain_time).await;
    };
    tokio::select! {
        biased;
        () = ending => {}
        () = lost.notified() => return Ended::Broken,
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("second signal: ending now"),
    }
    match balance.connections() {
        0 => Ended::Quietly,
        open => Ended::Cut(open),
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn wait_for_connections(balance: &Balance, deadline: Instant) {
    while balance.connections() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

const LOOK: Duration = Duration::from_millis(20);
