//! Trials: what a fresh proxy does under strain. Each starts a proxy of its own, so that none inherits another's memory.

pub(super) mod exhaustion;
pub(super) mod flood;
pub(super) mod growth;
pub(super) mod idle;
pub(super) mod probe;

use std::fmt;

use super::kind::{Event, Kind};
use super::peer::Peer;
use super::rig::{Limits, Rig, Support};
use crate::lane::Lane;

/// A proxy and what it takes.
pub(super) type Contender = (Kind, Support);

/// What a trial found for each proxy.
pub(super) type Verdicts<T> = Vec<(&'static str, Verdict<T>)>;

/// What a trial found, or why there is nothing to be found.
pub(super) enum Verdict<T> {
    Found(T),
    /// The proxy does not do that
    Unsupported(String),
    /// It did not start, or did not survive
    Failed(String),
}

/// Puts each proxy that joins through one trial on one lane. One that does not take the lane, does not start or does not survive is a line
/// in the table, not the end of the run.
pub(super) fn each<T: fmt::Display>(
    contenders: &[Contender],
    event: Event<'_>,
    lane: Lane,
    limits: Limits,
    rig: &mut Rig,
    mut trial: impl FnMut(&Peer, &mut Rig) -> anyhow::Result<T>,
) -> Verdicts<T> {
    let mut verdicts = Vec::new();
    for (kind, support) in contenders.iter().filter(|(kind, _)| kind.joins(event)) {
        let verdict = match support.refused.get(&lane) {
            Some(why) => Verdict::Unsupported(why.clone()),
            None => match rig.start(kind, &[lane], limits).and_then(|peer| trial(&peer, rig)) {
                Ok(finding) => Verdict::Found(finding),
                Err(error) => Verdict::Failed(format!("{error:#}")),
            },
        };
        eprintln!("  {:<14} {verdict}", kind.name);
        verdicts.push((kind.name, verdict));
    }
    verdicts
}

impl<T: fmt::Display> fmt::Display for Verdict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(finding) => finding.fmt(f),
            Self::Unsupported(why) => write!(f, "not supported: {why}"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// Mebibytes.
pub(super) fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}
