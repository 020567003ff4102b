//! How many worker threads by default: the CPUs that this process may run on, but no more than its cgroup pays for.
//!
//! The standard library rounds a quota of 1.5 CPUs down to one thread; half a CPU would stay unused, so here it is rounded up.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The default number of worker threads.
pub(super) fn available() -> NonZeroUsize {
    let allowed = allowed_cpus(&read(Path::new("/proc/self/status")))
        .or_else(|| std::thread::available_parallelism().ok().map(NonZeroUsize::get));
    let quota = quota(&read(Path::new("/proc/self/cgroup")), Path::new("/sys/fs/cgroup"));
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
    let mut least: Option<f64> = None;
    for line in cgroups.lines() {
        // `hierarchy:controllers:path`; version 2 has the hierarchy 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_v2 = hierarchy == "0" && controllers.is_empty();
        let has_cpu = controllers.split(',').any(|controller| controller == "cpu");
        if !is_v2 && !has_cpu {
            continue;
        }
        let root = if is_v2 { mount.to_owned() } else { v1_root(mount, controllers) };
        // In a container the path may be the host's, of which only the end, or nothing, is mounted: then the root is ours.
        let own = Path::new(if path.contains("..") { "" } else { path.trim_start_matches('/') });
        for group in own.ancestors().map(|ancestor| root.join(ancestor)) {
            let found = if is_v2 { quota_v2(&group) } else { quota_v1(&group) };
            least = match (least, found) {
                (Some(least), Some(found)) => Some(least.min(found)),
                (least, found) => least.or(found),
            };
        }
    }
    least
}

/// Version 1 mounts a controller under its own name or under all the names it shares a hierarchy with.
fn v1_root(mount: &Path, controllers: &str) -> PathBuf {
    let shared = mount.join(controllers);
    if shared.is_dir() { shared } else { mount.join("cpu") }
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn quota_v2(group: &Path) -> Option<f64> {
    let text = read(&group.join("cpu.max"));
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota, period)
}

/// `cpu.cfs_quota_us` is -1 without a quota.
fn quota_v1(group: &Path) -> Option<f64> {
    cpus(read(&group.join("cpu.cfs_quota_us")).trim(), read(&group.join("cpu.cfs_period_us")).trim())
}

fn cpus(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// A file that is not there says nothing.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

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
