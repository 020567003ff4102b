//! Flags, and one file for each command that has more to it than a call.

mod admin;
mod agent;
mod authz;
mod bootstrap;
mod ca_folder;
mod plane;
mod revoke;
mod rotate;
mod serve;
mod status;
mod token;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::demo::sample::{self, SampleArgs};
use crate::demo::{self, DemoArgs};

/// A service mesh and an edge gate in two small programs.
#[derive(Debug, Parser)]
#[command(name = "sidegate", version, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole mesh on this machine, under load, through a canary release.
    Demo(DemoArgs),
    /// Run the control plane over a folder of manifests.
    Serve(Box<serve::Args>),
    /// Check a folder of manifests without serving it.
    Validate(validate::ValidateArgs),
    /// Show which proxy has applied what, and what is wrong.
    Status(status::Args),
    /// Change the root that all certificates chain to, without anybody losing trust.
    RotateRoot(rotate::Args),
    /// Take a certificate or an identity out of use, at once and everywhere.
    Revoke(revoke::Args),
    /// Make a token with which a workload proves who it is.
    Token(token::Args),
    /// Ask who may call whom.
    Authz(authz::Args),
    /// Print the configuration with which a proxy finds the control plane.
    Bootstrap(bootstrap::Args),
    /// Keep a workload's certificate for data planes that are not ours, by SDS or in files.
    Agent(agent::Args),
    /// Run the data plane; takes the flags of sidegate-proxy.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Proxy {
        /// The flags of sidegate-proxy.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
    /// One process of the demo's shop.
    #[command(hide = true)]
    SampleApp(SampleArgs),
}

/// Reads the command line and runs its command.
pub fn run() -> ExitCode {
    match CommandLine::parse().command {
        Command::Demo(args) => exit_code(block_on(demo::run(args))),
        Command::Agent(args) => agent::run(args),
        Command::Authz(args) => authz::run(args),
        Command::Bootstrap(args) => bootstrap::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Serve(args) => serve::run(*args),
        Command::Validate(args) => validate::run(&args),
        Command::Status(args) => status::run(&args),
        Command::RotateRoot(args) => rotate::run(&args),
        Command::Revoke(args) => revoke::run(&args),
        Command::Proxy { flags } => sidegate_proxy::run(flags),
        Command::SampleApp(args) => exit_code(block_on(sample::run(args))),
    }
}

fn exit_code(result: std::io::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(cannot)
}

/// Says in one line why a command cannot do its work.
fn cannot(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("sidegate: {reason}");
    ExitCode::from(CANNOT_RUN)
}

/// Runs a command's future. A command has one thread; what computes goes to the blocking pool.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    // Work that still blocks (a translation, a look-up) must not hold up the end.
    runtime.shutdown_background();
    Ok(output)
}

/// `90s`, `10m`, `2h`: whole numbers of one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let form = || "write a number of seconds, minutes or hours, e.g. 90s, 10m or 2h".to_owned();
    let unit = text.char_indices().last().ok_or_else(form)?;
    let seconds = match unit.1 {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(form()),
    };
    let count: u64 = text[..unit.0].parse().map_err(|_| form())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(form)
}

/// The roots in that folder, for everybody to read.
const ROOT_FILE: &str = "root-cert.pem";

/// The exit code of a command that cannot do its work: an address in use, a folder missing.
const CANNOT_RUN: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_number_and_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "10", "1.5h", "-1s", "10d", "1h30m", "18446744073709551615h", "5é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
