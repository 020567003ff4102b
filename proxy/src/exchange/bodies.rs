//! What is watched about a body on its way: how much came, when it ended, whether it is late.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

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

impl Received {
    /// Watches a body; one that is here already needs no watching.
    pub(super) fn watch(body: Body) -> (Body, Rc<Self>) {
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

    /// Until nothing has moved for `idle`, or the request is not whole `most` after its start; then why. For ever where neither bounds.
    pub(super) async fn stalled(
        &self,
        idle: Option<Duration>,
        most: Option<Duration>,
        started: Instant,
    ) -> Reason {
        let silent = async {
            let Some(idle) = idle else { return std::future::pending().await };
            loop {
                let until = self.last.get().unwrap_or(started) + idle;
                if until <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        };
        let late = async {
            let Some(most) = most else { return std::future::pending().await };
            if timer::until(Some(started + most), self.ended()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = silent => Reason::IdleTimeout,
            () = late => Reason::DownstreamTimeout,
        }
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
            Some(Ok(Frame::Trailers(_))) | Some(Err(_)) | None => {
                self.received.ended.set(true);
                self.received.last.set(Some(Instant::now()));
                self.received.end.notify_waiters();
            }
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

/// Bounds a response body by the route's deadline.
pub(super) fn with_deadline(body: Body, deadline: Option<Instant>) -> Body {
    match (body, deadline) {
        (Body::Stream(stream), Some(deadline)) => {
            let sleep = Box::pin(tokio::time::sleep_until(deadline));
            Body::stream(Deadlined { stream, sleep })
        }
        (body, _) => body,
    }
}

struct Deadlined {
    stream: Pin<Box<dyn BodyStream>>,
    sleep: Pin<Box<Sleep>>,
}

impl BodyStream for Deadlined {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Poll::Ready(frame) = self.stream.as_mut().poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.sleep.as_mut().poll(context));
        Poll::Ready(Some(Err(BodyError::Timeout)))
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        self.stream.as_mut().poll_feed(context);
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
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_piece() {
        let received = Received::default();
        let start = Instant::now();
        received.last.set(Some(start + 3 * SECOND));
        assert_eq!(received.stalled(Some(2 * SECOND), None, start).await, Reason::IdleTimeout);
        assert_eq!(start.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_whole_in_time_is_late() {
        let received = Received::default();
        let start = Instant::now();
        let bounds = (Some(9 * SECOND), Some(4 * SECOND));
        assert_eq!(received.stalled(bounds.0, bounds.1, start).await, Reason::DownstreamTimeout);
        received.ended.set(true);
        assert_eq!(received.stalled(bounds.0, bounds.1, start).await, Reason::IdleTimeout);
    }
}
