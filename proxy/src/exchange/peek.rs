//! Reads the start of a request's body, and leaves the body as if nobody had.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::error::Reason;
use crate::filter::ext_authz::{BodyRule, Seen, Trouble};
use crate::io::Io;
use crate::message::{Body, BodyError, BodyStream, Frame};
use crate::timer;

/// Bounds of time on a body that is waited for.
pub(super) struct Patience {
    /// Between two pieces.
    pub(super) idle: Option<Duration>,
    /// For all of it.
    pub(super) deadline: Option<Instant>,
}

/// Reads as much as the rule wants. What has all come is there again as a whole, so that the request can be tried again; the rest
/// of a longer body is left where it is.
pub(super) async fn peek(body: &mut Body, rule: BodyRule, patience: &Patience) -> Result<Seen, Trouble> {
    let size = body.remaining();
    if !rule.partial && size.is_some_and(|size| size > rule.most as u64) {
        return Err(Trouble::TooLong);
    }
    let mut source = std::mem::take(body);
    let (mut kept, mut length, mut whole) = (VecDeque::new(), 0, true);
    while length <= rule.most {
        if length == rule.most && rule.partial && !source.is_empty() {
            whole = false;
            break;
        }
        let frame = timer::until(patience.deadline, timer::within(patience.idle, pin!(source.frame()))).await;
        let Ok(Ok(frame)) = frame else { return Err(Trouble::Client(Reason::DownstreamTimeout)) };
        match frame.transpose().map_err(|error| Trouble::Client(reason(error)))? {
            None => break,
            Some(frame) => {
                let is_last = matches!(frame, Frame::Trailers(_));
                length += size_of(&frame);
                kept.push_back(frame);
                if is_last {
                    break;
                }
            }
        }
    }
    if length > rule.most {
        if !rule.partial {
            return Err(Trouble::TooLong);
        }
        whole = false;
    }
    let bytes = first(&kept, rule.most);
    let has_trailers = kept.back().is_some_and(|frame| matches!(frame, Frame::Trailers(_)));
    *body = match (whole, has_trailers) {
        (true, false) if bytes.is_empty() => Body::Empty,
        (true, false) => Body::Full(bytes.clone()),
        _ => Body::stream(Restored { kept, source, ended: has_trailers }),
    };
    Ok(Seen { bytes, whole, size: if whole { Some(length as u64) } else { size } })
}

fn reason(error: BodyError) -> Reason {
    match error {
        BodyError::Malformed => Reason::BadRequest,
        BodyError::Reset | BodyError::Broken => Reason::DownstreamClosed,
    }
}

fn size_of(frame: &Frame) -> usize {
    match frame {
        Frame::Data(data) => data.len(),
        Frame::Trailers(_) => 0,
    }
}

fn first(frames: &VecDeque<Frame>, most: usize) -> Bytes {
    let pieces = frames.iter().filter_map(|frame| match frame {
        Frame::Data(data) => Some(data),
        Frame::Trailers(_) => None,
    });
    let mut out = BytesMut::new();
    for piece in pieces.clone() {
        if pieces.clone().count() == 1 {
            // The usual body is one piece: nothing is copied.
            return piece.slice(..piece.len().min(most));
        }
        out.extend_from_slice(&piece[..piece.len().min(most - out.len())]);
    }
    out.freeze()
}

/// What was read, and what comes after it.
struct Restored {
    kept: VecDeque<Frame>,
    source: Body,
    /// The last frame was read already.
    ended: bool,
}

