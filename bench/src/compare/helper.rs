//! This program's other two halves, as children on the load's processor: the origin, which stays, and one load after another.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::machine::Machine;
use crate::load::Report;
use crate::origin::{Addresses, Counts};
use crate::workload::{Protocol, Workload};

/// The running origin.
pub(crate) struct Origin {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    addresses: Addresses,
}

impl Origin {
    pub(crate) fn start(machine: &Machine) -> anyhow::Result<Self> {
        let mut command = machine.aside(std::env::current_exe()?);
        let mut child = command
            .arg("origin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the origin")?;
        let questions = child.stdin.take().context("the origin has no standard input")?;
        let mut answers = BufReader::new(child.stdout.take().context("the origin has no standard output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let addresses = serde_json::from_str(&line).context("the origin does not say where it listens")?;
        Ok(Self { child, questions, answers, addresses })
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How much it has answered since it started.
    pub(crate) fn count(&mut self, protocol: Protocol) -> anyhow::Result<u64> {
        self.questions.write_all(b"\n").context("the origin is gone")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let counts: Counts =
            serde_json::from_str(&line).context("the origin does not say how much it answered")?;
        Ok(counts.get(&protocol).copied().unwrap_or(0))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one workload against an address, to its end.
pub(crate) fn send(
    workload: &Workload,
    target: SocketAddr,
    length: Duration,
    machine: &Machine,
) -> anyhow::Result<Report> {
    let mut command = machine.aside(std::env::current_exe()?);
    command.args(["load", "--protocol", protocol_flag(workload.protocol), "--target", &target.to_string()]);
    command.args([
        "--connections",
        &workload.connections.to_string(),
        "--streams",
        &workload.streams.to_string(),
    ]);
    command.args(["--seconds", &length.as_secs_f64().to_string()]);
    if let Some(rate) = workload.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start the load")?;
    if !output.status.success() {
        bail!("the load ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the load does not say what came of it")
}

fn protocol_flag(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}
