//! The demo's children: started with a log file each, watched, signalled, and gone when the demo is gone.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

use super::guard::Guard;

/// All children by name.
#[derive(Debug)]
pub(super) struct Processes {
    program: PathBuf,
    logs: PathBuf,
    guard: Guard,
    running: BTreeMap<String, Process>,
    deaths: mpsc::Sender<Death>,
}

#[derive(Debug)]
struct Process {
    id: u32,
    /// Set before the demo itself ends the process; read by the task that waits for its end.
    expected: Arc<AtomicBool>,
    gone: watch::Receiver<bool>,
}

/// A child that ended although nobody asked it to.
#[derive(Clone, Debug)]
pub(super) struct Death {
    /// The child.
    pub(super) name: String,
    /// How it ended.
    pub(super) status: String,
}

impl Processes {
    /// Prepares to start children of this program; each writes to a file in `logs`.
    pub(super) fn new(logs: PathBuf) -> Result<(Self, mpsc::Receiver<Death>), ProcessError> {
        let failed =
            |error: std::io::Error| ProcessError { name: "the demo".to_owned(), reason: error.to_string() };
        let program = std::env::current_exe().map_err(failed)?;
        std::fs::create_dir(&logs).map_err(failed)?;
        let guard = Guard::start(&program).map_err(failed)?;
        let (deaths, died) = mpsc::channel(DEATHS_HELD);
        Ok((Self { program, logs, guard, running: BTreeMap::new(), deaths }, died))
    }

    /// Starts `sidegate <arguments>` under a name that is not in use.
    pub(super) fn start(&mut self, name: &str, arguments: &[String]) -> Result<(), ProcessError> {
        let failed =
            |error: std::io::Error| ProcessError { name: name.to_owned(), reason: error.to_string() };
        let log = self.open_log(name).map_err(failed)?;
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for the demo; it tells the children itself.
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let id = child.id().ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        self.guard.add(id).map_err(failed)?;
        let expected = Arc::new(AtomicBool::new(false));
        let (gone_tx, gone) = watch::channel(false);
        let (deaths, name_of_child, was_expected) =
            (self.deaths.clone(), name.to_owned(), Arc::clone(&expected));
        tokio::spawn(async move {
            let status = child.wait().await;
            gone_tx.send_replace(true);
            if !was_expected.load(Ordering::Acquire) {
                let status = status.map_or_else(|error| error.to_string(), |status| describe(&status));
                // Full or closed: an earlier death ends the demo already.
                let _told = deaths.try_send(Death { name: name_of_child, status });
            }
        });
        self.running.insert(name.to_owned(), Process { id, expected, gone });
        Ok(())
    }

    /// The process id of a child.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.running.get(name).map(|process| process.id)
    }

    /// Kills a child as a crash would, and waits until it is gone.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), ProcessError> {
        let missing = || ProcessError { name: name.to_owned(), reason: "it does not run".to_owned() };
        let mut process = self.running.remove(name).ok_or_else(missing)?;
        process.signal(Signal::KILL);
        process.gone().await;
        // A guard that is gone cannot be told, and need not be.
        let _told = self.guard.remove(process.id);
        Ok(())
    }

    /// Ends every child: asks, waits a little, kills.
    pub(super) async fn stop_all(&mut self) {
        for process in self.running.values() {
            process.signal(Signal::TERM);
        }
        let all_gone = async {
            for process in self.running.values_mut() {
                process.gone().await;
            }
        };
        if tokio::time::timeout(GRACE, all_gone).await.is_err() {
            for process in self.running.values_mut() {
                process.signal(Signal::KILL);
                process.gone().await;
            }
        }
        for (_name, process) in std::mem::take(&mut self.running) {
            let _told = self.guard.remove(process.id);
        }
    }

    /// The folder of the log files.
    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The last lines that a child wrote.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
        };
        tail().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn open_log(&self, name: &str) -> std::io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.log_path(name))
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        self.expected.store(true, Ordering::Release);
        if let Some(group) = i32::try_from(self.id).ok().and_then(Pid::from_raw) {
            // Fails only when the process is gone already.
            let _gone = kill_process_group(group, signal);
        }
    }

    async fn gone(&mut self) {
        // An error means that the waiting task is gone, and the child with it.
        let _gone = self.gone.wait_for(|gone| *gone).await;
    }
}

fn describe(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A child that cannot be started or is not there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub(super) struct ProcessError {
    /// The child.
    pub(super) name: String,
    /// What the system says.
    pub(super) reason: String,
}

const DEATHS_HELD: usize = 32;
/// Nothing is worth draining when the demo ends: a proxy would go on accepting for seconds.
const GRACE: Duration = Duration::from_millis(500);
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 15;
