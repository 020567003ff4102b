//! `cargo xtask mutants`: changes the codec, the headers and the path canonicaliser in small ways, one at a time, and sees that a test fails.
//!
//! A change costs one build of what holds it, so the rooms that do no IO are copied into a crate of their own, `target/mutants/codec`: they
//! import nothing above them, and build in seconds where the proxy takes most of a minute. The working tree is never touched.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, anyhow};
use clap::Args;

use crate::stage::execute;
use crate::tool::Tool;
use crate::workspace::{root, target_directory};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these files of proxy/src (globs); else all of `http1`, and headers, path and authority of `message`
    #[arg(long)]
    file: Vec<String>,
    /// Only a part: `0/8` is the first eighth
    #[arg(long)]
    shard: Option<String>,
    /// Only changes whose line in the list matches this pattern
    #[arg(long)]
    re: Option<String>,
    /// Only list the changes
    #[arg(long)]
    list: bool,
}

/// Builds the crate of its own and runs cargo-mutants on it; what was missed is an error, and is listed in `target/mutants/mutants.out`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = target_directory()?.join("mutants");
    let codec = folder.join("codec");
    copy_rooms(&folder, &codec)?;
    let mut mutants = Command::new(MUTANTS.program()?);
    mutants.args([
        "mutants",
        "--in-place",
        "--timeout",
        "60",
        "--no-shuffle",
        "--cargo-test-arg=--lib",
        "--output",
    ]);
    mutants.arg(&folder).arg("--dir").arg(&codec).env_remove("CARGO_TARGET_DIR");
    mutants.env("SIDEGATE_REPLAY_PART", REPLAY_PART);
    let defaults = FILES.map(str::to_owned).to_vec();
    let files = if arguments.file.is_empty() { &defaults } else { &arguments.file };
    for file in files {
        mutants.arg("--file").arg(format!("src/{file}"));
    }
    if let Some(shard) = &arguments.shard {
        mutants.args(["--shard", shard]);
    }
    if let Some(pattern) = &arguments.re {
        mutants.args(["--re", pattern]);
    }
    if arguments.list {
        mutants.arg("--list");
    }
    execute(&mut mutants)
}

/// The rooms, the seeds that their tests replay, and a manifest.
fn copy_rooms(folder: &Path, codec: &Path) -> anyhow::Result<()> {
    let root = root()?;
    let sources = codec.join("src");
    if sources.exists() {
        fs::remove_dir_all(&sources).with_context(|| format!("cannot empty {}", sources.display()))?;
    }
    fs::create_dir_all(&sources)?;
    let mut lib =
        "//! Rooms of the data plane, to be changed in small ways.\n#![allow(dead_code, unused_imports)]\n"
            .to_owned();
    for room in ROOMS {
        let from = root.join("proxy/src");
        copy(&from.join(room), &sources.join(room))?;
        copy(&from.join(format!("{room}.rs")), &sources.join(format!("{room}.rs")))?;
        let when = if room == "fuzzing" { "#[cfg(test)]\n" } else { "" };
        writeln!(lib, "{when}mod {room};")?;
    }
    // Bodies may name the socket that they come from; that room does IO, and here nothing comes from one.
    lib.push_str("mod io {\n    #[derive(Debug)]\n    pub(crate) struct Io;\n}\n");
    fs::write(sources.join("lib.rs"), lib)?;
    // The guard of HTTP/2 stands above the codec.
    edit(&sources.join("fuzzing.rs"), |line| !line.contains("frames"))?;
    // The WebSocket handshake, and the tests beside the others, would bring a C library along that takes longer to build than all else.
    edit(&sources.join("message.rs"), |line| !line.contains("websocket"))?;
    edit(&sources.join("detect/client_hello.rs"), |line| {
        !line.contains("mod tests;") && line != "#[cfg(test)]"
    })?;
    copy(&root.join("fuzz/seeds"), &folder.join("fuzz/seeds"))?;
    fs::copy(root.join("Cargo.lock"), codec.join("Cargo.lock"))?;
    Ok(fs::write(codec.join("Cargo.toml"), manifest(root)?)?)
}

/// Keeps some lines of a file.
fn edit(file: &Path, keep: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let kept: Vec<&str> = text.lines().filter(|line| keep(line)).collect();
    Ok(fs::write(file, kept.join("\n") + "\n")?)
}

/// With the workspace's own versions.
fn manifest(root: &Path) -> anyhow::Result<String> {
    let workspace = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut text =
        "[package]\nname = \"codec\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n".to_owned();
    // The replay of the seeds is most of a run.
    text.push_str(
        "[profile.test]\nopt-level = 1\ndebug = false\n\n[features]\nfuzzing = []\n\n[dependencies]\n",
    );
    for name in DEPENDENCIES {
        let line = workspace.lines().find(|line| line.starts_with(&format!("{name} = ")));
        writeln!(text, "{}", line.ok_or_else(|| anyhow!("the workspace has no dependency {name}"))?)?;
    }
    Ok(text)
}

/// A file or a folder; what does not exist is left out, since not every room has a folder.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in from.read_dir()? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.is_file() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// How much less of the seeds' mutations is replayed for each change: seconds instead of most of a minute.
const REPLAY_PART: &str = "20";

const MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0", install: &[] };

/// What is copied: the codec, what it stands on, and the promises that are replayed over it.
const ROOMS: [&str; 6] = ["error", "message", "http1", "detect", "proxy_header", "fuzzing"];

/// What is changed.
const FILES: [&str; 4] = ["http1/*.rs", "message/headers.rs", "message/path.rs", "message/authority.rs"];

/// What those rooms use.
const DEPENDENCIES: [&str; 7] = ["bytes", "http", "memchr", "thiserror", "rand", "proptest", "tokio"];
