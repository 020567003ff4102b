//! `cargo xtask fuzz TARGET`: one fuzz target for a while. `fuzz/` is a workspace of its own, because it needs a nightly compiler.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::stage::{execute, succeeds};
use crate::workspace::root;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Which target: the name of a file in fuzz/fuzz_targets
    target: String,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Checks that the target and the tools exist and says what to install if they do not.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let fuzz = root()?.join("fuzz");
    let known = targets(&fuzz)?;
    if !known.contains(&arguments.target) {
        bail!("there is no fuzz target `{}`; there are: {}", arguments.target, known.join(", "));
    }
    if !succeeds(Command::new("cargo").args(["+nightly", "fuzz", "--version"])) {
        bail!("fuzzing needs a nightly compiler and cargo-fuzz; install them with\n  {INSTALL}");
    }
    let limit = format!("-max_total_time={}", arguments.seconds);
    let fuzzing = ["+nightly", "fuzz", "run", &arguments.target, "--", &limit, "-max_len=65536"];
    // This recipe's own variables name the stable compiler.
    execute(
        Command::new("cargo")
            .args(fuzzing)
            .current_dir(&fuzz)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO"),
    )
}

fn targets(fuzz: &Path) -> anyhow::Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

const INSTALL: &str = "rustup toolchain install nightly && cargo +nightly install --locked cargo-fuzz";
