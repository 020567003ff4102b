//! `cargo xtask descriptors`: the descriptor set of the `envoy-types` in use, written into `xds-proto/descriptors`.

use crate::stage::{cargo, execute};
use crate::workspace::root;

/// The test that guards the set also knows how to write it.
pub(crate) fn run() -> anyhow::Result<()> {
    execute(
        cargo()
            .args(["test", "--package", "sidegate-xds", "--test", "descriptors"])
            .env("UPDATE_DESCRIPTORS", "1")
            .current_dir(root()?),
    )?;
    eprintln!("xds-proto/descriptors is that of the envoy-types in Cargo.lock; commit it if it changed");
    Ok(())
}
