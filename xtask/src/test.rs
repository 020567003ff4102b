//! `cargo xtask test`: builds the programs, fetches the peers, runs every test.

use std::path::PathBuf;

use crate::peers;
use crate::stage::{cargo, execute, in_ci, stage};
use crate::workspace::root;

/// Scenario tests start the built programs and, when it could be had, a real Envoy (`SIDEGATE_TEST_ENVOY`).
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    stage("build the programs", || execute(workspace("build")?.args(["--bins"])))?;
    stage("build the tests", || execute(workspace("test")?.arg("--no-run")))?;
    let envoy =
        stage("peers", peers::envoy).or_else(|error| if in_ci() { Err(error) } else { skipped(&error) })?;
    let suites = [
        (peers::H2SPEC_VARIABLE, suite("h2spec", peers::h2spec)?),
        (peers::HTTPWG_VARIABLE, suite("httpwg", peers::httpwg)?),
        (peers::PYTHON_VARIABLE, suite("Python peers", peers::python)?),
        (peers::GRPC_VARIABLE, suite("grpc-go", peers::grpc)?),
    ];
    stage("tests", || {
        let mut command = workspace("test")?;
        for (variable, program) in &suites {
            command.envs(program.as_ref().map(|program| (variable, program)));
        }
        if let Some(envoy) = &envoy {
            command.env(peers::ENVOY_VARIABLE, envoy);
        }
        // One failure does not hide the others.
        execute(command.arg("--no-fail-fast").args(filter))
    })?;
    if envoy.is_none() {
        eprintln!("test: ok, but the interop tests against Envoy were SKIPPED (see above)");
    }
    Ok(())
}

/// The program of a suite that nobody here wrote; on a developer's machine the suite may be missing.
fn suite(name: &str, fetch: fn() -> anyhow::Result<Option<PathBuf>>) -> anyhow::Result<Option<PathBuf>> {
    match stage(name, fetch) {
        Err(error) if !in_ci() => {
            eprintln!("   {error:#}");
            eprintln!("   The suite of {name} is SKIPPED. With CI=true this would be a failure.");
            Ok(None)
        }
        fetched => fetched,
    }
}

fn skipped(error: &anyhow::Error) -> anyhow::Result<Option<PathBuf>> {
    eprintln!("   {error:#}");
    eprintln!("   The interop tests against Envoy are SKIPPED. With CI=true this would be a failure.");
    Ok(None)
}

fn workspace(subcommand: &str) -> anyhow::Result<std::process::Command> {
    let mut command = cargo();
    command.args([subcommand, "--workspace", "--quiet"]).current_dir(root()?);
    Ok(command)
}
