//! What happens when: the demo's script, scaled to its duration. Pure.

use std::fmt;
use std::time::Duration;

/// One thing that the demo does while traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Gives version 2 this many percent, by editing the weights in canary.yaml.
    Canary(u32),
    /// Raises the rate limit: a change that has nothing to do with the split.
    RateLimit,
    /// Changes how proxies choose among the Pods of `reviews`.
    Balancing,
    /// Kills one `reviews` Pod, the app first and its sidecar a moment later, and tells nobody.
    LosePod,
    /// Removes the lost Pod's file.
    RemovePod,
    /// Adds the replacement's file, not ready yet, and starts its processes.
    AddPod,
    /// Marks the replacement ready.
    AdmitPod,
    /// Kills the control plane and starts it again.
    RestartControlPlane,
    /// Speaks to every sidecar without TLS, and to one as somebody whom policy does not let.
    Intrude,
    /// Gives the whole mesh another root of trust.
    RotateRoot,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Canary(percent) => write!(formatter, "move the canary to {percent} %"),
            Action::RateLimit => formatter.write_str("edit the rate limit"),
            Action::Balancing => formatter.write_str("edit the load balancing"),
            Action::LosePod => formatter.write_str("kill one reviews endpoint"),
            Action::RemovePod => formatter.write_str("remove the lost endpoint"),
            Action::AddPod => formatter.write_str("start a replacement"),
            Action::AdmitPod => formatter.write_str("mark the replacement ready"),
            Action::RestartControlPlane => formatter.write_str("kill and restart the control plane"),
            Action::Intrude => formatter.write_str("try plaintext, and a forbidden call"),
            Action::RotateRoot => formatter.write_str("exchange the root of trust"),
        }
    }
}

/// One action and its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Since traffic began.
    pub(super) at: Duration,
    /// What to do.
    pub(super) action: Action,
}

/// The steps of a demo of this length, in order.
pub(super) fn steps(duration: Duration) -> Vec<Step> {
    SCRIPT.iter().map(|&(percent, action)| Step { at: duration * percent / 100, action }).collect()
}

/// How long to wait before the second blow of an action that has two.
pub(super) fn pause(duration: Duration) -> Duration {
    (duration / 50).clamp(Duration::from_millis(200), Duration::from_secs(2))
}

/// The share of version 2 before the first edit: what canary.yaml says.
pub(super) const FIRST_CANARY: u32 = 10;

/// The moments are percents of the duration.
const SCRIPT: [(u32, Action); 11] = [
    (5, Action::Intrude),
    (10, Action::RateLimit),
    (22, Action::Canary(50)),
    // While every proxy is there: a certificate whose holder is gone is waited for until it expires.
    (28, Action::RotateRoot),
    (34, Action::LosePod),
    (40, Action::RemovePod),
    (46, Action::AddPod),
    (52, Action::AdmitPod),
    (60, Action::RestartControlPlane),
    (72, Action::Balancing),
    (80, Action::Canary(100)),
];

/// Reads `--duration`: `60s`, `2m`, `1500ms`, `1h`, or bare seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis_each = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("`{unit}` is not a unit: write 60s, 2m or 1h")),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number and a unit: 60s, 2m or 1h".to_owned())?;
    let duration = Duration::from_millis(number.saturating_mul(millis_each));
    if (SHORTEST..=LONGEST).contains(&duration) {
        return Ok(duration);
    }
    Err("between 10s and 24h: every step of the script needs its moment".to_owned())
}

const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_holds_at_least_six_swaps_in_order() {
        let steps = steps(Duration::from_secs(60));
        let edits = |step: &&Step| {
            !matches!(
                step.action,
                Action::LosePod | Action::RestartControlPlane | Action::Intrude | Action::RotateRoot
            )
        };
        assert!(steps.iter().filter(edits).count() >= 6);
        assert!(steps.is_sorted_by_key(|step| step.at));
        assert!(steps.iter().all(|step| step.at < Duration::from_secs(60)));
    }

    #[test]
    fn the_script_scales_with_the_duration() {
        let (short, long) = (steps(Duration::from_secs(10)), steps(Duration::from_secs(100)));
        assert!(short.iter().zip(&long).all(|(short, long)| short.at * 10 == long.at));
    }

    #[test]
    fn the_canary_ends_at_everything() {
        let steps = steps(Duration::from_secs(60));
        let last = steps.iter().rev().find(|step| matches!(step.action, Action::Canary(_)));
        assert_eq!(last.map(|step| step.action), Some(Action::Canary(100)));
    }

    #[test]
    fn durations_as_people_write_them() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("15000ms"), Ok(Duration::from_secs(15)));
        for wrong in ["", "s", "9s", "-60s", "60 parsecs", "1e3s", "99999999999999999999s", "25h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
