//! A large response body on its way from socket to socket, without coming up into this program.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use super::body::Inbound;
use crate::error::Reason;
use crate::exchange::Ending;
use crate::io::{Io, Pipe};
use crate::message::Body;

/// Sends what is left of a body, as far as that goes; the rest is for the one who reads it in pieces, errors and the end included.
/// Adds to what `ending` counts; returns why the response was cut, if it was.
pub(super) async fn send(
    inbound: &Inbound,
    body: &mut Body,
    idle: Option<Duration>,
    ending: &Ending,
) -> Option<Reason> {
    let io: &Io = &inbound.io;
    let (from, _) = body.socket().filter(|(_, left)| *left >= BULK)?;
    let mut pipe = Pipe::between(from, io)?;
    loop {
        let step = poll_fn(|context| {
            if ready!(pipe.poll_drain(context, io)).is_err() {
                return Poll::Ready(Err(Reason::DownstreamClosed));
            }
            let Some((from, left)) = body.socket() else { return Poll::Ready(Ok(0)) };
            match pipe.poll_fill(context, from, left) {
                Poll::Ready(taken) => Poll::Ready(Ok(taken.unwrap_or(0))),
                Poll::Pending => inbound.poll_gone(context).map(|()| Err(Reason::DownstreamClosed)),
            }
        });
        let cut = match ending.moving(idle, step).await {
            Ok(Ok(0)) => return None,
            Ok(Ok(taken)) => {
                body.took(taken);
                ending.sent.set(ending.sent.get() + taken as u64);
                continue;
            }
            Ok(Err(reason)) => reason,
            Err(_) => Reason::IdleTimeout,
        };
        ending.sent.set(ending.sent.get() - pipe.held() as u64);
        return Some(cut);
    }
}

/// What is left of a body below this is not worth a pipe.
const BULK: u64 = 64 * 1024;
