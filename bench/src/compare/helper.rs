//! This program's other halves, as children on the load's processor: the origin, which stays, and one load after another.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;

use super::machine::Machine;
use crate::certificates::Certificates;
use crate::lane::{Lane, Service};
use crate::load::Report;
use crate::origin::{Addresses, Counts};
use crate::workload::Workload;

/// A child that says things in lines of JSON; it ends with its standard input, and is killed when it is forgotten.
pub(super) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    pub(super) fn start<I: Into<String>>(
        machine: &Machine,
        arguments: impl IntoIterator<Item = I>,
    ) -> anyhow::Result<Self> {
        let mut command = machine.aside(std::env::current_exe()?);
        command.args(arguments.into_iter().map(Into::into)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a helper")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a helper without standard output")?);
        Ok(Self { child, input, output })
    }

    /// The next thing it says; waits for it.
    pub(super) fn say<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("a helper ended early: {}", self.child.wait()?);
        }
        serde_json::from_str(&line).context("a helper says something unexpected")
    }

    /// Sends it the line it waits for.
    pub(super) fn go(&mut self) -> anyhow::Result<()> {
        Ok(self.input.as_mut().context("the helper was told to end")?.write_all(b"\n")?)
    }

    /// Tells it to end and waits until it has.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.input = None;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The running origin.
pub(super) struct Origin {
    helper: Helper,
    addresses: Addresses,
}

impl Origin {
    pub(super) fn start(machine: &Machine, certificates: &Certificates) -> anyhow::Result<Self> {
        let folder = certificates.folder().display().to_string();
        let mut helper = Helper::start(machine, ["origin".to_owned(), "--certificates".to_owned(), folder])?;
        let addresses = helper.say().context("the origin does not say where it listens")?;
        Ok(Self { helper, addresses })
    }

    pub(super) fn address(&self, service: Service) -> anyhow::Result<SocketAddr> {
        self.addresses.get(&service).copied().context("the origin does not serve that")
    }

    /// How much it has answered since it started.
    pub(super) fn count(&mut self, service: Service) -> anyhow::Result<u64> {
        self.helper.go().context("the origin is gone")?;
        let counts: Counts = self.helper.say().context("the origin does not say how much it answered")?;
        Ok(counts.get(&service).copied().unwrap_or(0))
    }
}

/// Starts one workload against an address and waits until its connections are open; it begins when it is told to, and says a [`Report`] at
/// its end.
pub(super) fn load(
    workload: &Workload,
    target: SocketAddr,
    length: Duration,
    machine: &Machine,
    certificates: &Certificates,
) -> anyhow::Result<Helper> {
    let ask = workload.ask.to_possible_value().context("an ask without a name")?;
    let mut arguments = vec!["load".to_owned()];
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("ask", ask.get_name().to_owned());
    flag("target", target.to_string());
    flag("bytes", workload.bytes.to_string());
    flag("connections", workload.connections.to_string());
    flag("streams", workload.streams.to_string());
    flag("seconds", length.as_secs_f64().to_string());
    if let Some(rate) = workload.rate {
        flag("rate", rate.to_string());
    }
    if workload.lane == Lane::TlsDown {
        flag("certificates", certificates.folder().display().to_string());
    }
    let mut load = Helper::start(machine, arguments)?;
    let _: String = load.say().context("the load does not get ready")?;
    Ok(load)
}

/// Runs one workload against an address, to its end.
pub(super) fn send(
    workload: &Workload,
    target: SocketAddr,
    length: Duration,
    machine: &Machine,
    certificates: &Certificates,
) -> anyhow::Result<Report> {
    let mut load = load(workload, target, length, machine, certificates)?;
    load.go()?;
    let report = load.say().context("the load does not say what came of it")?;
    load.end()?;
    Ok(report)
}
