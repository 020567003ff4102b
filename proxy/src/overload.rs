//! When memory gets scarce: first what is not needed is given up, then new work is refused, before the kernel kills.
//!
//! The control thread compares what is used with the ceiling a few times a second ([`run`]); what follows from it stands in one byte
//! that everybody reads ([`Watch`]). Each action begins at its own share of the ceiling and ends some way below it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::drain::Drain;
use crate::settings::{MemoryBound, Size, Thresholds};

mod heap;
mod meter;

use meter::Meter;

/// Something that is done while memory is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Action {
    /// Idle connections and spare buffers are given up, free memory goes back to the system.
    Shrink = 1,
    /// HTTP/1.1 connections end with their response.
    DisableKeepAlive = 2,
    /// New requests are refused.
    StopRequests = 4,
    /// New connections are refused.
    StopConnections = 8,
}

impl Action {
    /// Every action, under Envoy's name for it.
    pub(crate) const ALL: [(Action, &'static str); 4] = [
        (Self::Shrink, "shrink_heap"),
        (Self::DisableKeepAlive, "disable_http_keepalive"),
        (Self::StopRequests, "stop_accepting_requests"),
        (Self::StopConnections, "stop_accepting_connections"),
    ];

    fn threshold(self, thresholds: &Thresholds) -> Option<f64> {
        match self {
            Self::Shrink => thresholds.shrink,
            Self::DisableKeepAlive => thresholds.disable_keep_alive,
            Self::StopRequests => thresholds.stop_requests,
            Self::StopConnections => thresholds.stop_connections,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// The actions in force, as bits.
    active: AtomicU8,
    used: AtomicU64,
    ceiling: AtomicU64,
    failed_samples: AtomicU64,
}

/// Sees what is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
}

impl Watch {
    /// Whether an action is in force. One relaxed load: this stands on the way of every request.
    pub(crate) fn is(&self, action: Action) -> bool {
        self.shared.active.load(Ordering::Relaxed) & action as u8 != 0
    }

    /// Whether new requests are refused.
    pub(crate) fn refuses_requests(&self) -> bool {
        self.is(Action::StopRequests)
    }

    /// Whether new connections are refused.
    pub(crate) fn refuses_connections(&self) -> bool {
        self.is(Action::StopConnections)
    }

    /// How it stands.
    pub(crate) fn report(&self) -> Report {
        let shared = &self.shared;
        Report {
            used: shared.used.load(Ordering::Relaxed),
            ceiling: shared.ceiling.load(Ordering::Relaxed),
            failed_samples: shared.failed_samples.load(Ordering::Relaxed),
        }
    }

    fn apply(&self, active: u8) {
        self.shared.active.store(active, Ordering::Relaxed);
    }
}

/// Memory and its ceiling, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Used at the last look.
    pub(crate) used: u64,
    /// 0 without a ceiling.
    pub(crate) ceiling: u64,
    /// Looks that told nothing.
    pub(crate) failed_samples: u64,
}

impl Report {
    /// What is used, in percent of the ceiling.
    pub(crate) fn percent(&self) -> u64 {
        self.used.saturating_mul(100).checked_div(self.ceiling).unwrap_or(0)
    }

    /// For people: `96 % of 128 MiB`.
    pub(crate) fn words(&self) -> String {
        format!("{} % of {}", self.percent(), Size(self.ceiling))
    }
}

/// Which actions are in force, by what was seen. Pure: neither clock nor kernel.
#[derive(Clone, Copy, Debug)]
struct Decision {
    thresholds: Thresholds,
    active: u8,
}

impl Decision {
    /// Looks at the share of the ceiling that is used; the actions in force from now on.
    fn see(&mut self, share: f64) -> u8 {
        for (action, _) in Action::ALL {
            let Some(threshold) = action.threshold(&self.thresholds) else { continue };
            if share >= threshold {
                self.active |= action as u8;
            } else if share < threshold - HYSTERESIS {
                self.active &= !(action as u8);
            }
        }
        self.active
    }
}

/// Keeps memory under the ceiling until dropped. On the control thread.
pub(crate) async fn run(bound: MemoryBound, watch: Watch, drain: Rc<Drain>) {
    let ceiling = bound.ceiling.bytes;
    let mut meter = match Meter::new(bound.ceiling.account) {
        Ok(meter) => meter,
        Err(error) => return tracing::warn!("no ceiling on memory: it cannot be measured: {error}"),
    };
    watch.shared.ceiling.store(ceiling, Ordering::Relaxed);
    tracing::info!("memory ceiling: {}", Size(ceiling));
    let mut keeper = Keeper {
        decision: Decision { thresholds: bound.thresholds, active: 0 },
        watch,
        drain,
        released: Instant::now(),
    };
    let mut ticks = tokio::time::interval(CALM);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match meter.used() {
            Ok(used) => keeper.see(used, ceiling),
            // Nothing is known: what was decided stands.
            Err(_) => drop(keeper.watch.shared.failed_samples.fetch_add(1, Ordering::Relaxed)),
        }
        // Near the ceiling, a tenth of a second is long.
        let pause = if keeper.decision.active == 0 { CALM } else { ALERT };
        ticks.reset_after(pause);
    }
}

