//! The machine: which processors there are, and how to keep a program on one of them.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// The processors in use.
pub(crate) struct Machine {
    /// The proxy's, then the load's and the origin's. None: programs run where they like.
    processors: Option<[u32; 2]>,
}

/// What a reader of the figures wants to know.
#[derive(Serialize)]
pub(crate) struct Description {
    processor: String,
    kernel: String,
    pinned: bool,
    /// Tasks that wanted to run in the minute before the end; two of them are ours.
    load_average: String,
}

impl Machine {
    pub(crate) fn look() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("measuring needs Linux's /proc")?;
        let list =
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let allowed = processors(list);
        let can_pin = answer("taskset", &["--version"]).is_some();
        let pair = allowed.first_chunk::<2>().copied().filter(|_| can_pin);
        if pair.is_none() {
            eprintln!("warning: not pinned (needs two processors and the program taskset): expect noise");
        }
        Ok(Self { processors: pair })
    }

    /// A program on the proxy's processor.
    pub(crate) fn beside_nobody(&self, program: impl AsRef<OsStr>) -> Command {
        self.on(0, program)
    }

    /// A program on the processor of load and origin.
    pub(crate) fn aside(&self, program: impl AsRef<OsStr>) -> Command {
        self.on(1, program)
    }

    /// `taskset` becomes the program: its process id stays.
    fn on(&self, index: usize, program: impl AsRef<OsStr>) -> Command {
        let Some(processors) = self.processors else { return Command::new(program) };
        let mut command = Command::new("taskset");
        command.arg("-c").arg(processors[index].to_string()).arg(program);
        command
    }

    pub(crate) fn describe(&self) -> Description {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Description {
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            pinned: self.processors.is_some(),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// As many descriptors as this process and its children may have at all; says how many that is.
pub(super) fn raise_file_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it fails, what is there has to do.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a program prints, on either stream; `None` if it does not run.
pub(crate) fn answer(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    output.status.success().then(|| String::from_utf8_lossy(&text).trim().to_owned())
}

pub(crate) fn today() -> String {
    answer("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default()
}

/// `0-2,5` → 0, 1, 2, 5.
fn processors(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_of_processors() {
        assert_eq!(super::processors("\t0-2,5\n"), [0, 1, 2, 5]);
        assert!(super::processors("").is_empty());
    }
}
