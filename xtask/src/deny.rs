//! Bans, licences and sources of the dependency tree, as `deny.toml` says, by cargo-deny.

use std::process::Command;

use crate::stage::{execute, in_ci};
use crate::tool::Tool;
use crate::workspace::root;

/// Advisories are left out: they need a clone of a database, and a new one must not fail a change that is innocent of it.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut check = Command::new(DENY.program()?);
    if in_ci() {
        check.arg("--locked");
    }
    execute(check.args(["--log-level", "error", "check", "bans", "licenses", "sources"]).current_dir(root()?))
}

const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", install: &["--no-default-features"] };
