//! Children: started from the programs beside this one, logged to files, ended with their value.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::sandbox::Sandbox;
use crate::wait;

/// A program of ours, built beside this one.
///
/// # Panics
/// When it was not built; says how to.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("the path of this program");
    // target/<profile>/deps/scenarios-<hash> → target/<profile>/<name>
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{name} was not found beside {}: run `cargo xtask test`, or `cargo build` first",
            here.display()
        )
    })
}

/// A running child. Killed when dropped; when the scenario has failed, the end of its log is printed first. No scenario passes over a
/// child that panicked.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program. What it writes goes to one file in the sandbox.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        sandbox: &Sandbox,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::spawn(sandbox, name, program, arguments, true)
    }

    /// As [`Process::start`]; its stdout is a pipe that nobody reads.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_unread<A: AsRef<OsStr>>(
        sandbox: &Sandbox,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::spawn(sandbox, name, program, arguments, false)
    }

    fn spawn<A: AsRef<OsStr>>(
        sandbox: &Sandbox,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        read: bool,
    ) -> Self {
        let log = sandbox.path().join(format!("{name}.log"));
        // Appended: a process that is started again goes on in the same file.
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(if read {
                Stdio::from(file.try_clone().expect("a second handle of the log"))
            } else {
                Stdio::piped()
            })
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
        Self { name: name.to_owned(), child, log }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its process number.
    ///
    /// # Panics
    /// When it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    /// KiB that it has in memory.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().expect("a resident size")
    }

    /// KiB of its own in memory: without the pages of files, which come and go with the machine's load.
    ///
    /// # Panics
    /// When it has ended.
    pub fn anonymous(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().expect("a resident size")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ctrl-C (SIGINT).
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Stops it in its tracks (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it at once (SIGKILL) and waits for that.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("{} has ended:\n{}", self.name, self.log()));
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} takes no signal: {error}", self.name));
    }

    /// Waits for its end, however long that takes: for what has a limit of its own.
    pub async fn wait(&mut self) -> ExitStatus {
        self.child.wait().await.expect("its exit status")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within the deadline.
    pub async fn ended(&mut self) -> ExitStatus {
        wait::within(&format!("the end of {}", self.name), self.child.wait()).await.expect("its exit status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            let ended = match self.child.try_wait() {
                Ok(Some(status)) => format!(" ({status})"),
                _ => String::new(),
            };
            eprintln!("--- {}{ended} wrote at last ---\n{}\n---", self.name, tail.join("\n"));
            return;
        }
        let log = self.log();
        let panic = log.lines().position(|line| line.contains(" panicked"));
        if let Some(line) = panic {
            let said: Vec<&str> = log.lines().skip(line).take(3).collect();
            panic!("{} panicked:\n{}", self.name, said.join("\n"));
        }
    }
}

/// How a program that ends by itself ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

/// Runs a program of ours to its end.
///
/// # Panics
/// When it cannot be started or does not end within the deadline.
pub async fn run<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Finished {
    let mut command = Command::new(program(name));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        wait::within(&format!("the end of {name}"), command.output()).await.expect("a started program");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Lines of a child's log that a failed scenario shows.
const TAIL: usize = 60;
