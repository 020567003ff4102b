//! Where things are.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::stage::{capture, cargo};

/// The repository's root: the folder above this crate.
pub(crate) fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in no workspace")
}

/// Where cargo builds: `target/`, or what `CARGO_TARGET_DIR` says.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let mut question = cargo();
    question.args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(root()?);
    let answer: Metadata = serde_json::from_slice(&capture(&mut question)?).context("cargo metadata")?;
    Ok(answer.target_directory)
}

/// The part of `cargo metadata` that is of interest.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}
