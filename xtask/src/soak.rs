//! `cargo xtask soak`: the soak scenario for minutes or hours. Ten minutes by default.

use clap::Args;

use crate::stage::{cargo, execute, stage};
use crate::workspace::root;

#[derive(Args)]
pub(crate) struct Arguments {
    /// For so many seconds
    #[arg(long, default_value_t = 600, conflicts_with = "long")]
    seconds: u64,
    /// For two hours
    #[arg(long)]
    long: bool,
}

/// The load, the faults and the judgement are those of `tests/scenarios/soak.rs`, which every test run drives for 20 s.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let seconds = if arguments.long { 2 * 3600 } else { arguments.seconds };
    stage("build the programs", || {
        execute(cargo().args(["build", "--release", "--workspace", "--bins", "--quiet"]).current_dir(root()?))
    })?;
    stage("soak", || {
        let mut command = cargo();
        command.args(["test", "--release", "--quiet", "--package", "sidegate-tests", "--test", "scenarios"]);
        command.args(["soak::h8_soak", "--", "--exact", "--nocapture"]);
        execute(command.env("SIDEGATE_SOAK_SECONDS", seconds.to_string()).current_dir(root()?))
    })
}
