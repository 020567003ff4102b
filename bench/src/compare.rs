//! The conductor: start everything, send each workload through each proxy in turns, add up, print.

mod configuration;
mod helper;
mod machine;
mod peer;
mod process;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::helper::{Origin, send};
use self::machine::Machine;
use self::peer::{Kind, Peer};
use self::report::{Memory, Outcome, Row, Sample};
use crate::workload::{FULL, Plan, QUICK, WORKLOADS, Workload};

/// Where the proxies are, and how long to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The program sidegate-proxy, a release build
    #[arg(long)]
    sidegate: PathBuf,
    /// The program envoy; left out without
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Three rounds of three seconds instead of seven of five
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name starts with this
    #[arg(long, default_value = "")]
    only: String,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Where the figures are kept
    #[arg(long, default_value = "bench/results/latest.json")]
    results: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Fails if a row is invalid: a proxy that errs, or answers what it did not forward, has no price.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let plan = if arguments.quick { QUICK } else { FULL };
    let outcome = measure(arguments, plan)?;
    let json = serde_json::to_string_pretty(&outcome)? + "\n";
    if let Some(folder) = arguments.results.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.results, &json)
        .with_context(|| format!("cannot write {}", arguments.results.display()))?;
    match arguments.output {
        Output::Table => print!("{outcome}"),
        Output::Json => print!("{json}"),
    }
    Ok(if outcome.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(arguments: &Arguments, plan: Plan) -> anyhow::Result<Outcome> {
    let machine = Machine::look()?;
    let folder = tempfile::tempdir().context("cannot make a folder for configurations")?;
    let mut origin = Origin::start(&machine)?;
    let mut peers = Vec::new();
    for kind in Kind::found(&arguments.sidegate, arguments.envoy.as_deref()) {
        eprintln!("starting {} ({})", kind.name(), kind.version());
        peers.push(Peer::start(kind, folder.path(), origin.addresses(), &machine)?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let idle: Vec<u64> = peers.iter().map(Peer::resident_kib).collect::<anyhow::Result<_>>()?;
    let mut rows = Vec::new();
    for workload in WORKLOADS.iter().filter(|workload| workload.name.starts_with(&arguments.only)) {
        rows.extend(in_turns(workload, plan, &peers, &mut origin, &machine)?);
    }
    let mut memory = Vec::new();
    for (peer, idle_kib) in peers.iter().zip(idle) {
        let name = peer.kind.name().to_owned();
        memory.push(Memory {
            peer: name,
            version: peer.kind.version(),
            idle_kib,
            after_kib: peer.resident_kib()?,
        });
    }
    Ok(Outcome { date: machine::today(), machine: machine.describe(), quick: arguments.quick, rows, memory })
}

/// One workload through every proxy, round by round: what disturbs the machine disturbs them all. Each round begins with
/// another proxy.
fn in_turns(
    workload: &Workload,
    plan: Plan,
    peers: &[Peer],
    origin: &mut Origin,
    machine: &Machine,
) -> anyhow::Result<Vec<Row>> {
    eprintln!("{}: {}", workload.name, workload.what);
    let able: Vec<&Peer> = peers.iter().filter(|peer| peer.address(workload.protocol).is_some()).collect();
    let mut rows: Vec<Row> = able.iter().map(|peer| Row::new(workload, peer.kind.name())).collect();
    for peer in &able {
        sample(workload, WARM_UP, peer, origin, machine)?;
    }
    for round in 0..plan.rounds as usize {
        for turn in 0..able.len() {
            let index = (round + turn) % able.len();
            rows[index].samples.push(sample(workload, plan.round, able[index], origin, machine)?);
        }
    }
    Ok(rows)
}

/// What one run of a workload cost the proxy.
fn sample(
    workload: &Workload,
    length: Duration,
    peer: &Peer,
    origin: &mut Origin,
    machine: &Machine,
) -> anyhow::Result<Sample> {
    let target = peer.address(workload.protocol).context("the proxy does not speak that")?;
    let requests_before = origin.count(workload.protocol)?;
    let spent_before = peer.spent()?;
    let load = send(workload, target, length, machine)?;
    std::thread::sleep(SETTLE);
    let spent = peer.spent()?.saturating_sub(spent_before);
    let requests = origin.count(workload.protocol)? - requests_before;
    let sample = Sample::new(requests, spent, load, workload, length);
    eprintln!("  {:<9} {sample}", peer.kind.name());
    Ok(sample)
}

/// Fills pools and caches; its figures are not used.
const WARM_UP: Duration = Duration::from_millis(700);
/// Until the proxy has closed what the load left.
const SETTLE: Duration = Duration::from_millis(50);
