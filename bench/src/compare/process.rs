//! What a process and its children have used, from the kernel's own accounts.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Nanoseconds of processor time, in user and kernel mode, of every thread of a process and its children.
pub(crate) fn spent(root: u32) -> anyhow::Result<u64> {
    let mut nanoseconds = 0;
    for process in tree(root) {
        for task in tasks(process) {
            // A thread that has just ended takes its account along.
            let Ok(text) = std::fs::read_to_string(task.join("schedstat")) else { continue };
            let first = text.split_ascii_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            nanoseconds += first.context("/proc/…/schedstat is not as expected")?;
        }
    }
    if nanoseconds == 0 {
        bail!("process {root} is gone, or the kernel keeps no schedstat");
    }
    Ok(nanoseconds)
}

/// Resident memory of a process and its children. Pages that they share count for each.
pub(crate) fn resident_kib(root: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for process in tree(root) {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))
            .with_context(|| format!("process {process} is gone"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        total += line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    }
    Ok(total)
}

fn tree(root: u32) -> Vec<u32> {
    let mut processes = vec![root];
    let mut next = 0;
    while let Some(process) = processes.get(next).copied() {
        for task in tasks(process) {
            let children = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            processes.extend(children.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        next += 1;
    }
    processes
}

fn tasks(process: u32) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
