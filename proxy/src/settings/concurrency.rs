//! How many worker threads by default: the CPUs that this process may run on, but no more than its cgroup pays for.
//!
//! The standard library rounds a quota of 1.5 CPUs down to one thread; half a CPU would stay unused, so here it is rounded up.

use std::num::NonZeroUsize;
use std::path::Path;

use super::cgroup::{self, Group, Version, read};

/// The default number of worker threads.
pub(super) fn available() -> NonZeroUsize {
    let allowed = allowed_cpus(&read(Path::new("/proc/self/status")))
        .or_else(|| std::thread::available_parallelism().ok().map(NonZeroUsize::get));
    let quota = quota(&cgroup::own(), Path::new(cgroup::MOUNT));
    threads(allowed, quota)
}

/// Both limits, the second in CPUs.
fn threads(allowed: Option<usize>, quota: Option<f64>) -> NonZeroUsize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and an `as` cast saturates"
    )]
    let paid = quota.map(|cpus| cpus.ceil() as usize);
    let least = [allowed, paid].into_iter().flatten().min().unwrap_or(1);
    NonZeroUsize::new(least).unwrap_or(NonZeroUsize::MIN)
}

/// Counts the CPUs in `Cpus_allowed_list: 0-3,8`.
fn allowed_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim()
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            Some(last.checked_sub(first)? + 1)
        })
        .sum()
}

/// The CPU quota of this process' cgroup, in CPUs: the least along the way up to the root.
fn quota(cgroups: &str, mount: &Path) -> Option<f64> {
    let quotas = cgroup::groups(cgroups, mount, "cpu").into_iter().filter_map(|group| match group.version {
        Version::V1 => quota_v1(&group),
        Version::V2 => quota_v2(&group),
    });
    quotas.reduce(f64::min)
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn quota_v2(group: &Group) -> Option<f64> {
    let text = group.read("cpu.max");
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota, period)
}

/// `cpu.cfs_quota_us` is -1 without a quota.
fn quota_v1(group: &Group) -> Option<f64> {
    cpus(group.read("cpu.cfs_quota_us").trim(), group.read("cpu.cfs_period_us").trim())
}

fn cpus(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::tree;
    use super::*;

    #[test]
    fn a_quota_is_rounded_up_and_never_exceeds_the_cpus() {
        assert_eq!(threads(Some(8), Some(1.5)).get(), 2);
        assert_eq!(threads(Some(1), Some(4.0)).get(), 1);
        assert_eq!(threads(Some(8), Some(0.1)).get(), 1);
        assert_eq!(threads(Some(8), None).get(), 8);
        assert_eq!(threads(None, None).get(), 1);
    }

    #[test]
    fn the_list_of_cpus_is_counted() {
        assert_eq!(allowed_cpus("Name:\tx\nCpus_allowed_list:\t0-3,8\n"), Some(5));
        assert_eq!(allowed_cpus("Cpus_allowed_list:\t7\n"), Some(1));
        assert_eq!(allowed_cpus("Cpus_allowed_list:\t\n"), None);
        assert_eq!(allowed_cpus("nothing"), None);
    }

    #[test]
    fn version_2_takes_the_least_on_the_way_up() {
        let root = tree(&[
            ("cpu.max", "max 100000\n"),
            ("pod/cpu.max", "50000 100000\n"),
            ("pod/app/cpu.max", "150000 100000\n"),
        ]);
        assert_eq!(quota("0::/pod/app\n", root.path()), Some(0.5));
        assert_eq!(quota("0::/\n", root.path()), None);
    }

    #[test]
    fn version_1_finds_its_controller_under_either_name() {
        let root = tree(&[
            ("cpu,cpuacct/app/cpu.cfs_quota_us", "250000\n"),
            ("cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(quota("4:memory:/app\n3:cpu,cpuacct:/app\n", root.path()), Some(2.5));
        let root = tree(&[("cpu/cpu.cfs_quota_us", "-1\n"), ("cpu/cpu.cfs_period_us", "100000\n")]);
        assert_eq!(quota("3:cpu,cpuacct:/docker/0123\n", root.path()), None);
    }

    #[test]
    fn there_is_always_one() {
        assert!(available().get() >= 1);
    }
}
