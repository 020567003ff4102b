//! When the next request is due.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Hands out turns until the time is over.
pub(super) struct Pace {
    begin: Instant,
    end: Instant,
    arrivals: Option<Arrivals>,
}

/// Evenly spaced turns, whether or not there is somebody to take them.
struct Arrivals {
    interval: Duration,
    total: u32,
    taken: Cell<u32>,
    due: Arc<Semaphore>,
}

impl Pace {
    /// `rate` turns a second, or as many as are asked for.
    pub(super) fn start(length: Duration, rate: Option<u32>) -> Self {
        let begin = Instant::now();
        let arrivals = rate.map(|rate| {
            let interval = Duration::from_secs(1) / rate;
            let total = (length.as_secs_f64() * f64::from(rate)) as u32;
            let due = Arc::new(Semaphore::new(0));
            let clock = due.clone();
            // The runtime's timers tick in milliseconds and would send six requests at once: a thread sleeps more exactly.
            std::thread::spawn(move || tick(&clock, begin, interval, total));
            Arrivals { interval, total, taken: Cell::new(0), due }
        });
        Self { begin, end: begin + length, arrivals }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begin
    }

    /// Waits for the next turn and says when it was due; `None` when there are no more. Turns that nobody was free for stay due: their
    /// waiting counts as latency.
    pub(super) async fn turn(&self) -> Option<Instant> {
        let Some(arrivals) = &self.arrivals else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        let turn = arrivals.taken.get();
        if turn >= arrivals.total {
            return None;
        }
        arrivals.taken.set(turn + 1);
        arrivals.due.acquire().await.ok()?.forget();
        Some(self.begin + arrivals.interval * turn)
    }
}

fn tick(due: &Semaphore, begin: Instant, interval: Duration, total: u32) {
    for turn in 0..total {
        let wait = (begin + interval * turn).saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        due.add_permits(1);
    }
}
