//! `cargo xtask bench`: builds the proxy and the rig as people run them, fetches the peers, measures side by side.

use std::process::Command;

use clap::Args;

use crate::peers;
use crate::stage::{cargo, execute, stage};
use crate::workspace::{root, target_directory};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Three short rounds instead of seven
    #[arg(long)]
    quick: bool,
    /// Further flags for `sidegate-bench compare`, after `--`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// A peer that cannot be had is left out of the table; Sidegate and the rig must build.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = root()?;
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "sidegate-proxy",
        "--package",
        "sidegate-bench",
    ]);
    stage("build", || execute(build.current_dir(root)))?;
    let envoy = stage("peers", peers::envoy).unwrap_or_else(|error| {
        eprintln!("   measuring without Envoy: {error:#}");
        None
    });
    peers::install_balancers();
    let programs = target_directory()?.join("release");
    let mut compare = Command::new(programs.join("sidegate-bench"));
    compare.arg("compare").arg("--sidegate").arg(programs.join("sidegate-proxy")).current_dir(root);
    if let Some(envoy) = envoy {
        compare.arg("--envoy").arg(envoy);
    }
    if arguments.quick {
        compare.arg("--quick");
    }
    execute(compare.args(&arguments.rest))
}