struct Keeper {
    decision: Decision,
    watch: Watch,
    drain: Rc<Drain>,
    /// When free memory was given back last.
    released: Instant,
}

impl Keeper {
    fn see(&mut self, used: u64, ceiling: u64) {
        self.watch.shared.used.store(used, Ordering::Relaxed);
        let before = self.decision.active;
        let active = self.decision.see(used as f64 / ceiling as f64);
        if active != before {
            self.watch.apply(active);
            self.drain.press(active & Action::Shrink as u8 != 0);
            self.tell(before, active);
        }
        // Once more after the last action has ended: what ended it may have freed more.
        let due = active & Action::Shrink as u8 != 0 || (active == 0 && before != 0);
        if due && (active != before || self.released.elapsed() >= RELEASE_AGAIN) {
            heap::release();
            self.released = Instant::now();
        }
    }

    fn tell(&self, before: u8, active: u8) {
        let words = self.watch.report().words();
        let refusing = Action::StopRequests as u8 | Action::StopConnections as u8;
        if active & refusing & !before != 0 {
            tracing::warn!("overloaded: {words} of memory are used; new work is refused");
        } else if before & refusing != 0 && active & refusing == 0 {
            tracing::warn!("no longer overloaded: {words} of memory are used");
        } else if before == 0 {
            tracing::warn!("memory gets scarce: {words} are used; what is not needed is given up");
        } else if active == 0 {
            tracing::info!("memory is at ease again: {words} are used");
        }
    }
}

/// How far below its threshold an action ends, as a share of the ceiling.
const HYSTERESIS: f64 = 0.03;
/// How often is looked.
const CALM: Duration = Duration::from_millis(100);
const ALERT: Duration = Duration::from_millis(20);
/// How often free memory is given back while it is scarce.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        shrink: Some(0.85),
        disable_keep_alive: None,
        stop_requests: Some(0.92),
        stop_connections: Some(0.92),
    };

    #[test]
    fn actions_begin_at_their_threshold_and_end_below_it() {
        let mut decision = Decision { thresholds: THRESHOLDS, active: 0 };
        let (shrink, refuse) = (1, 4 | 8);
        let steps = [
            (0.50, 0),
            (0.84, 0),
            (0.85, shrink),
            (0.93, shrink | refuse),
            (0.90, shrink | refuse),
            (0.88, shrink),
            (0.83, shrink),
            (0.81, 0),
            (1.20, shrink | refuse),
            (0.10, 0),
        ];
        for (share, expected) in steps {
            assert_eq!(decision.see(share), expected, "at {share}");
        }
    }

    #[test]
    fn a_report_is_for_people() {
        let report = Report { used: 123 << 20, ceiling: 128 << 20, failed_samples: 0 };
        assert_eq!(report.words(), "96 % of 128 MiB");
        assert_eq!(Report::default().percent(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_ceiling_is_seen_and_told() {
        let watch = Watch::default();
        let drain = Rc::new(Drain::new(Duration::ZERO));
        let ceiling = crate::settings::Ceiling { bytes: 1, account: crate::settings::Account::Process };
        let bound = MemoryBound { ceiling, thresholds: THRESHOLDS };
        let mut pressed = drain.watch();
        let running = run(bound, watch.clone(), drain.clone());
        tokio::select! {
            () = running => panic!("it ended"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        assert!(
            watch.is(Action::Shrink)
                && watch.refuses_requests()
                && watch.refuses_connections()
                && !watch.is(Action::DisableKeepAlive)
        );
        assert!(watch.report().used > 0);
        let asked = tokio::time::timeout(Duration::from_secs(1), pressed.unwelcome()).await;
        assert!(asked.is_ok(), "idle connections are asked to end");
    }
}
