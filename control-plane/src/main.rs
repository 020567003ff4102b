//! The program `sidegate`: the control plane and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidegate::cli::run()
}
