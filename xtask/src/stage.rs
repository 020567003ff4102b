//! One step of a recipe: says what it runs, runs it, and says how it ended.

use std::process::Command;

use anyhow::{Context, bail};
use std::time::SystemTime;

/// Announces `title` on standard error, runs `work`, and reports the time it took.
pub(crate) fn stage<T>(title: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("── {title}");
    let begin = SystemTime::now();
    let result = work();
    let seconds = begin.elapsed().unwrap_or_default().as_secs_f32();
    eprintln!("   {title}: {} in {seconds:.1} s", if result.is_ok() { "ok" } else { "FAILED" });
    result
}

/// Runs a command with this process's own streams; anything but success is an error that names the command line.
pub(crate) fn execute(command: &mut Command) -> anyhow::Result<()> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// What a command prints on standard output; its standard error passes through.
pub(crate) fn capture(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let line = command_line(command);
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    Ok(output.stdout)
}

/// Whether a command can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// The cargo that runs this recipe.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether a machine runs this recipe: then what is skipped for a person is an error.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
