//! What a process takes of the machine, as the kernel tells.

use std::fs;

/// Memory, descriptors and threads of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Anonymous resident memory, bytes.
    pub memory: u64,
    /// The most that was ever resident, files included, bytes.
    pub peak: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Of a running process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
        };
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
        Self {
            memory: number("RssAnon:") * 1024,
            peak: number("VmHWM:") * 1024,
            descriptors,
            threads: number("Threads:"),
        }
    }

    /// Processor time that a process has used so far, in seconds.
    ///
    /// # Panics
    /// When it does not run.
    pub fn seconds(process: u32) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = fields.split(' ').skip(11).take(2).filter_map(|text| text.parse::<u32>().ok());
        f64::from(ticks.sum::<u32>()) / 100.0
    }
}

/// So many MiB.
pub const fn mebibytes(count: u64) -> u64 {
    count << 20
}
