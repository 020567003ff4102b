//! How much memory this process may use, and by which account: its own, or its cgroup's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::cgroup::{self, Version, read};

/// The bound that memory is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Bytes.
    pub bytes: u64,
    /// What is held against it.
    pub account: Account,
}

/// Whose memory is held against the ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// This process' own anonymous memory.
    Process,
    /// All that a cgroup is charged with, less what the kernel can take back: at its limit, the kernel kills.
    Cgroup {
        /// The file with the bytes charged.
        usage: PathBuf,
        /// `memory.stat`.
        stat: PathBuf,
        /// The lines of `stat` that count what can be taken back.
        reclaimable: &'static [&'static str],
    },
}

/// `--memory-ceiling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// So many bytes of this process' own.
    Bytes(u64),
    /// So much of the cgroup's limit, or of the machine's memory when there is none.
    Percent(f64),
    /// No ceiling.
    Off,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a size such as 256MiB, a share such as 80%, or `off` is needed".to_owned();
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
        let (number, shift) = (number.parse::<u64>().map_err(|_| wrong())?, shift.ok_or_else(wrong)?.1);
        let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
        if bytes < LEAST {
            return Err(format!("{text} is less than the {} that a proxy needs", Size(LEAST)));
        }
        Ok(Self::Bytes(bytes))
    }
}

/// The ceiling that was asked for; by default the cgroup's limit, and none without one.
pub(super) fn ceiling(wish: Option<Wish>) -> Option<Ceiling> {
    let limit = || group(&cgroup::own(), Path::new(cgroup::MOUNT));
    match wish {
        Some(Wish::Off) => None,
        Some(Wish::Bytes(bytes)) => Some(Ceiling { bytes, account: Account::Process }),
        Some(Wish::Percent(percent)) => {
            let machine = || Some(Ceiling { bytes: machine()?, account: Account::Process });
            let whole = limit().or_else(machine)?;
            Some(Ceiling { bytes: share(whole.bytes, percent), ..whole })
        }
        None => limit(),
    }
}

/// The least limit among the cgroups that this process is in, with that group's account.
fn group(cgroups: &str, mount: &Path) -> Option<Ceiling> {
    let limits = cgroup::groups(cgroups, mount, "memory").into_iter().filter_map(|group| {
        let (limit, usage, reclaimable): (_, _, &[_]) = match group.version {
            Version::V1 => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                &["total_inactive_file", "total_active_file"],
            ),
            Version::V2 => {
                ("memory.max", "memory.current", &["inactive_file", "active_file", "slab_reclaimable"])
            }
        };
        // Version 2 says `max` where there is no limit, version 1 a number larger than any machine.
        let bytes: u64 =
            group.read(limit).trim().parse().ok().filter(|bytes| (LEAST..MOST).contains(bytes))?;
        let (usage, stat) = (group.folder.join(usage), group.folder.join("memory.stat"));
        Some(Ceiling { bytes, account: Account::Cgroup { usage, stat, reclaimable } })
    });
    limits.min_by_key(|ceiling| ceiling.bytes)
}

/// All memory of this machine.
fn machine() -> Option<u64> {
    let text = read(Path::new("/proc/meminfo"));
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a `u64`, positive and not larger"
)]
fn share(bytes: u64, percent: f64) -> u64 {
    (bytes as f64 * percent / 100.0) as u64
}

/// Bytes as people say them.
#[derive(Clone, Copy, Debug)]
pub struct Size(
    /// Bytes.
    pub u64,
);

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            bytes if bytes >= 10 << 30 => ("GiB", 30),
            bytes if bytes >= 1 << 20 => ("MiB", 20),
            _ => ("KiB", 10),
        };
        write!(formatter, "{} {unit}", self.0 >> shift)
    }
}

const UNITS: [(&str, u32); 10] = [
    ("", 0),
    ("b", 0),
    ("k", 10),
    ("ki", 10),
    ("kib", 10),
    ("m", 20),
    ("mi", 20),
    ("mib", 20),
    ("gi", 30),
    ("gib", 30),
];

/// Below this a ceiling is a mistake: the program alone needs as much.
const LEAST: u64 = 16 << 20;
/// Limits above it are none.
const MOST: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::tree;
    use super::*;

    #[test]
    fn sizes_shares_and_off() {
        let read = |text: &str| text.parse::<Wish>();
        assert_eq!(read("67108864"), Ok(Wish::Bytes(64 << 20)));
        assert_eq!(read("64MiB"), Ok(Wish::Bytes(64 << 20)));
        assert_eq!(read("64 mib"), Ok(Wish::Bytes(64 << 20)));
        assert_eq!(read("2Gi"), Ok(Wish::Bytes(2 << 30)));
        assert_eq!(read("80%"), Ok(Wish::Percent(80.0)));
        assert_eq!(read("off"), Ok(Wish::Off));
        for wrong in ["", "MiB", "-1", "0%", "101%", "64 apples", "99999999999GiB", "1MiB", "NaN%"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Size(128 << 20).to_string(), "128 MiB");
        assert_eq!(Size(3 << 30).to_string(), "3072 MiB");
        assert_eq!(Size(64 << 30).to_string(), "64 GiB");
    }

    #[test]
    fn the_least_limit_on_the_way_up_is_the_ceiling() {
        let root = tree(&[
            ("memory.max", "max\n"),
            ("pod/memory.max", "268435456\n"),
            ("pod/app/memory.max", "max\n"),
        ]);
        let ceiling = group("0::/pod/app\n", root.path()).unwrap();
        assert_eq!(ceiling.bytes, 256 << 20);
        let Account::Cgroup { usage, .. } = ceiling.account else { panic!("no cgroup") };
        assert_eq!(usage, root.path().join("pod/memory.current"));
        assert_eq!(group("0::/\n", root.path()), None);
    }

    #[test]
    fn version_1_has_its_own_names_and_a_number_for_no_limit() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/0123/memory.limit_in_bytes", "134217728\n"),
        ]);
        let ceiling = group("4:memory:/docker/0123\n0::/\n", root.path()).unwrap();
        assert_eq!(ceiling.bytes, 128 << 20);
        let Account::Cgroup { usage, .. } = ceiling.account else { panic!("no cgroup") };
        assert_eq!(usage, root.path().join("memory/docker/0123/memory.usage_in_bytes"));
        assert_eq!(group("4:memory:/\n", root.path()), None);
    }

    #[test]
    fn a_share_without_a_limit_is_one_of_the_machine() {
        let whole = machine().unwrap();
        let half = ceiling(Some(Wish::Percent(50.0))).unwrap();
        assert!(half.bytes <= whole / 2);
        assert_eq!(ceiling(Some(Wish::Off)), None);
    }
}
