//! One request's stream on a shared connection: its place, and how it is given up without harm to the others.
//!
//! Many clients share a connection. When many of them vanish at once, a burst of RST_STREAM would look like an attack to the endpoint, whose
//! GOAWAY fails everybody's streams. So resets have a budget; past it a stream that nobody wants is kept, unread, until there is room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use h2::client::ResponseFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::State;

/// The streams that wait to be reset, and how many may be at once.
#[derive(Debug)]
pub(super) struct Farewells {
    /// Resets that may leave now.
    allowance: Cell<u32>,
    /// Those that nobody wants. Each keeps its place on the connection: there are never more than streams.
    waiting: RefCell<VecDeque<Farewell>>,
    /// Something was spent.
    begun: Notify,
}

#[derive(Debug)]
struct Farewell {
    /// What keeps the h2 crate from resetting the stream: its last handle.
    _stream: ResponseFuture,
    _place: Place,
}

impl Default for Farewells {
    fn default() -> Self {
        Self { allowance: Cell::new(MOST_RESETS), waiting: RefCell::default(), begun: Notify::new() }
    }
}

impl Farewells {
    fn give_up(&self, stream: ResponseFuture, place: Place) {
        self.begun.notify_one();
        match self.allowance.get() {
            0 => self.waiting.borrow_mut().push_back(Farewell { _stream: stream, _place: place }),
            left => self.allowance.set(left - 1),
        }
    }

    /// Lets resets leave as time passes. Runs as long as the connection.
    pub(super) async fn run(&self) {
        loop {
            self.begun.notified().await;
            while self.allowance.get() < MOST_RESETS || !self.waiting.borrow().is_empty() {
                tokio::time::sleep(std::time::Duration::from_secs(1) / RESETS_PER_SECOND).await;
                let next = self.waiting.borrow_mut().pop_front();
                if next.is_none() {
                    self.allowance.set(self.allowance.get() + 1);
                }
            }
        }
    }
}

/// A place among the streams of a connection.
#[derive(Debug)]
struct Place {
    state: Rc<State>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.state.guard.active() - 1;
        self.state.guard.set_active(left);
        self.state.idle_since.set(Instant::now());
        self.state.freed.notify_one();
    }
}

/// A request on its way: its place, until the response has ended or nobody wants it any more.
pub(super) struct StreamClaim {
    pub(super) state: Rc<State>,
    place: Option<Place>,
    stream: RefCell<Option<ResponseFuture>>,
    sent: Instant,
    answered: Cell<bool>,
}

impl StreamClaim {
    pub(super) fn new(state: Rc<State>) -> Self {
        state.guard.set_active(state.guard.active() + 1);
        let place = Some(Place { state: state.clone() });
        Self { state, place, stream: RefCell::default(), sent: Instant::now(), answered: Cell::new(false) }
    }

    /// The stream itself, which is awaited through here.
    pub(super) fn hold(&self, stream: ResponseFuture) {
        self.stream.replace(Some(stream));
    }

    /// Awaits the response's head.
    pub(super) fn poll_response(
        &self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<http::Response<h2::RecvStream>, h2::Error>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => std::pin::Pin::new(stream).poll(context),
            None => std::task::Poll::Pending,
        }
    }

    /// The response has begun.
    pub(super) fn answered(&self) {
        self.answered.set(true);
        self.state.heard.set(Some(Instant::now()));
    }

    /// The response has ended, or the endpoint has ended the stream: there is nothing to reset.
    pub(super) fn ended(&self) {
        self.stream.replace(None);
    }
}

impl Drop for StreamClaim {
    fn drop(&mut self) {
        // Given up on, and no other request was answered since it was sent: the other end may be gone without a word. What follows goes
        // over another connection.
        let heard = self.state.heard.get().is_some_and(|heard| heard > self.sent);
        if !self.answered.get() && !heard && self.sent.elapsed() > SILENCE {
            self.state.closed.set(true);
        }
        if let (Some(stream), Some(place)) = (self.stream.take(), self.place.take()) {
            self.state.farewells.give_up(stream, place);
        }
    }
}

/// Resets at once on one connection: what the strictest guards of common servers let pass.
const MOST_RESETS: u32 = 20;
const RESETS_PER_SECOND: u32 = 20;
/// A request that was given up after so long says something about its connection.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(1);
