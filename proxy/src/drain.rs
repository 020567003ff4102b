//! Shutting down in order: not ready → keep accepting for a delay → ask connections to finish → deadline.

use tokio::sync::watch;

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// Not ready any more, still accepting: load balancers need time to notice.
    Lame,
    /// Responses say `connection: close`, HTTP/2 says GOAWAY; nothing new is accepted.
    Draining,
    /// What is left is cut.
    Ended,
}

/// The trigger. One owner.
#[derive(Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
}

impl Drain {
    /// Serving.
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }

    /// Moves on; never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// A watcher.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher { phase: self.phase.subscribe() }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// Sees how far the shutdown is.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Watcher {
    /// How far.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Until the phase is reached; for ever when the trigger is dropped before.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        if self.phase.wait_for(|current| *current >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
