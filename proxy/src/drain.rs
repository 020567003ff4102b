//! Shutting down in order: not ready → keep accepting for a delay → ask connections to finish → deadline.
//!
//! Connections that idle are also asked to end while memory is scarce; that passes by the same way, so that an idle connection waits for
//! one thing only.

use std::time::Duration;

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

/// What connections are told.
#[derive(Clone, Copy, Debug)]
struct Word {
    phase: Phase,
    /// Idle connections should end.
    pressed: bool,
}

/// The trigger. One owner.
#[derive(Debug)]
pub(crate) struct Drain {
    word: watch::Sender<Word>,
    patience: Duration,
}

impl Drain {
    /// Serving. Connections that are asked to finish have so long.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { word: watch::Sender::new(Word { phase: Phase::Serving, pressed: false }), patience }
    }

    /// Moves on; never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.word.send_if_modified(|word| {
            let forward = phase > word.phase;
            if forward {
                word.phase = phase;
            }
            forward
        });
    }

    /// Asks idle connections to end, or no longer.
    pub(crate) fn press(&self, pressed: bool) {
        self.word.send_if_modified(|word| std::mem::replace(&mut word.pressed, pressed) != pressed);
    }

    /// A watcher.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher { word: self.word.subscribe(), patience: self.patience }
    }
}

/// Sees how far the shutdown is.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    word: watch::Receiver<Word>,
    patience: Duration,
}

impl Watcher {
    /// How far.
    pub(crate) fn phase(&self) -> Phase {
        self.word.borrow().phase
    }

    /// How long connections have that are asked to finish.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Until the phase is reached; for ever when the trigger is dropped before.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        if self.word.wait_for(|word| word.phase >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The next thing that connections are told: how far the shutdown is, and whether idle ones should end for want of memory.
    /// `None` when the trigger is dropped.
    pub(crate) async fn changed(&mut self) -> Option<(Phase, bool)> {
        self.word.changed().await.ok()?;
        let word = *self.word.borrow_and_update();
        Some((word.phase, word.pressed))
    }

    /// Until an idle connection should end: for the shutdown, or for want of memory.
    #[cfg(test)]
    pub(crate) async fn unwelcome(&mut self) {
        if self.word.wait_for(|word| word.pressed || word.phase >= Phase::Draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
