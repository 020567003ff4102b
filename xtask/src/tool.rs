//! Tools that recipes need: the ones on the path when they are of the right version, or built once into `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{cargo, execute};
use crate::workspace::target_directory;

/// A tool from crates.io.
pub(crate) struct Tool {
    /// Its name, which is that of its program too: `cargo-something`.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// More arguments of `cargo install`.
    pub(crate) install: &'static [&'static str],
}

impl Tool {
    /// Its program (a minute or more on two cores, the first time).
    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        let tools = target_directory()?.join("tools");
        let own = tools.join("bin").join(self.name);
        for program in [PathBuf::from(self.name), own.clone()] {
            if self.is_wanted(&program) {
                return Ok(program);
            }
        }
        eprintln!("   building {} {} into {}, once", self.name, self.version, tools.display());
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--force", "--root"]).arg(&tools).args(self.install);
        // It runs for a second: what it costs is its build.
        install.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_RELEASE_LTO", "off");
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256");
        execute(install.args(["--version", self.version, self.name]))?;
        Ok(own)
    }

    fn is_wanted(&self, program: &Path) -> bool {
        // As cargo calls it: with its own name first.
        let word = self.name.trim_start_matches("cargo-");
        [&["--version"][..], &[word, "--version"]].iter().any(|arguments| {
            let output = Command::new(program).args(*arguments).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(self.version))
        })
    }
}
