//! The conductor: start everything, send each workload through each proxy in turns, add up, print.

mod configuration;
mod helper;
mod kind;
mod machine;
mod peer;
mod price;
mod process;
mod report;
mod rig;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::kind::{Event, Kind};
use self::peer::Peer;
use self::price::Row;
use self::report::{Memory, Outcome};
use self::rig::{AMPLE, Rig, Support};
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
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// How many rounds, instead of the plan's
    #[arg(long)]
    rounds: Option<u32>,
    /// How long a round is, instead of the plan's
    #[arg(long)]
    seconds: Option<f64>,
    /// Only what has a name that starts with one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these proxies
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
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

impl Arguments {
    fn plan(&self) -> Plan {
        let mut plan = if self.quick { QUICK } else { FULL };
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        plan.round = self.seconds.map_or(plan.round, Duration::from_secs_f64);
        plan
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|start| name.starts_with(start))
    }

    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Kind::found(&self.sidegate, self.envoy.as_deref());
        kinds.retain(|kind| self.peers.is_empty() || self.peers.iter().any(|name| name == kind.name));
        kinds
    }
}

/// Fails if a row is invalid: a proxy that errs, or answers what it did not forward, has no price.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let outcome = measure(arguments)?;
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

fn measure(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let plan = arguments.plan();
    let mut rig = Rig::new()?;
    let kinds = arguments.kinds();
    let workloads: Vec<&Workload> =
        WORKLOADS.iter().filter(|workload| arguments.wants(workload.name)).collect();
    let (rows, memory) = if workloads.is_empty() && !arguments.wants("idle") {
        (Vec::new(), Vec::new())
    } else {
        prices(&workloads, plan, &kinds, &mut rig)?
    };
    Ok(Outcome {
        date: machine::today(),
        machine: rig.machine.describe(),
        quick: arguments.quick,
        rows,
        memory,
    })
}

/// All proxies run at once and stay: one after another would be measured at another time of the machine's day.
fn prices(
    workloads: &[&Workload],
    plan: Plan,
    kinds: &[Kind],
    rig: &mut Rig,
) -> anyhow::Result<(Vec<Row>, Vec<Memory>)> {
    let mut peers = Vec::new();
    for kind in kinds {
        let joins = workloads.iter().any(|workload| kind.joins(Event::Price(workload)));
        if joins || !kind.is_variant() {
            peers.extend(standing(kind, rig)?);
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let idle: Vec<u64> = peers.iter().map(|(peer, _)| peer.resident_kib()).collect::<anyhow::Result<_>>()?;
    let mut rows = Vec::new();
    for workload in workloads {
        rows.extend(price::in_turns(workload, plan, &peers, rig)?);
    }
    let mut memory = Vec::new();
    for ((peer, _), idle_kib) in peers.iter().zip(idle) {
        let (version, after_kib) = (peer.kind.version(), peer.resident_kib()?);
        memory.push(Memory { peer: peer.kind.name, version, idle_kib, after_kib });
    }
    Ok((rows, memory))
}

/// A peer that does not start is left out; ours must.
fn standing(kind: &Kind, rig: &Rig) -> anyhow::Result<Option<(Peer, Support)>> {
    eprintln!("starting {} ({})", kind.name, kind.version());
    let support = rig.support(kind)?;
    match rig.start(kind, &support.lanes, AMPLE) {
        Ok(peer) => Ok(Some((peer, support))),
        Err(error) if kind.is_ours() => Err(error),
        Err(error) => {
            eprintln!("measuring without {}: {error:#}", kind.name);
            Ok(None)
        }
    }
}
