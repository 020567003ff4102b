//! Flags, and one file for each command.

mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A service mesh and an edge gate in two small programs.
#[derive(Debug, Parser)]
#[command(name = "sidegate", version, about, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which proxy has applied what, and what is wrong.
    Status(status::Args),
}

/// Reads the command line and runs its command.
pub fn run() -> ExitCode {
    match CommandLine::parse().command {
        Command::Status(args) => status::run(&args),
    }
}

/// Says in one line why a command cannot do its work.
fn cannot(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("sidegate: {reason}");
    ExitCode::from(CANNOT_RUN)
}

/// Runs a command's future. Commands share one thread; what computes goes to the blocking pool.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    // Work that still blocks (a translation, a look-up) must not hold up the end.
    runtime.shutdown_background();
    Ok(output)
}

/// The exit code of a command that cannot do its work: an address in use, a folder missing.
const CANNOT_RUN: u8 = 2;
