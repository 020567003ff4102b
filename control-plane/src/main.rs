//! The program `sidegate`: the control plane and the command line.

use std::process::ExitCode;

use sidegate_proxy::settings::child_entry;

fn main() -> ExitCode {
    // The data plane asks a child of its own program for the work that needs Envoy's descriptors.
    child_entry(std::env::args_os().skip(1)).unwrap_or_else(sidegate::cli::run)
}
