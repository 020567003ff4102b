//! One thread's queues of bounds.
//!
//! Nearly every bound is lifted before it is reached, and the same few durations come again and again. So there is one queue for each
//! duration, in the order of the deadlines: to join is to be linked to its end, to leave is to be unlinked, whatever the length.
//! Only the first of all has a place in the runtime's timer, and when it leaves, that place stays as it is: the driver finds out when
//! it is woken, and looks at what is first then.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    static QUEUES: RefCell<Queues> = const { RefCell::new(Queues::new()) };
}

/// Wakes those whose time is up, for as long as the thread's runtime lives. Without it nobody can join.
pub(crate) async fn drive() {
    let _driven = Driven::new();
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut due = Vec::new();
    poll_fn(|context| {
        loop {
            let next = QUEUES.with_borrow_mut(|queues| queues.take_due(Instant::now(), context, &mut due));
            due.drain(..).for_each(Waker::wake);
            let Some(next) = next else { return Poll::<()>::Pending };
            sleep.as_mut().reset(next);
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// The driver's mark on its thread.
struct Driven;

impl Driven {
    fn new() -> Self {
        QUEUES.with_borrow_mut(|queues| queues.driven = true);
        Self
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        let driver = QUEUES.with_borrow_mut(|queues| {
            (queues.driven, queues.armed) = (false, None);
            queues.driver.take()
        });
        drop(driver);
    }
}

/// Joins the queue of that length; `None` when there is no driver, no queue to be had, or the deadline is far out of order.
pub(super) fn join(deadline: Instant, length: Duration, context: &Context<'_>) -> Option<Place> {
    let (index, driver) = QUEUES.with_borrow_mut(|queues| queues.join(deadline, length, context))?;
    if let Some(driver) = driver {
        driver.wake();
    }
    Some(Place { index })
}

/// A place in a queue, given up when dropped.
pub(super) struct Place {
    index: u32,
}

impl Place {
    /// Ready once the time has come.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let waiting = QUEUES.with_borrow_mut(|queues| {
            let waker = queues.at(self.index).waker.as_mut()?;
            let moved = !waker.will_wake(context.waker());
            Some(moved.then(|| std::mem::replace(waker, context.waker().clone())))
        });
        // The former waker goes outside of the borrow, as below.
        waiting.map_or(Poll::Ready(()), |_former| Poll::Pending)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Given back outside of the borrow: the last reference to a task may hang on it.
        let waker = QUEUES.with_borrow_mut(|queues| queues.leave(self.index));
        drop(waker);
    }
}

struct Queues {
    driven: bool,
    driver: Option<Waker>,
    /// When the driver wakes by itself.
    armed: Option<Instant>,
    queues: Vec<Queue>,
    waiters: Vec<Waiter>,
    /// The first of the unused waiters.
    free: u32,
}

struct Queue {
    length: Duration,
    first: u32,
    last: u32,
}

struct Waiter {
    deadline: Instant,
    /// Whom to wake; `None` once that is done.
    waker: Option<Waker>,
    queue: u32,
    previous: u32,
    next: u32,
}

/// No waiter.
const NONE: u32 = u32::MAX;
/// Durations that have a queue at one time.
const MOST_QUEUES: usize = 16;
/// How far from the end of its queue a deadline may belong.
const MOST_STEPS: usize = 32;

impl Queues {
    const fn new() -> Self {
        Self { driven: false, driver: None, armed: None, queues: Vec::new(), waiters: Vec::new(), free: NONE }
    }

    fn at(&mut self, index: u32) -> &mut Waiter {
        &mut self.waiters[index as usize]
    }

    /// Also returns the driver when it has to be told, since this comes before what it waits for.
    fn join(
        &mut self,
        deadline: Instant,
        length: Duration,
        context: &Context<'_>,
    ) -> Option<(u32, Option<Waker>)> {
        if !self.driven {
            return None;
        }
        let queue = self.queue(length)?;
        let previous = self.place(queue, deadline)?;
        let index = self.insert(Waiter {
            deadline,
            waker: Some(context.waker().clone()),
            queue: queue as u32,
            previous,
            next: NONE,
        });
        self.link(index);
        let early = self.armed.is_none_or(|armed| deadline < armed);
        Some((index, if early { self.driver.take() } else { None }))
    }

    /// The queue of that length; one that nobody is in may change its length.
    fn queue(&mut self, length: Duration) -> Option<usize> {
        let known = self.queues.iter().position(|queue| queue.length == length);
        if known.is_some() {
            return known;
        }
        if self.queues.len() < MOST_QUEUES {
            self.queues.push(Queue { length, first: NONE, last: NONE });
            return Some(self.queues.len() - 1);
        }
        let empty = self.queues.iter().position(|queue| queue.first == NONE)?;
        self.queues[empty].length = length;
        Some(empty)
    }

    /// Behind whom a deadline belongs.
    fn place(&self, queue: usize, deadline: Instant) -> Option<u32> {
        let mut previous = self.queues[queue].last;
        for _ in 0..MOST_STEPS {
            if previous == NONE || self.waiters[previous as usize].deadline <= deadline {
                return Some(previous);
            }
            previous = self.waiters[previous as usize].previous;
        }
        None
    }

    fn insert(&mut self, waiter: Waiter) -> u32 {
        if self.free == NONE {
            self.waiters.push(waiter);
            return self.waiters.len() as u32 - 1;
        }
        let index = self.free;
        self.free = self.at(index).next;
        *self.at(index) = waiter;
        index
    }

    /// Links a waiter behind its `previous`.
    fn link(&mut self, index: u32) {
        let (queue, previous) = (self.at(index).queue as usize, self.at(index).previous);
        let next = match previous {
            NONE => std::mem::replace(&mut self.queues[queue].first, index),
            previous => std::mem::replace(&mut self.at(previous).next, index),
        };
        self.at(index).next = next;
        match next {
            NONE => self.queues[queue].last = index,
            next => self.at(next).previous = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Waiter { queue, previous, next, .. } = *self.at(index);
        match previous {
            NONE => self.queues[queue as usize].first = next,
            previous => self.at(previous).next = next,
        }
        match next {
            NONE => self.queues[queue as usize].last = previous,
            next => self.at(next).previous = previous,
        }
    }

    fn leave(&mut self, index: u32) -> Option<Waker> {
        let waker = self.at(index).waker.take();
        // Who was woken is in no queue any more.
        if waker.is_some() {
            self.unlink(index);
        }
        self.at(index).next = std::mem::replace(&mut self.free, index);
        waker
    }

    /// Takes out those whose time is up; returns the first deadline of the others, and remembers that the driver waits for it.
    fn take_due(&mut self, now: Instant, context: &Context<'_>, due: &mut Vec<Waker>) -> Option<Instant> {
        self.driver = Some(context.waker().clone());
        self.armed = None;
        for queue in 0..self.queues.len() {
            loop {
                let first = self.queues[queue].first;
                if first == NONE {
                    break;
                }
                let deadline = self.at(first).deadline;
                if deadline > now {
                    self.armed = Some(self.armed.map_or(deadline, |armed| armed.min(deadline)));
                    break;
                }
                self.unlink(first);
                due.extend(self.at(first).waker.take());
            }
        }
        self.armed
    }
}
