//! How much memory is used, by one of two accounts. Cheap enough for ten looks a second: files are opened once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::settings::Account;

/// What is held against the ceiling.
#[derive(Debug)]
pub(super) enum Meter {
    /// `/proc/self/status`.
    Process(File),
    /// A cgroup's charge, and what of it can be taken back.
    Cgroup { usage: File, stat: File, reclaimable: &'static [&'static str] },
}

impl Meter {
    /// Opens what is to be read.
    pub(super) fn new(account: Account) -> io::Result<Self> {
        Ok(match account {
            Account::Process => Self::Process(File::open("/proc/self/status")?),
            Account::Cgroup { usage, stat, reclaimable } => {
                Self::Cgroup { usage: File::open(usage)?, stat: File::open(stat)?, reclaimable }
            }
        })
    }

    /// Bytes used now.
    pub(super) fn used(&mut self) -> io::Result<u64> {
        let mut buffer = [0; BUFFER];
        let used = match self {
            Self::Process(status) => anonymous(read(status, &mut buffer)?),
            Self::Cgroup { usage, stat, reclaimable } => {
                let used: Option<u64> = read(usage, &mut buffer)?.trim().parse().ok();
                let free = sum(read(stat, &mut buffer)?, reclaimable);
                used.map(|used| used.saturating_sub(free))
            }
        };
        used.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// What files back is not what the kernel kills for.
fn anonymous(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn sum(stat: &str, names: &[&str]) -> u64 {
    let fields = stat.lines().filter_map(|line| line.split_once(' '));
    let wanted = fields.filter(|(name, _)| names.contains(name));
    wanted.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

fn read<'a>(file: &File, buffer: &'a mut [u8; BUFFER]) -> io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    std::str::from_utf8(&buffer[..length]).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `memory.stat` has some 50 lines.
const BUFFER: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_grows_with_it() {
        let mut meter = Meter::new(Account::Process).unwrap();
        let before = meter.used().unwrap();
        let large = vec![1_u8; 32 << 20];
        let after = meter.used().unwrap();
        assert!(large.iter().all(|byte| *byte == 1) && after > before + (24 << 20), "{before} → {after}");
    }

    #[test]
    fn a_cgroup_is_charged_less_what_can_be_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (usage, stat) = (folder.path().join("memory.current"), folder.path().join("memory.stat"));
        std::fs::write(&usage, "1000000\n").unwrap();
        std::fs::write(&stat, "anon 5\nfile 7\ninactive_file 300000\nactive_file 200000\nslab 9\n").unwrap();
        let reclaimable = &["inactive_file", "active_file", "slab_reclaimable"];
        let mut meter = Meter::new(Account::Cgroup { usage: usage.clone(), stat, reclaimable }).unwrap();
        assert_eq!(meter.used().unwrap(), 500_000);
        std::fs::write(&usage, "2000000\n").unwrap();
        assert_eq!(meter.used().unwrap(), 1_500_000);
        std::fs::write(&usage, "nonsense\n").unwrap();
        assert!(meter.used().is_err());
    }
}
