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
mod table;
mod trial;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use self::kind::{Event, Kind};
use self::peer::Peer;
use self::price::Row;
use self::report::{Memory, Outcome};
use self::rig::{Rig, Support};
use self::table::Table;
use self::trial::{Contender, exhaustion, flood, growth, idle};
use crate::attack::Attack;
use crate::lane::Lane;
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

    /// A name that means nothing would measure nothing, and look well.
    fn check(&self) -> anyhow::Result<()> {
        let mut names: Vec<String> = WORKLOADS.iter().map(|workload| workload.name.to_owned()).collect();
        names.extend(TRIALS.map(str::to_owned));
        names.extend(Attack::FLOODS.map(flood_name));
        match self.only.iter().find(|start| !names.iter().any(|name| name.starts_with(*start))) {
            Some(unknown) => bail!("nothing is called `{unknown}`: there are {}", names.join(", ")),
            None => Ok(()),
        }
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
    arguments.check()?;
    let plan = arguments.plan();
    let mut rig = Rig::new()?;
    let mut contenders: Vec<Contender> = Vec::new();
    for kind in arguments.kinds() {
        eprintln!("{} {}", kind.name, kind.version());
        let support = rig.support(&kind)?;
        contenders.push((kind, support));
    }
    let workloads: Vec<&Workload> =
        WORKLOADS.iter().filter(|workload| arguments.wants(workload.name)).collect();
    let (rows, memory) = if workloads.is_empty() && !arguments.wants("idle") {
        (Vec::new(), Vec::new())
    } else {
        prices(&workloads, plan, &contenders, &mut rig)?
    };
    let trials = trials(arguments, plan, &contenders, &mut rig)?;
    let (date, machine) = (machine::today(), rig.machine.describe());
    Ok(Outcome { date, machine, quick: arguments.quick, rows, memory, trials })
}

/// All proxies run at once and stay: one after another would be measured at another time of the machine's day.
fn prices(
    workloads: &[&Workload],
    plan: Plan,
    contenders: &[Contender],
    rig: &mut Rig,
) -> anyhow::Result<(Vec<Row>, Vec<Memory>)> {
    let mut peers = Vec::new();
    for (kind, support) in contenders {
        let joins = workloads.iter().any(|workload| kind.joins(Event::Price(workload)));
        if joins || !kind.is_variant() {
            peers.extend(standing(kind, support, rig)?);
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
fn standing<'a>(kind: &Kind, support: &'a Support, rig: &Rig) -> anyhow::Result<Option<(Peer, &'a Support)>> {
    match rig.start(kind, &support.lanes, rig.ample()) {
        Ok(peer) => Ok(Some((peer, support))),
        Err(error) if kind.is_ours() => Err(error),
        Err(error) => {
            eprintln!("measuring without {}: {error:#}", kind.name);
            Ok(None)
        }
    }
}

/// What proxies do under strain, each in a process of its own.
fn trials(
    arguments: &Arguments,
    plan: Plan,
    contenders: &[Contender],
    rig: &mut Rig,
) -> anyhow::Result<Vec<Table>> {
    let wants = |name: &str, what: &str| {
        let wanted = arguments.wants(name);
        if wanted {
            eprintln!("{name}: {what}");
        }
        wanted
    };
    let mut weights = Table::new("KiB for each connection | RSS before, MiB | RSS with them, MiB");
    for (name, lane) in [("idle-connections", Lane::Http1), ("idle-connections-mtls", Lane::TlsDown)] {
        if wants(name, "memory of an idle connection") {
            let verdicts = idle::weigh(lane, contenders, rig);
            weights.add(name, verdicts, |weight| weight.invalid.is_some())?;
        }
    }
    let mut want = Table::new("clients answered | share of a core | admin answers | normal after");
    if wants("fds", "128 descriptors, 500 clients") {
        want.add("fds", exhaustion::exhaust(contenders, rig), |_| false)?;
    }
    let mut growths = Table::new("RSS, MiB | RSS before, MiB | what happened");
    if wants("zero-window", "100 answers of 1 MB without a window") {
        growths.add("zero-window", growth::zero_window(contenders, rig), |_| false)?;
    }
    for (name, lane) in [("slow-upstream", Lane::Http1), ("slow-upstream-h2", Lane::Downgrade)] {
        if wants(name, "100 uploads of 100 MB to an origin that reads 10 KB/s of each") {
            growths.add(name, growth::slow_upstream(lane, plan.uploads, contenders, rig), |_| false)?;
        }
    }
    let mut floods = Table::new(
        "cut | strikes until then, median (most) | reached the origin | RSS, MiB | victims failed | worst victim | ended by",
    );
    for attack in Attack::FLOODS {
        let name = flood_name(attack);
        if wants(&name, "50 attackers beside a victim") {
            floods.add(&name, flood::flood(attack, plan.flood, contenders, rig), |_| false)?;
        }
    }
    Ok(vec![weights, want, growths, floods])
}

fn flood_name(attack: Attack) -> String {
    format!("flood-{}", attack.name())
}

/// What `--only` knows beside workloads and floods.
const TRIALS: [&str; 7] = [
    "idle",
    "idle-connections",
    "idle-connections-mtls",
    "fds",
    "zero-window",
    "slow-upstream",
    "slow-upstream-h2",
];
