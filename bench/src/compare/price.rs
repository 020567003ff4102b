//! What a request costs: each workload through each proxy in turns.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::helper;
use super::kind::Event;
use super::peer::Peer;
use super::rig::{Rig, Support};
use crate::lane::Lane;
use crate::load::Report;
use crate::workload::{Plan, Unit, Workload};

/// One run of one workload through one proxy.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    /// By the origin's count
    pub(super) requests: u64,
    /// The proxy's processor time for each unit of the workload: microseconds, for bytes nanoseconds
    pub(super) cpu: f64,
    /// Why the figure means nothing
    pub(super) invalid: Option<String>,
    /// The rate was not held: the proxy, or the machine, was too slow. The figure is of a workload between this and the saturated one.
    pub(super) late: bool,
    pub(super) load: Report,
}

impl Sample {
    pub(super) fn new(
        requests: u64,
        spent: u64,
        load: Report,
        workload: &Workload,
        length: Duration,
    ) -> Self {
        let invalid = if load.errors > 0 {
            Some(format!("{} errors, first: {}", load.errors, load.first_error.as_deref().unwrap_or("?")))
        } else if requests != load.ok {
            Some(format!("the origin answered {requests} requests, the load has {} answers", load.ok))
        } else if requests == 0 {
            Some("nothing was answered".to_owned())
        } else {
            None
        };
        let late = workload.rate.is_some() && load.seconds > 1.1 * length.as_secs_f64();
        let each = spent as f64 / requests.max(1) as f64;
        let cpu = match workload.unit {
            Unit::Request | Unit::Connection => each / 1e3,
            Unit::Byte => each / workload.bytes as f64,
        };
        Self { requests, cpu, invalid, late, load }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, load, late, .. } = self;
        let rate = load.ok as f64 / load.seconds;
        let (median, p99) = (load.latency_median, load.latency_p99);
        write!(f, "{cpu:8.3} CPU, {rate:7.0}/s, latency median {median} p99 {p99} µs")?;
        if *late {
            write!(f, "  (late: the rate was not held)")?;
        }
        self.invalid.iter().try_for_each(|why| write!(f, "  INVALID: {why}"))
    }
}

/// One proxy on one workload.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) workload: &'static str,
    pub(super) peer: &'static str,
    pub(super) unit: Unit,
    /// In the program's own words, where it does not do that work
    pub(super) unsupported: Option<String>,
    pub(super) samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(workload: &Workload, peer: &'static str) -> Self {
        let Workload { name, unit, .. } = *workload;
        Self { workload: name, peer, unit, unsupported: None, samples: Vec::new() }
    }
}

/// One workload through every proxy, round by round: what disturbs the machine disturbs them all. Each round begins with
/// another proxy.
pub(super) fn in_turns(
    workload: &Workload,
    plan: Plan,
    peers: &[(Peer, &Support)],
    rig: &mut Rig,
) -> anyhow::Result<Vec<Row>> {
    eprintln!("{}: {}", workload.name, workload.what);
    let invited: Vec<&(Peer, &Support)> =
        peers.iter().filter(|(peer, _)| peer.kind.joins(Event::Price(workload))).collect();
    let mut rows: Vec<Row> = invited.iter().map(|(peer, _)| Row::new(workload, peer.kind.name)).collect();
    let mut able = Vec::new();
    for (index, (peer, support)) in invited.iter().enumerate() {
        rows[index].unsupported = match support.refused.get(&workload.lane) {
            Some(why) => Some(why.clone()),
            None => open_to_strangers(workload, peer, rig)?,
        };
        match &rows[index].unsupported {
            Some(why) => eprintln!("  {:<14} not supported: {why}", peer.kind.name),
            None => able.push(index),
        }
    }
    for index in &able {
        sample(workload, WARM_UP, &invited[*index].0, rig)?;
    }
    for round in 0..plan.rounds as usize {
        for turn in 0..able.len() {
            let index = able[(round + turn) % able.len()];
            let sample = sample(workload, plan.round, &invited[index].0, rig)?;
            eprintln!("  {:<14} {sample}", rows[index].peer);
            rows[index].samples.push(sample);
        }
    }
    Ok(rows)
}

/// Mutual TLS that anybody gets through is not what is priced.
fn open_to_strangers(workload: &Workload, peer: &Peer, rig: &Rig) -> anyhow::Result<Option<String>> {
    let Some(target) = peer.address(workload.lane).filter(|_| workload.lane == Lane::TlsDown) else {
        return Ok(None);
    };
    let flags = [
        ("ask", "fresh".to_owned()),
        ("target", target.to_string()),
        ("bytes", workload.bytes.to_string()),
        ("connections", "1".to_owned()),
        ("seconds", "0.05".to_owned()),
        ("certificates", rig.certificates.folder().display().to_string()),
        ("anonymous", "true".to_owned()),
    ];
    let mut load = rig.helper("load", &flags)?;
    let _: String = load.say()?;
    load.go()?;
    let report: Report = load.say()?;
    let open = report.ok > 0 || report.errors == 0;
    Ok(open.then(|| "it lets clients in that show no certificate".to_owned()))
}

/// What one run of a workload cost the proxy.
fn sample(workload: &Workload, length: Duration, peer: &Peer, rig: &mut Rig) -> anyhow::Result<Sample> {
    let target = peer.address(workload.lane).context("the proxy does not speak that")?;
    let service = workload.lane.service();
    let requests_before = rig.origin.count(service)?;
    let mut load = helper::load(workload, target, length, &rig.machine, &rig.certificates)?;
    std::thread::sleep(SETTLE);
    let spent_before = peer.spent()?;
    load.go()?;
    let load: Report = load.say().context("the load does not say what came of it")?;
    std::thread::sleep(SETTLE);
    let spent = peer.spent()?.saturating_sub(spent_before);
    let requests = rig.origin.count(service)? - requests_before;
    Ok(Sample::new(requests, spent, load, workload, length))
}

/// Fills pools and caches; its figures are not used.
const WARM_UP: Duration = Duration::from_millis(700);
/// Until the proxy has opened and closed what the load did.
const SETTLE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    fn sample(requests: u64, ok: u64, errors: u64, workload: &Workload) -> Sample {
        let (latency_median, latency_p99, latency_max) = (1, 2, 3);
        let load =
            Report { ok, errors, first_error: None, seconds: 1.0, latency_median, latency_p99, latency_max };
        Sample::new(requests, 20_000_000, load, workload, Duration::from_secs(1))
    }

    #[test]
    fn a_sample_counts_only_when_both_ends_agree() {
        let small = &WORKLOADS[0];
        assert!(sample(1_000, 1_000, 0, small).invalid.is_none());
        assert!((sample(1_000, 1_000, 0, small).cpu - 20.0).abs() < 1e-9);
        assert!(sample(1_001, 1_000, 0, small).invalid.is_some());
        assert!(sample(1_000, 1_000, 1, small).invalid.is_some());
        assert!(sample(0, 0, 0, small).invalid.is_some());
    }

    #[test]
    fn bulk_is_priced_by_the_byte() {
        let bulk = WORKLOADS.iter().find(|workload| workload.unit == Unit::Byte).unwrap();
        let nanoseconds = 20_000_000.0 / (2 * bulk.bytes) as f64;
        assert!((sample(2, 2, 0, bulk).cpu - nanoseconds).abs() < 1e-9);
    }
}
