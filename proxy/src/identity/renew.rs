//! When to ask for a certificate, when to warn, and when it is over. Does no IO: the time and the dice are given.
//!
//! A certificate's life is measured on the wall's clock, since every peer measures it there; pauses between attempts are measured on the
//! steady one, so that a clock that is set back does not keep the proxy from asking.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) steady: Instant,
    pub(super) wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for a certificate. Nothing is asked until [`Renewal::issued`] or [`Renewal::failed`] has answered this.
    Ask,
    /// The certificate in force is over: take it away.
    Expire,
    /// Tell somebody that it will be over in so long, and that it could not be renewed.
    Warn(Duration),
    /// Nothing, for so long.
    Wait(Duration),
}

/// The certificate in force, and the next attempt to replace it.
#[derive(Debug)]
pub(super) struct Renewal {
    life: Option<Life>,
    /// No attempt before this.
    earliest: Instant,
    asking: bool,
    /// Attempts that failed since the last certificate.
    failures: u32,
    /// Certificates in a row of a root that is not the one that signs now.
    misplaced: u32,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    until: SystemTime,
    /// When to ask for the next one.
    renew_at: SystemTime,
    /// With less than this left, the next warning is due.
    warn_below: Duration,
}

impl Renewal {
    /// Without a certificate: asks at once.
    pub(super) fn new(now: Moment) -> Self {
        Self { life: None, earliest: now.steady, asking: false, failures: 0, misplaced: 0 }
    }

    /// What to do now. Call again after it is done.
    pub(super) fn step(&mut self, now: Moment) -> Step {
        if let Some(life) = &mut self.life {
            let left = life.until.duration_since(now.wall).unwrap_or_default();
            if left.is_zero() {
                self.life = None;
                return Step::Expire;
            }
            if left <= life.warn_below {
                // Again when half of it is gone.
                life.warn_below = left / 2;
                return Step::Warn(left);
            }
        }
        let due = self.life.is_none_or(|life| life.renew_at <= now.wall);
        if due && !self.asking && self.earliest <= now.steady {
            self.asking = true;
            return Step::Ask;
        }
        Step::Wait(self.wait(now))
    }

    fn wait(&self, now: Moment) -> Duration {
        let until = |at: SystemTime| at.duration_since(now.wall).unwrap_or_default();
        let mut waits = vec![LONGEST_WAIT];
        if let Some(life) = &self.life {
            waits.push(until(life.until));
            waits.push(until(life.until).saturating_sub(life.warn_below));
        }
        if !self.asking {
            let renewal = self.life.map_or(Duration::ZERO, |life| until(life.renew_at));
            waits.push(renewal.max(self.earliest.saturating_duration_since(now.steady)));
        }
        // Never nothing at all: whoever waits must not spin.
        waits.into_iter().min().unwrap_or(LONGEST_WAIT).max(SHORTEST_WAIT)
    }

    /// A certificate has come that is good until then. `roll` is uniform over 0..1, as everywhere here.
    pub(super) fn issued(&mut self, now: Moment, until: SystemTime, roll: f64) {
        let left = until.duration_since(now.wall).unwrap_or_default();
        // Half of its life, give or take a tenth: what was started together is not renewed together.
        let pause = (left / 2).mul_f64(0.9 + 0.2 * roll.clamp(0.0, 1.0));
        self.asking = false;
        self.failures = 0;
        self.earliest = now.steady + SHORTEST_PAUSE;
        self.life = Some(Life { until, renew_at: now.wall + pause, warn_below: left / 3 });
    }

    /// The attempt has failed.
    pub(super) fn failed(&mut self, now: Moment, roll: f64) {
        self.asking = false;
        let left = self.life.map(|life| life.until.duration_since(now.wall).unwrap_or_default());
        // With much time left there is no hurry; with little, the last attempts must not miss the end.
        let highest = left.map_or(HIGHEST_WITHOUT, |left| (left / 16).clamp(HIGHEST_AT_END, HIGHEST));
        let ceiling = LOWEST.saturating_mul(2 << self.failures.min(12)).min(highest).max(LOWEST);
        self.failures = self.failures.saturating_add(1);
        self.earliest = now.steady + LOWEST + (ceiling - LOWEST).mul_f64(roll.clamp(0.0, 1.0));
    }

    /// The certificate in force is of a root that is not the one that signs now: asks soon, and more and more seldom when that changes
    /// nothing.
    pub(super) fn misplaced(&mut self, now: Moment, roll: f64) {
        let Some(life) = &mut self.life else { return };
        if life.renew_at <= now.wall {
            // An attempt is due or to come: being told again must not put it off.
            return;
        }
        // However seldom: well before the end.
        let left = life.until.duration_since(now.wall).unwrap_or_default();
        let ceiling = SOON.saturating_mul(1 << self.misplaced.min(8)).min(HIGHEST).min(left / 4);
        // The first time anything from at once; later not before half of it.
        let pause = if self.misplaced == 0 {
            ceiling.mul_f64(roll.clamp(0.0, 1.0))
        } else {
            ceiling.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0).max(LOWEST)
        };
        self.misplaced = self.misplaced.saturating_add(1);
        life.renew_at = life.renew_at.min(now.wall);
        // Never sooner than after any certificate or failure: whoever is told one thing and the other in turn asks without haste too.
        self.earliest = self.earliest.max(now.steady + pause);
    }

    /// The certificate in force is of the root that signs now.
    pub(super) fn placed(&mut self) {
        self.misplaced = 0;
    }
}

/// How soon a certificate of an old root is replaced, at most.
const SOON: Duration = Duration::from_secs(3);

/// The first pause after a failure is at least this, and at most twice this.
const LOWEST: Duration = Duration::from_millis(200);

/// The longest pause while a certificate is in force.
const HIGHEST: Duration = Duration::from_secs(60);

/// The longest pause when its end is near.
const HIGHEST_AT_END: Duration = Duration::from_secs(1);

/// The longest pause without a certificate.
const HIGHEST_WITHOUT: Duration = Duration::from_secs(5);

/// Between two certificates, however short they live.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The wall's clock may be set: it is looked at again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

const SHORTEST_WAIT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
