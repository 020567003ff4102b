//! What is watched about a body on its way: how much came, when it ended, whether it is late.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::bounds::Terms;
use crate::error::Reason;
use crate::message::{Body, BodyError, BodyStream, Frame};
use crate::timer;

/// How much of a request body has come.
#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    end: Notify,
    /// When the last piece came.
    last: Cell<Option<Instant>>,
}

thread_local! {
    /// What has come of every request that has no body: it never changes.
    static NOTHING: Rc<Received> = Rc::new(Received { ended: Cell::new(true), ..Received::default() });
}

impl Received {
    /// Watches a body; one that is here already needs no watching.
    pub(super) fn watch(body: Body) -> (Body, Rc<Self>) {
        if matches!(body, Body::Empty) {
            return (body, NOTHING.with(Rc::clone));
        }
        let received = Rc::new(Self::default());
        match body {
            Body::Stream(stream) => {
                let watched = Watched { stream, received: received.clone() };
                (Body::stream(watched), received)
            }
            body => {
                received.bytes.set(body.remaining().unwrap_or_default());
                received.ended.set(true);
                (body, received)
            }
        }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the last piece came.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last.get()
    }

    /// Until the whole body has come.
    pub(super) async fn ended(&self) {
        while !self.ended.get() {
            self.end.notified().await;
        }
    }

    /// Until a bound has passed: nothing has moved for long, the request is not whole in time, everything should be over. Then why. For
    /// ever where nothing bounds.
    pub(super) async fn stalled(&self, terms: &Terms, started: Instant) -> Reason {
        let (idle, most) = (terms.idle, terms.request);
        let silent = timer::silence(idle, || self.last.get().unwrap_or(started));
        let late = async {
            if most.is_none() || timer::until(most, pin!(self.ended())).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let over = async {
            let Some((at, reason)) = terms.fixed else { return std::future::pending().await };
            tokio::time::sleep_until(at).await;
            reason
        };
        tokio::select! {
            () = silent => Reason::IdleTimeout,
            () = late => Reason::DownstreamTimeout,
            reason = over => reason,
        }
    }

    /// The whole body has come.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.last.set(Some(Instant::now()));
        self.end.notify_waiters();
    }

    /// Whether the whole body has come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

struct Watched {
    stream: Pin<Box<dyn BodyStream>>,
    received: Rc<Received>,
}

impl BodyStream for Watched {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = ready!(self.stream.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(Frame::Data(data))) => {
                self.received.bytes.set(self.received.bytes.get() + data.len() as u64);
                self.received.last.set(Some(Instant::now()));
            }
            Some(Ok(Frame::Trailers(_))) | Some(Err(_)) | None => self.received.end(),
        }
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }

    fn is_at_end(&self) -> bool {
        self.stream.is_at_end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms(idle: u64, request: Option<Instant>) -> Terms {
        Terms { timeout: None, idle: Some(Duration::from_secs(idle)), request, fixed: None }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_piece() {
        let received = Received::default();
        let start = Instant::now();
        received.last.set(Some(start + 3 * SECOND));
        assert_eq!(received.stalled(&terms(2, None), start).await, Reason::IdleTimeout);
        assert_eq!(start.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_whole_in_time_is_late() {
        let received = Received::default();
        let start = Instant::now();
        let mut terms = terms(9, Some(start + 4 * SECOND));
        assert_eq!(received.stalled(&terms, start).await, Reason::DownstreamTimeout);
        received.ended.set(true);
        assert_eq!(received.stalled(&terms, start).await, Reason::IdleTimeout);
        terms.fixed = Some((start + 10 * SECOND, Reason::MaxDuration));
        terms.idle = None;
        assert_eq!(received.stalled(&terms, start).await, Reason::MaxDuration);
    }
}
