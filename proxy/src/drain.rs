//! Shutting down in order: not ready → keep accepting for a delay → ask connections to finish → deadline.

use tokio::sync::watch;

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
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
pub struct Drain {
    phase: watch::Sender<Phase>,
}

impl Drain {
    /// Serving.
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }

    /// Moves on; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// A watcher.
    pub fn watch(&self) -> Watcher {
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
pub struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Watcher {
    /// How far.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Until the phase is reached; for ever when the trigger is dropped before.
    pub async fn reached(&mut self, phase: Phase) {
        if self.phase.wait_for(|current| *current >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
