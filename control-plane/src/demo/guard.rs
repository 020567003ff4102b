//! The last resort against orphans: a process that outlives the demo by a moment and takes the children with it.
//!
//! The demo tells it each child's process id through a pipe. However the demo ends, even by SIGKILL, the pipe closes,
//! and the guard kills what is left. The children need to know nothing of it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// The demo's end of the pipe. Dropping it closes the pipe.
#[derive(Debug)]
pub(super) struct Guard {
    pipe: ChildStdin,
    /// Kept so that the process is not forgotten; it ends by itself.
    _process: Child,
}

impl Guard {
    /// Starts the guard: this program as `sidegate demo --guard`.
    pub(super) fn start(program: &Path) -> std::io::Result<Self> {
        let mut process = Command::new(program)
            .args(["demo", GUARD_FLAG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C reaches the terminal's whole group; this one must not hear it.
            .spawn()?;
        let pipe = process.stdin.take().ok_or_else(|| std::io::Error::other("no pipe to the guard"))?;
        Ok(Self { pipe, _process: process })
    }

    /// A child lives from now on.
    pub(super) fn add(&mut self, process: u32) -> std::io::Result<()> {
        writeln!(self.pipe, "+{process}")
    }

    /// A child is gone, and its id may be given to a stranger.
    pub(super) fn remove(&mut self, process: u32) -> std::io::Result<()> {
        writeln!(self.pipe, "-{process}")
    }
}

/// The guard itself: returns when the demo is gone and nothing of it is left.
pub(super) fn serve() -> ExitCode {
    for process in left_over(BufReader::new(std::io::stdin())) {
        if let Some(group) = Pid::from_raw(process) {
            // Fails only when the child ended by itself in this moment.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
    ExitCode::SUCCESS
}

/// Reads the demo's messages to their end; what was added and not removed is left over.
fn left_over(messages: impl BufRead) -> BTreeSet<i32> {
    let mut processes = BTreeSet::new();
    for line in messages.lines().map_while(Result::ok) {
        let (sign, number) = line.split_at(line.len().min(1));
        match (sign, number.parse::<i32>()) {
            ("+", Ok(process)) if process > 1 => drop(processes.insert(process)),
            ("-", Ok(process)) => drop(processes.remove(&process)),
            _ => {}
        }
    }
    processes
}

const GUARD_FLAG: &str = "--guard";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_removed_is_left_over() {
        let messages = "+100\n+200\n-100\n+300\nnonsense\n\n+1\n+0\n+-5\n";
        assert_eq!(left_over(messages.as_bytes()), BTreeSet::from([200, 300]));
    }
}
