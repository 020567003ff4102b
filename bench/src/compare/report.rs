//! Everything measured, and how it is shown.

use std::fmt;

use serde::Serialize;

use super::machine::Description;
use super::price::Row;
use super::table::Table;
use crate::workload::{Unit, WORKLOADS};

/// Resident memory before the first request and after the last.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) peer: &'static str,
    pub(super) version: String,
    pub(super) idle_kib: u64,
    pub(super) after_kib: u64,
}

/// Everything measured.
#[derive(Serialize)]
pub(super) struct Outcome {
    pub(super) date: String,
    pub(super) machine: Description,
    pub(super) quick: bool,
    pub(super) rows: Vec<Row>,
    pub(super) memory: Vec<Memory>,
    pub(super) trials: Vec<Table>,
}

impl Outcome {
    pub(super) fn is_valid(&self) -> bool {
        self.rows.iter().all(|row| row.invalid().is_none()) && self.trials.iter().all(Table::is_valid)
    }

    /// This row's price over that of a peer on the same workload: the median of the rounds' ratios, so that what slows a whole round
    /// down cancels out.
    fn ratio(&self, row: &Row, peer: &str) -> String {
        let other = self.rows.iter().find(|other| other.workload == row.workload && other.peer == peer);
        let Some(other) = other.filter(|other| other.counts() && row.counts()) else {
            return "–".to_owned();
        };
        let rounds = row.samples.iter().zip(&other.samples);
        format!("{:.2}", median(rounds.map(|(own, other)| own.cpu / other.cpu)))
    }

    fn prices(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| workload | proxy | CPU | / envoy | / haproxy | / haproxy-splice | rate | errors |")?;
        writeln!(f, "|---|---|--:|--:|--:|--:|--:|--:|")?;
        for row in &self.rows {
            let Row { workload, peer, .. } = row;
            let ratios = ["envoy", "haproxy", "haproxy-splice"].map(|peer| self.ratio(row, peer)).join(" | ");
            writeln!(
                f,
                "| {workload} | {peer} | {} | {ratios} | {} | {} |",
                row.cpu(),
                row.rate(),
                row.errors()
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    /// As Markdown, for `bench/README.md`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}, {}", self.date, if self.quick { "quick" } else { "full" })?;
        if !self.rows.is_empty() {
            writeln!(f)?;
            self.prices(f)?;
        }
        if !self.memory.is_empty() {
            writeln!(f, "\n| proxy | version | RSS idle, MiB | RSS after, MiB |\n|---|---|--:|--:|")?;
        }
        for memory in &self.memory {
            let [idle, after] = [memory.idle_kib, memory.after_kib].map(|kib| kib as f64 / 1024.0);
            writeln!(f, "| {} | {} | {idle:.1} | {after:.1} |", memory.peer, memory.version)?;
        }
        self.trials.iter().try_for_each(|table| table.fmt(f))?;
        writeln!(f)?;
        for workload in
            WORKLOADS.iter().filter(|known| self.rows.iter().any(|row| row.workload == known.name))
        {
            writeln!(f, "{}: {}", workload.name, workload.what)?;
        }
        Ok(())
    }
}

impl Row {
    /// Whether its figures mean something.
    fn counts(&self) -> bool {
        self.unsupported.is_none() && self.invalid().is_none()
    }

    fn cpu(&self) -> String {
        if let Some(why) = &self.unsupported {
            return format!("not supported: {why}");
        }
        if let Some(why) = self.invalid() {
            return format!("INVALID ({why})");
        }
        let cpu = median(self.samples.iter().map(|sample| sample.cpu));
        match self.unit {
            Unit::Request | Unit::Connection => format!("{cpu:.1} µs"),
            Unit::Byte => format!("{cpu:.3} ns/B"),
        }
    }

    fn rate(&self) -> String {
        if self.unsupported.is_some() {
            return "–".to_owned();
        }
        let rate = median(self.samples.iter().map(|sample| sample.load.ok as f64 / sample.load.seconds));
        format!("{rate:.0}/s")
    }

    fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.load.errors).sum()
    }

    fn invalid(&self) -> Option<&str> {
        self.samples.iter().find_map(|sample| sample.invalid.as_deref())
    }
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median(std::iter::empty()).is_nan());
    }
}
