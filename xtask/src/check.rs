//! `cargo xtask check`: everything that can be said about the code without running it.

use anyhow::bail;

use crate::stage::{cargo, execute, in_ci, stage};
use crate::workspace::root;
use crate::{deny, house};

/// Runs every stage, also after one has failed: one run shows all there is to mend. Cheap ones come first.
pub(crate) fn run() -> anyhow::Result<()> {
    let stages: [(&str, Stage); 4] =
        [("format", format), ("house law", house::run), ("dependencies", deny::run), ("clippy", clippy)];
    let mut failed = Vec::new();
    for (title, work) in stages {
        if let Err(error) = stage(title, work) {
            eprintln!("   {error:#}");
            failed.push(title);
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    eprintln!("check: ok");
    Ok(())
}

type Stage = fn() -> anyhow::Result<()>;

fn format() -> anyhow::Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]).current_dir(root()?))
}

fn clippy() -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    if in_ci() {
        command.arg("--locked"); // a forgotten Cargo.lock shows itself here
    }
    execute(command.args(["--", "-D", "warnings"]).current_dir(root()?))
}
