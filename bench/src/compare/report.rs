//! The figures: one sample for each run, one row for each workload and proxy, and how they are shown.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::machine::Description;
use crate::load::Report;
use crate::workload::{WORKLOADS, Workload};

/// One run of one workload through one proxy.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    /// By the origin's count
    requests: u64,
    /// Microseconds of the proxy's processor time for each of them
    cpu: f64,
    /// Why the figure means nothing
    invalid: Option<String>,
    /// The rate was not held: the proxy, or the machine, was too slow. The figure is of a workload between this and the saturated one.
    late: bool,
    load: Report,
}

impl Sample {
    pub(crate) fn new(
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
        Self { requests, cpu: spent as f64 / 1e3 / requests.max(1) as f64, invalid, late, load }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, load, late, .. } = self;
        let rate = load.ok as f64 / load.seconds;
        write!(
            f,
            "{cpu:7.2} µs CPU, {rate:7.0}/s, latency median {} p99 {} µs",
            load.latency_median, load.latency_p99
        )?;
        if *late {
            write!(f, "  (late: the rate was not held)")?;
        }
        self.invalid.iter().try_for_each(|why| write!(f, "  INVALID: {why}"))
    }
}

/// One proxy on one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    workload: &'static str,
    peer: &'static str,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(workload: &Workload, peer: &'static str) -> Self {
        Self { workload: workload.name, peer, samples: Vec::new() }
    }

    fn cpu(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.cpu))
    }

    fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.load.errors).sum()
    }

    fn invalid(&self) -> Option<&str> {
        self.samples.iter().find_map(|sample| sample.invalid.as_deref())
    }
}

/// Resident memory before the first request and after the last.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) peer: String,
    pub(crate) version: String,
    pub(crate) idle_kib: u64,
    pub(crate) after_kib: u64,
}

/// Everything measured.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) date: String,
    pub(crate) machine: Description,
    pub(crate) quick: bool,
    pub(crate) rows: Vec<Row>,
    pub(crate) memory: Vec<Memory>,
}

impl Outcome {
    pub(crate) fn is_valid(&self) -> bool {
        self.rows.iter().all(|row| row.invalid().is_none())
    }

    /// This row's price over that of a peer on the same workload: the median of the rounds' ratios, so that what slows a whole round
    /// down cancels out.
    fn ratio(&self, row: &Row, peer: &str) -> String {
        let other = self.rows.iter().find(|other| other.workload == row.workload && other.peer == peer);
        let Some(other) = other.filter(|other| other.invalid().is_none() && row.invalid().is_none()) else {
            return "–".to_owned();
        };
        let rounds = row.samples.iter().zip(&other.samples);
        format!("{:.2}", median(rounds.map(|(own, other)| own.cpu / other.cpu)))
    }
}

impl fmt::Display for Outcome {
    /// As Markdown, for `bench/README.md`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}, {}\n", self.date, if self.quick { "quick" } else { "full" })?;
        writeln!(f, "| workload | proxy | µs CPU per request | / envoy | / haproxy | requests/s | errors |")?;
        writeln!(f, "|---|---|--:|--:|--:|--:|--:|")?;
        for row in &self.rows {
            let rate = median(row.samples.iter().map(|sample| sample.load.ok as f64 / sample.load.seconds));
            let (envoy, haproxy) = (self.ratio(row, "envoy"), self.ratio(row, "haproxy"));
            let cpu =
                row.invalid().map_or_else(|| format!("{:.1}", row.cpu()), |why| format!("INVALID ({why})"));
            let Row { workload, peer, .. } = row;
            writeln!(
                f,
                "| {workload} | {peer} | {cpu} | {envoy} | {haproxy} | {rate:.0} | {} |",
                row.errors()
            )?;
        }
        writeln!(f, "\n| proxy | version | RSS idle, MiB | RSS after, MiB |\n|---|---|--:|--:|")?;
        for memory in &self.memory {
            let [idle, after] = [memory.idle_kib, memory.after_kib].map(|kib| kib as f64 / 1024.0);
            writeln!(f, "| {} | {} | {idle:.1} | {after:.1} |", memory.peer, memory.version)?;
        }
        writeln!(f)?;
        for workload in
            WORKLOADS.iter().filter(|known| self.rows.iter().any(|row| row.workload == known.name))
        {
            writeln!(f, "{}: {}", workload.name, workload.what)?;
        }
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(requests: u64, ok: u64, errors: u64) -> Sample {
        let load = Report { ok, errors, first_error: None, seconds: 1.0, latency_median: 1, latency_p99: 2 };
        Sample::new(requests, 20_000_000, load, &WORKLOADS[0], Duration::from_secs(1))
    }

    #[test]
    fn a_sample_counts_only_when_both_ends_agree() {
        assert!(sample(1_000, 1_000, 0).invalid.is_none());
        assert!((sample(1_000, 1_000, 0).cpu - 20.0).abs() < 1e-9);
        assert!(sample(1_001, 1_000, 0).invalid.is_some());
        assert!(sample(1_000, 1_000, 1).invalid.is_some());
        assert!(sample(0, 0, 0).invalid.is_some());
    }

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median(std::iter::empty()).is_nan());
    }
}
