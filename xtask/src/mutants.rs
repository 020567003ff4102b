//! `cargo xtask mutants`: changes code that must not be wrong in small ways, one at a time, and sees that a test fails.
//!
//! A change costs one build of what holds it, so rooms are copied into crates of their own below `target/mutants` ([`copy`]): a room
//! imports only what stands below it, so that what it needs is known. The working tree is never touched.

use std::process::Command;

use anyhow::Context;
use clap::Args;

use crate::stage::execute;
use crate::tool::Tool;
use crate::workspace::target_directory;

mod copy;
mod group;

use group::Group;

#[derive(Args)]
pub(crate) struct Arguments {
    /// What is changed
    #[arg(long, value_enum, default_value_t = Group::Codec)]
    group: Group,
    /// Only these files of the group's package, from its `src` on (globs); else all that the group names
    #[arg(long)]
    file: Vec<String>,
    /// Only a part: `0/8` is the first of eight; each is a fair sample
    #[arg(long)]
    shard: Option<String>,
    /// Only changes whose line in the list matches this pattern
    #[arg(long)]
    re: Option<String>,
    /// Go on: leave out what was caught, or did not compile, when the group was run before
    #[arg(long)]
    go_on: bool,
    /// Only list the changes
    #[arg(long)]
    list: bool,
}

/// Makes the copy and runs cargo-mutants on it; what was missed is an error, and is listed in `target/mutants/GROUP/mutants.out`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = target_directory()?.join("mutants");
    let plan = arguments.group.plan();
    let copy = plan.copy.make(&folder)?;
    let output = folder.join(arguments.group.name());
    std::fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut mutants = Command::new(MUTANTS.program()?);
    mutants.args(["mutants", "--in-place", "--shuffle", "--timeout", "90", "--output"]);
    mutants.arg(&output).arg("--dir").arg(&copy).env_remove("CARGO_TARGET_DIR");
    mutants.env("SIDEGATE_REPLAY_PART", REPLAY_PART);
    mutants.env("PROPTEST_CASES", CASES).env("PROPTEST_MAX_SHRINK_ITERS", "0");
    let files = if arguments.file.is_empty() {
        plan.files.iter().map(ToString::to_string).collect()
    } else {
        arguments.file.clone()
    };
    for file in files {
        mutants.arg("--file").arg(format!("src/{file}"));
    }
    if let Some(shard) = &arguments.shard {
        mutants.args(["--sharding", "round-robin", "--shard", shard]);
    }
    if let Some(pattern) = &arguments.re {
        mutants.args(["--re", pattern]);
    }
    if arguments.go_on {
        mutants.arg("--iterate");
    }
    if arguments.list {
        mutants.arg("--list");
    }
    mutants.args(["--", "--lib", "--"]).args(plan.tests);
    execute(&mut mutants)
}

/// How much less of the seeds' mutations is replayed for each change: seconds instead of most of a minute.
const REPLAY_PART: &str = "20";

/// Random cases for each property, where it does not say fewer.
const CASES: &str = "8";

const MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0", install: &[] };
