//! A request body that can be sent again: what was read is kept, up to a bound, for the next attempt (D9).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Body, BodyError, BodyStream, Frame};

/// Keeps a body's pieces while the first attempt reads them, so that another attempt can read them again.
#[derive(Clone)]
pub(crate) struct Replay {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    source: Body,
    kept: Vec<Frame>,
    kept_bytes: usize,
    limit: usize,
    /// More was read than may be kept: no further attempt can have the whole body.
    overflowed: bool,
    ended: bool,
    failed: Option<BodyError>,
}

impl Replay {
    /// Wraps a body; at most `limit` bytes are kept.
    pub(crate) fn new(source: Body, limit: usize) -> Self {
        let shared = Shared {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            overflowed: false,
            ended: false,
            failed: None,
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// The body for one attempt: what was kept, then the rest of the source. Only one attempt reads at a time.
    pub(crate) fn attempt(&self) -> Body {
        Body::stream(Attempt { shared: self.shared.clone(), next: 0 })
    }

    /// Whether the whole body has come and is kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.borrow().ended && self.can_repeat()
    }

    /// Whether another attempt would send exactly the same bytes.
    pub(crate) fn can_repeat(&self) -> bool {
        let shared = self.shared.borrow();
        !shared.overflowed && shared.failed.is_none()
    }
}

struct Attempt {
    shared: Rc<RefCell<Shared>>,
    next: usize,
}

impl BodyStream for Attempt {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let this = &mut *self;
        let mut shared = this.shared.borrow_mut();
        if let Some(frame) = shared.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(frame.clone())));
        }
        if let Some(error) = shared.failed {
            return Poll::Ready(Some(Err(error)));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(shared.source.poll_frame(context));
        match &frame {
            None => shared.ended = true,
            Some(Err(error)) => shared.failed = Some(*error),
            Some(Ok(frame)) => {
                shared.keep(frame);
                this.next = shared.kept.len();
            }
        }
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        let shared = self.shared.borrow();
        let kept: usize = shared.kept.iter().skip(self.next).map(len).sum();
        shared.source.remaining().map(|rest| rest + kept as u64)
    }

    fn is_at_end(&self) -> bool {
        let shared = self.shared.borrow();
        shared.kept.len() <= self.next && (shared.ended || shared.source.is_empty())
    }
}

impl Shared {
    fn keep(&mut self, frame: &Frame) {
        self.kept_bytes += len(frame);
        if self.overflowed || self.kept_bytes > self.limit {
            self.overflowed = true;
            self.kept.clear();
        } else {
            self.kept.push(frame.clone());
        }
    }
}

fn len(frame: &Frame) -> usize {
    match frame {
        Frame::Data(data) => data.len(),
        Frame::Trailers(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;

    struct Pieces(VecDeque<&'static str>);

    impl BodyStream for Pieces {
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::Data(Bytes::from_static(piece.as_bytes())))))
        }

        fn remaining(&self) -> Option<u64> {
            Some(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    async fn read(mut body: Body) -> String {
        let mut text = String::new();
        while let Some(Ok(Frame::Data(data))) = body.frame().await {
            text.push_str(std::str::from_utf8(&data).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn a_second_attempt_reads_the_same_bytes() {
        let replay = Replay::new(Body::stream(Pieces(["ab", "cd", "ef"].into())), 64);
        let mut first = replay.attempt();
        assert!(first.frame().await.is_some());
        assert!(replay.can_repeat());
        drop(first);
        assert_eq!(replay.attempt().remaining(), Some(6));
        assert_eq!(read(replay.attempt()).await, "abcdef");
        assert_eq!(read(replay.attempt()).await, "abcdef");
    }

    #[tokio::test]
    async fn past_the_bound_it_cannot_be_repeated() {
        let replay = Replay::new(Body::stream(Pieces(["ab", "cd", "ef"].into())), 3);
        assert_eq!(read(replay.attempt()).await, "abcdef");
        assert!(!replay.can_repeat());
    }
}
