//! Bounds of time that cost nothing when nothing waits, and little when something does.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

mod queue;

pub(crate) use queue::drive;

/// The time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Awaits a future for at most `limit`; for ever when that is `None`. The clock starts when the future first has to wait.
///
/// The future is one that may be moved, so pin what is large where it stands: an `async fn` holds what it is given twice, and wrappers
/// in each other would double it each time.
pub(crate) fn within<F: Future + Unpin>(limit: Option<Duration>, future: F) -> Bounded<F> {
    Bounded { future, alarm: limit.map(Alarm::after) }
}

/// Awaits a future until `deadline`; for ever when that is `None`. See [`within`].
pub(crate) fn until<F: Future + Unpin>(deadline: Option<Instant>, future: F) -> Bounded<F> {
    let sleep = |deadline| Alarm { state: State::Own(Box::pin(tokio::time::sleep_until(deadline))) };
    Bounded { future, alarm: deadline.map(sleep) }
}

/// Awaits a future until `deadline`, which is `length` after something that happened; see [`Alarm::at`] and [`within`].
pub(crate) fn before<F: Future + Unpin>(deadline: Instant, length: Duration, future: F) -> Bounded<F> {
    Bounded { future, alarm: Some(Alarm::at(deadline, length)) }
}

/// A future with a bound of time.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Bounded<F> {
    future: F,
    /// `None`: nothing bounds it.
    alarm: Option<Alarm>,
}

impl<F: Future + Unpin> Future for Bounded<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = Pin::new(&mut self.future).poll(context) {
            return Poll::Ready(Ok(output));
        }
        match &mut self.alarm {
            Some(alarm) => alarm.poll(context).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    }
}

/// Goes off once. Not registered anywhere before it is first polled.
pub(crate) struct Alarm {
    state: State,
}

enum State {
    After(Duration),
    /// When, and the length that those who wait for the same bound have in common.
    At(Instant, Duration),
    Queued(queue::Place),
    /// Where no driver runs, or the durations are too many.
    Own(Pin<Box<Sleep>>),
}

impl Alarm {
    /// Goes off so long after it was first polled.
    pub(crate) fn after(length: Duration) -> Self {
        Self { state: State::After(length) }
    }

    /// Goes off at `deadline`. `length` is the bound that led to it: alarms of one bound share a queue, and those whose deadlines
    /// come in order join it at no cost.
    pub(crate) fn at(deadline: Instant, length: Duration) -> Self {
        Self { state: State::At(deadline, length) }
    }

    /// Ready once the time has come.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (deadline, length) = match &mut self.state {
            State::Queued(place) => return place.poll(context),
            State::Own(sleep) => return sleep.as_mut().poll(context),
            // What never ends has no deadline that could be told.
            State::After(length) => match Instant::now().checked_add(*length) {
                Some(deadline) => (deadline, *length),
                None => return Poll::Pending,
            },
            State::At(deadline, length) => (*deadline, *length),
        };
        match queue::join(deadline, length, context) {
            Some(place) => {
                self.state = State::Queued(place);
                Poll::Pending
            }
            None => {
                let mut sleep = Box::pin(tokio::time::sleep_until(deadline));
                let slept = sleep.as_mut().poll(context);
                self.state = State::Own(sleep);
                slept
            }
        }
    }

    /// Until the time has come.
    pub(crate) async fn wait(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

/// Until nothing has happened for `length`; `last` says when something last did.
pub(crate) async fn silence(length: Option<Duration>, last: impl Fn() -> Instant) {
    let mut alarm: Option<Alarm> = None;
    poll_fn(|context| {
        let Some(length) = length else { return Poll::Pending };
        loop {
            if let Some(alarm) = &mut alarm {
                ready!(alarm.poll(context));
            }
            // Looked at only when the alarm goes off: what happens in the meantime does not touch it.
            let Some(deadline) = last().checked_add(length) else { return Poll::Pending };
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            alarm = Some(Alarm::at(deadline, length));
        }
    })
    .await;
}

#[cfg(test)]
mod tests;
