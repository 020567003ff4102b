//! Programs and libraries of other people, which `cargo xtask test` installs and names by variables. Where one is missing the scenario says
//! so and is skipped; a CI may not skip.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::wait;

/// What a variable names, if it does.
///
/// # Panics
/// In a CI without it.
pub fn named(variable: &str) -> Option<OsString> {
    let found = std::env::var_os(variable);
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "{variable} is not set, and a CI must have it"
    );
    if found.is_none() {
        eprintln!("SKIPPED: {variable} is not set; `cargo xtask test` sets it");
    }
    found
}

/// A Python with the packages of the peers in its path.
#[derive(Clone, Debug)]
pub struct Python {
    packages: PathBuf,
}

impl Python {
    /// If it is there.
    pub fn find() -> Option<Self> {
        named("SIDEGATE_TEST_PYTHON").map(|packages| Self { packages: packages.into() })
    }

    /// A command of it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &self.packages).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
        command
    }

    /// Starts a script of `tests/peers` that listens at this address, its first argument, and waits until it does.
    pub async fn serve(
        &self,
        sandbox: &Sandbox,
        script: &str,
        address: SocketAddr,
        more: &[&str],
    ) -> Process {
        // `env` instead of a variable of this process, which its other scenarios share.
        let (packages, script) = (format!("PYTHONPATH={}", self.packages.display()), peer(script));
        let (script, at) = (script.display().to_string(), address.to_string());
        let arguments = [[packages.as_str(), "python3", "-B", &script, &at].as_slice(), more].concat();
        let name = format!("python-{}", address.port());
        let process = Process::start(sandbox, &name, Path::new("env"), arguments);
        wait::until("the script listens", async || TcpStream::connect(address).await.ok()).await;
        process
    }
}

/// Where a file of `tests/peers` is.
pub fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}
