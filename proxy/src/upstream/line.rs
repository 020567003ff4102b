//! Who waits for a connection, what is there for whoever comes next, and how many are on their way. No IO, and no notion of what a
//! connection is.
//!
//! A connection that is on its way belongs to nobody: the first in the line gets the first that comes, and what nobody waits for any more
//! when it comes is kept. So a request that gives up takes no work with it, and the next one finds that work done or under way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::{Notify, oneshot};

/// What is waited for.
pub(super) trait Item {
    /// Whether it has served nobody yet. Who has just met one that had ended between two requests takes only such.
    fn is_new(&self) -> bool;
}

/// The line in front of one pool: first come, first served.
#[derive(Debug)]
pub(super) struct Line<T, E> {
    /// Idle, the most recently used last. Nobody waits for these but who refuses them.
    idle: RefCell<Vec<T>>,
    /// Those who wait, by ascending number.
    waiting: RefCell<VecDeque<Waiting<T, E>>>,
    next: Cell<u64>,
    /// Attempts on their way, whoever caused them.
    attempts: Cell<u32>,
    /// Nobody comes here any more. Kept, what comes back would keep its pool, and the pool it, for ever.
    closed: Cell<bool>,
    closing: Notify,
}

/// One who waits.
#[derive(Debug)]
struct Waiting<T, E> {
    number: u64,
    /// Takes a new one only.
    fresh: bool,
    teller: Teller<T, E>,
}

/// By which one who waits is told what has come, or why nothing does.
type Teller<T, E> = oneshot::Sender<Result<T, E>>;

impl<T, E> Default for Line<T, E> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::new(0),
            attempts: Cell::new(0),
            closed: Cell::new(false),
            closing: Notify::new(),
        }
    }
}

impl<T: Item, E: Clone> Line<T, E> {
    /// The most recently used idle one.
    pub(super) fn take_idle(&self) -> Option<T> {
        self.idle.borrow_mut().pop()
    }

    /// All idle ones, to be looked through; what is still good comes back by [`Self::put_back`].
    pub(super) fn take_all_idle(&self) -> Vec<T> {
        std::mem::take(&mut *self.idle.borrow_mut())
    }

    pub(super) fn put_back(&self, kept: Vec<T>) {
        self.idle.borrow_mut().extend(kept);
    }

    pub(super) fn has_idle(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    /// Waits behind all who wait already; `fresh`: for a new one only.
    pub(super) fn join(&self, fresh: bool) -> Turn<'_, T, E> {
        let number = self.next.replace(self.next.get() + 1);
        let (teller, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiting { number, fresh, teller });
        Turn { line: self, number, receiver }
    }

    /// To the first who waits and takes it, or else among the idle ones.
    pub(super) fn give(&self, mut item: T) {
        while let Some(first) = self.pop_for(item.is_new()) {
            match first.send(Ok(item)) {
                Ok(()) => return,
                Err(Ok(back)) => item = back,
                Err(Err(_)) => return,
            }
        }
        if !self.closed.get() {
            self.idle.borrow_mut().push(item);
        }
    }

    fn pop(&self) -> Option<Teller<T, E>> {
        self.waiting.borrow_mut().pop_front().map(|waiting| waiting.teller)
    }

    fn pop_for(&self, new: bool) -> Option<Teller<T, E>> {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting.iter().position(|waiting| new || !waiting.fresh)?;
        waiting.remove(first).map(|waiting| waiting.teller)
    }

    /// Whether somebody waits.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Attempts on their way.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    /// Whether somebody waits for whom nothing is on its way: attempts that others have left behind count.
    pub(super) fn needs_attempt(&self) -> bool {
        (self.attempts.get() as usize) < self.waiting.borrow().len()
    }

    /// An attempt begins.
    pub(super) fn begin(&self) {
        self.attempts.set(self.attempts.get() + 1);
    }

    /// An attempt has ended, in whatever way. Comes before [`Self::give`] and [`Self::fail`].
    pub(super) fn end(&self) {
        self.attempts.set(self.attempts.get().saturating_sub(1));
    }

    /// An attempt has come to nothing. It is the failure of the first in the line, unless for each who waits another attempt is on its way.
    /// Where none of the pool's connections stands, nobody keeps waiting but for an attempt.
    pub(super) fn fail(&self, error: &E, standing: bool) {
        let waiting = self.waiting.borrow().len();
        let uncovered = waiting.saturating_sub(self.attempts.get() as usize);
        let failing = if standing { uncovered.min(1) } else { uncovered };
        for _ in 0..failing {
            // Who has left meanwhile is told nothing.
            let _ = self.pop().map(|first| first.send(Err(error.clone())));
        }
    }

    /// Sends away who waits, to look elsewhere, and lets attempts end. What is idle goes.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let idle = self.take_all_idle();
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        self.closing.notify_waiters();
        drop((idle, waiting));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Until nobody comes here any more.
    pub(super) async fn closed(&self) {
        let closing = self.closing.notified();
        if !self.closed.get() {
            closing.await;
        }
    }
}

/// A place in a line, given up on drop.
#[derive(Debug)]
pub(super) struct Turn<'a, T: Item, E: Clone> {
    line: &'a Line<T, E>,
    number: u64,
    receiver: oneshot::Receiver<Result<T, E>>,
}

