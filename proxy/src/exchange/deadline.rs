//! The route's timeout over all attempts of one request.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::bodies::Received;
use crate::timer::{self, Alarm};

/// The route's timeout: it runs from the end of the request.
pub(super) struct Deadline {
    pub(super) timeout: Option<Duration>,
    pub(super) received: Rc<Received>,
    pub(super) at: Option<Instant>,
}

impl Deadline {
    /// Starts the clock now.
    pub(super) fn start(&mut self) {
        self.at = self.timeout.map(|timeout| Instant::now() + timeout);
    }

    /// Awaits an attempt, made now, until the deadline; `None` when it has passed. The clock starts when the request has come to its end.
    pub(super) async fn bound<F: Future + Unpin>(&mut self, now: Instant, future: F) -> Option<F::Output> {
        let Some(timeout) = self.timeout else { return Some(future.await) };
        if self.at.is_none() && self.received.has_ended() {
            self.at = Some(now + timeout);
        }
        if let Some(at) = self.at {
            return timer::before(at, timeout, future).await.ok();
        }
        let received = self.received.clone();
        let at = &mut self.at;
        let late = async {
            received.ended().await;
            let deadline = Instant::now() + timeout;
            *at = Some(deadline);
            Alarm::at(deadline, timeout).wait().await;
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = late => None,
        }
    }

    /// Whether it is too late for another attempt.
    pub(super) fn has_passed(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }
}
