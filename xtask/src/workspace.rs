//! Where things are, as cargo tells it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::stage::{capture, cargo};

/// The repository's root: the folder above this crate.
pub(crate) fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in no workspace")
}

/// What `cargo metadata` says about the tree of the platform most people run: the bans are about that one.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    let output = capture(
        cargo()
            .args(["metadata", "--format-version", "1", "--filter-platform", PLATFORM])
            .current_dir(root()?),
    )?;
    serde_json::from_slice(&output).context("cargo metadata speaks a language of its own")
}

/// Where cargo builds: `target/`, or what `CARGO_TARGET_DIR` says.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let output =
        capture(cargo().args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(root()?))?;
    let metadata: Metadata = serde_json::from_slice(&output).context("cannot read cargo metadata")?;
    Ok(metadata.target_directory)
}

/// The part of `cargo metadata` that the recipes use.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub packages: Vec<Package>,
    pub resolve: Option<Resolve>,
    pub target_directory: PathBuf,
}

/// One package of the tree.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    /// SPDX expression
    pub license: Option<String>,
    /// None: a package of this workspace, or a path
    pub source: Option<String>,
}

/// Who depends on whom.
#[derive(Deserialize)]
pub(crate) struct Resolve {
    pub nodes: Vec<Node>,
}

/// One package and what it depends on.
#[derive(Deserialize)]
pub(crate) struct Node {
    pub id: String,
    pub dependencies: Vec<String>,
}

const PLATFORM: &str = "x86_64-unknown-linux-gnu";
