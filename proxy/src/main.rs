//! The data plane alone, as it runs in a pod.

use std::process::ExitCode;

use sidegate_proxy::settings;

fn main() -> ExitCode {
    let arguments = || std::env::args_os().skip(1);
    settings::child_entry(arguments()).unwrap_or_else(|| sidegate_proxy::run(arguments()))
}