impl BodyStream for Restored {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.kept.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.ended => Poll::Ready(None),
            None => self.source.poll_frame(context),
        }
    }

    fn remaining(&self) -> Option<u64> {
        let kept: usize = self.kept.iter().map(size_of).sum();
        let rest = if self.ended { Some(0) } else { self.source.remaining() };
        rest.map(|rest| rest + kept as u64)
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        self.source.poll_feed(context);
    }

    fn poll_drained(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.source.poll_drained(context)
    }

    fn socket(&self) -> Option<(&Io, u64)> {
        if self.kept.is_empty() { self.source.socket() } else { None }
    }

    fn took(mut self: Pin<&mut Self>, count: usize) {
        self.source.took(count);
    }

    fn is_at_end(&self) -> bool {
        self.kept.is_empty() && (self.ended || self.source.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    struct Pieces(VecDeque<Result<Frame, BodyError>>, Option<u64>);

    impl BodyStream for Pieces {
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn remaining(&self) -> Option<u64> {
            self.1
        }
    }

    struct Never;

    impl BodyStream for Never {
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Pending
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    fn data(text: &'static str) -> Result<Frame, BodyError> {
        Ok(Frame::Data(Bytes::from_static(text.as_bytes())))
    }

    const NO_BOUND: Patience = Patience { idle: None, deadline: None };

    fn rule(most: usize, partial: bool) -> BodyRule {
        BodyRule { most, partial, raw: false }
    }

    async fn text(mut body: Body) -> (String, bool) {
        let (mut text, mut trailers) = (String::new(), false);
        while let Some(frame) = body.frame().await {
            match frame.unwrap() {
                Frame::Data(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                Frame::Trailers(_) => trailers = true,
            }
        }
        (text, trailers)
    }

    #[tokio::test]
    async fn a_body_is_the_same_afterwards() {
        for (pieces, most, partial, seen, whole) in [
            (vec![], 4, false, "", true),
            (vec![data("abcd")], 4, false, "abcd", true),
            (vec![data("ab"), data("cd")], 4, false, "abcd", true),
            (vec![data("ab"), data("cd"), data("ef")], 4, true, "abcd", false),
            (vec![data("abcdef")], 4, true, "abcd", false),
            (vec![data("a"), data("bcdef"), data("g")], 4, true, "abcd", false),
            (vec![data("ab"), Ok(Frame::Trailers(Headers::new()))], 4, false, "ab", true),
        ] {
            let wanted: String = pieces
                .iter()
                .filter_map(|piece| match piece {
                    Ok(Frame::Data(data)) => Some(std::str::from_utf8(data).unwrap()),
                    _ => None,
                })
                .collect();
            let trailers = matches!(pieces.last(), Some(Ok(Frame::Trailers(_))));
            let mut body = Body::stream(Pieces(pieces.into(), None));
            let found = peek(&mut body, rule(most, partial), &NO_BOUND).await.unwrap();
            assert_eq!((&found.bytes[..], found.whole), (seen.as_bytes(), whole), "{wanted}");
            assert_eq!(whole && !trailers, !matches!(body, Body::Stream(_)), "{wanted}");
            assert_eq!(text(body).await, (wanted, trailers));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_broken_or_late_is_said() {
        let mut body = Body::stream(Pieces([data("ab"), data("cd")].into(), None));
        assert!(matches!(peek(&mut body, rule(3, false), &NO_BOUND).await, Err(Trouble::TooLong)));
        // Known before: nothing is read.
        let mut body = Body::stream(Pieces([data("abcd")].into(), Some(4)));
        assert!(matches!(peek(&mut body, rule(3, false), &NO_BOUND).await, Err(Trouble::TooLong)));
        assert_eq!(text(body).await.0, "abcd");
        let mut body = Body::stream(Pieces([Err(BodyError::Malformed)].into(), None));
        let broken = peek(&mut body, rule(3, false), &NO_BOUND).await;
        assert!(matches!(broken, Err(Trouble::Client(Reason::BadRequest))));
        for patience in [
            Patience { idle: Some(Duration::from_secs(1)), deadline: None },
            Patience { idle: None, deadline: Some(Instant::now() + Duration::from_secs(5)) },
        ] {
            let late = peek(&mut Body::stream(Never), rule(3, false), &patience).await;
            assert!(matches!(late, Err(Trouble::Client(Reason::DownstreamTimeout))));
        }
    }
}
