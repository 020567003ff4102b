//! Bans, licences and sources of the dependency tree, as `deny.toml` says, by cargo-deny.

use std::path::PathBuf;
use std::process::Command;

use crate::stage::{cargo, execute, in_ci};
use crate::workspace::{root, target_directory};

/// Advisories are left out: they need a clone of a database, and a new one must not fail a change that is innocent of it.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut check = Command::new(cargo_deny()?);
    if in_ci() {
        check.arg("--locked");
    }
    execute(check.args(["--log-level", "error", "check", "bans", "licenses", "sources"]).current_dir(root()?))
}

/// cargo-deny of [`VERSION`]: the one on the path, or one built once into `target/tools` (a minute on two cores).
fn cargo_deny() -> anyhow::Result<PathBuf> {
    let tools = target_directory()?.join("tools");
    let own = tools.join("bin/cargo-deny");
    for program in [PathBuf::from("cargo-deny"), own.clone()] {
        if is_wanted(&program) {
            return Ok(program);
        }
    }
    eprintln!("   building cargo-deny {VERSION} into {}, once", tools.display());
    let mut install = cargo();
    install
        .args(["install", "--quiet", "--locked", "--force", "--no-default-features", "--root"])
        .arg(&tools);
    // It runs for a second: what it costs is its build.
    install.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256");
    execute(install.args(["--version", VERSION, "cargo-deny"]))?;
    Ok(own)
}

fn is_wanted(program: &PathBuf) -> bool {
    program_version(program).is_some_and(|version| version == format!("cargo-deny {VERSION}"))
}

fn program_version(program: &PathBuf) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

const VERSION: &str = "0.20.2";