impl<T: Item, E: Clone> Turn<'_, T, E> {
    /// Until something is there, or an attempt has failed; `None` when the line was closed. Nothing is lost when this is dropped.
    pub(super) async fn come(&mut self) -> Result<Option<T>, E> {
        match (&mut self.receiver).await {
            Ok(word) => word.map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl<T: Item, E: Clone> Drop for Turn<'_, T, E> {
    fn drop(&mut self) {
        self.receiver.close();
        // What was meant for who leaves now is the next one's.
        if let Ok(Ok(item)) = self.receiver.try_recv() {
            self.line.give(item);
            return;
        }
        let mut waiting = self.line.waiting.borrow_mut();
        if let Ok(place) = waiting.binary_search_by_key(&self.number, |waiting| waiting.number) {
            waiting.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Numbers = Line<u32, &'static str>;

    impl Item for u32 {
        fn is_new(&self) -> bool {
            *self >= 100
        }
    }

    fn look(turn: &mut Turn<'_, u32, &'static str>) -> Poll<Result<Option<u32>, &'static str>> {
        std::pin::pin!(turn.come()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_first_in_the_line_gets_what_comes_first() {
        let line = Numbers::default();
        let (mut first, mut second) = (line.join(false), line.join(false));
        line.give(1);
        assert_eq!(look(&mut second), Poll::Pending);
        assert_eq!(look(&mut first), Poll::Ready(Ok(Some(1))));
        line.give(2);
        assert_eq!(look(&mut second), Poll::Ready(Ok(Some(2))));
        drop((first, second));
        assert!(!line.has_idle());
        line.give(3);
        assert_eq!(line.take_idle(), Some(3), "for whoever comes");
    }

    #[test]
    fn who_has_met_an_ended_one_takes_only_a_new_one() {
        let line = Numbers::default();
        let (mut fresh, mut any) = (line.join(true), line.join(false));
        line.give(1);
        assert_eq!(look(&mut any), Poll::Ready(Ok(Some(1))), "the first who takes it");
        line.give(2);
        assert_eq!((look(&mut fresh), line.take_idle()), (Poll::Pending, Some(2)));
        line.give(100);
        assert_eq!(look(&mut fresh), Poll::Ready(Ok(Some(100))));
    }

    #[test]
    fn who_leaves_passes_on_what_was_meant_for_him() {
        let line = Numbers::default();
        let (first, mut second, third) = (line.join(false), line.join(false), line.join(false));
        line.give(1);
        drop(first);
        assert_eq!(look(&mut second), Poll::Ready(Ok(Some(1))));
        drop(third);
        line.give(2);
        assert_eq!(line.take_idle(), Some(2), "nobody was left");
    }

    #[test]
    fn attempts_of_those_who_left_serve_those_who_come() {
        let line = Numbers::default();
        let mut begun = 0;
        for _ in 0..100 {
            let _one = line.join(false);
            let _another = line.join(false);
            while line.needs_attempt() {
                line.begin();
                begun += 1;
            }
        }
        assert_eq!((begun, line.attempts()), (2, 2), "as many as ever waited at once");
        line.end();
        line.give(1);
        assert_eq!(line.take_idle(), Some(1));
        let _one = line.join(false);
        assert!(!line.needs_attempt(), "the other one is still on its way");
    }

    #[test]
    fn a_failed_attempt_is_the_failure_of_one() {
        let line = Numbers::default();
        let (mut first, mut second) = (line.join(false), line.join(false));
        for _ in 0..3 {
            line.begin();
        }
        line.end();
        line.fail(&"refused", false);
        assert_eq!(
            (look(&mut first), look(&mut second)),
            (Poll::Pending, Poll::Pending),
            "two are on their way"
        );
        line.end();
        line.fail(&"refused", false);
        assert_eq!(look(&mut first), Poll::Ready(Err("refused")));
        assert_eq!(look(&mut second), Poll::Pending);
        line.end();
        line.fail(&"late", false);
        assert_eq!(look(&mut second), Poll::Ready(Err("late")));
    }

    #[test]
    fn who_could_only_wait_in_vain_fails_with_the_attempt() {
        let line = Numbers::default();
        let mut turns: Vec<_> = (0..4).map(|_| line.join(false)).collect();
        line.begin();
        line.begin();
        line.end();
        line.fail(&"refused", true);
        let mut pending = |count: usize| {
            let pending = turns.iter_mut().skip(4 - count).all(|turn| look(turn).is_pending());
            assert!(pending, "{count} wait for a connection that stands, or for an attempt");
        };
        pending(3);
        line.fail(&"refused", false);
        pending(1);
        line.end();
        line.fail(&"refused", false);
        assert_eq!(look(&mut turns[3]), Poll::Ready(Err("refused")));
    }

    #[tokio::test]
    async fn a_closed_line_keeps_nothing() {
        let line = Numbers::default();
        line.give(1);
        let mut turn = line.join(false);
        let closed = line.closed();
        line.close();
        assert_eq!(look(&mut turn), Poll::Ready(Ok(None)));
        closed.await;
        line.closed().await;
        line.give(2);
        assert!(!line.has_idle() && line.is_closed());
    }
}
