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
    let mut version = Command::new("cargo");
    if !succeeds(version.args(["+nightly", "fuzz", "--version"]).env_remove("RUSTUP_TOOLCHAIN")) {
        bail!("fuzzing needs a nightly compiler and cargo-fuzz; install them with\n  {INSTALL}");
    }
    // New finds go to the first folder, which git ignores; the second holds the examples to start from.
    let folders = ["corpus", "seeds"].map(|kind| fuzz.join(kind).join(&arguments.target));
    for folder in &folders {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let limit = format!("-max_total_time={}", arguments.seconds);
    let mut fuzzing = Command::new("cargo");
    fuzzing.args(["+nightly", "fuzz", "run", &arguments.target]).args(folders).args([
        "--",
        "-max_len=4096",
        &limit,
    ]);
    // What this recipe was started with names the stable compiler.
    fuzzing.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    execute(fuzzing.current_dir(root()?))
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
