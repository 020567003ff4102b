//! What is watched about a body on its way: how much came, when it ended, whether it is late.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::message::{Body, BodyError, BodyStream, Frame};

/// How much of a request body has come.
#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    end: Notify,
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

    /// Until the whole body has come.
    pub(super) async fn ended(&self) {
        while !self.ended.get() {
            self.end.notified().await;
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
            }
            Some(Ok(Frame::Trailers(_))) | Some(Err(_)) | None => {
                self.received.ended.set(true);
                self.received.end.notify_waiters();
            }
        }
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
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

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }
}
