//! `cargo xtask test`: builds the programs, fetches the peers, runs every test.

use crate::peers;
use crate::stage::{cargo, execute, in_ci, stage};
use crate::workspace::root;

/// Scenario tests start the built programs and, when it could be had, a real Envoy (`SIDEGATE_TEST_ENVOY`).
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    stage("build the programs", || execute(workspace("build")?.args(["--bins"])))?;
    stage("build the tests", || execute(workspace("test")?.arg("--no-run")))?;
    let envoy =
        stage("peers", peers::envoy).or_else(|error| if in_ci() { Err(error) } else { skipped(&error) })?;
    let h2spec = stage("h2spec", peers::h2spec).inspect_err(|error| {
        eprintln!("   {error:#}\n   The suite of h2spec is SKIPPED. With CI=true this would be a failure.");
    });
    if in_ci() {
        h2spec.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    }
    stage("tests", || {
        let mut command = workspace("test")?;
        if let Ok(h2spec) = &h2spec {
            command.env(peers::H2SPEC_VARIABLE, h2spec);
        }
        if let Some(envoy) = &envoy {
            command.env(peers::ENVOY_VARIABLE, envoy);
        }
        execute(command.args(filter))
    })?;
    if envoy.is_none() {
        eprintln!("test: ok, but the interop tests against Envoy were SKIPPED (see above)");
    }
    Ok(())
}

fn skipped(error: &anyhow::Error) -> anyhow::Result<Option<std::path::PathBuf>> {
    eprintln!("   {error:#}");
    eprintln!("   The interop tests against Envoy are SKIPPED. With CI=true this would be a failure.");
    Ok(None)
}

fn workspace(subcommand: &str) -> anyhow::Result<std::process::Command> {
    let mut command = cargo();
    command.args([subcommand, "--workspace", "--quiet"]).current_dir(root()?);
    Ok(command)
}
