//! A gateway under our control plane, by either of two data planes: our proxy, or Envoy.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::control::ControlPlane;
use crate::process::{Process, program, run};
use crate::sandbox::{Sandbox, local_port};

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// Our proxy.
    Sidegate,
    /// Envoy, by the path of its program.
    Envoy(PathBuf),
}

impl DataPlane {
    /// Envoy, when `cargo xtask test` has got one. Without it the scenario says so and is skipped; a CI may not skip.
    ///
    /// # Panics
    /// In a CI without Envoy.
    pub fn envoy() -> Option<Self> {
        if let Some(path) = std::env::var_os(ENVOY) {
            return Some(Self::Envoy(path.into()));
        }
        assert!(std::env::var_os("CI").is_none(), "{ENVOY} is not set, and a CI must test against Envoy");
        eprintln!(
            "SKIPPED: {ENVOY} is not set, so nothing is tested against Envoy; `cargo xtask test` sets it"
        );
        None
    }

    /// Starts a gateway `shop/public`; does not wait for anything.
    pub async fn start(&self, sandbox: &Sandbox, control: &ControlPlane) -> Process {
        self.start_for(sandbox, control.xds).await
    }

    /// As [`DataPlane::start`], for a control plane that may not be there yet.
    ///
    /// # Panics
    /// When `sidegate bootstrap` fails.
    pub async fn start_for(&self, sandbox: &Sandbox, xds: SocketAddr) -> Process {
        let config = bootstrap(sandbox, "gateway", "public", xds).await;
        match self {
            Self::Sidegate => {
                let flags = ["-c", &config, "--concurrency", "1"];
                Process::start(sandbox, "proxy", &program("sidegate-proxy"), flags)
            }
            Self::Envoy(envoy) => {
                let flags = ["-c", &config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"];
                Process::start(sandbox, "envoy", envoy, flags)
            }
        }
    }
}

/// Starts our proxy beside a Pod of the namespace `shop`; does not wait for anything.
///
/// # Panics
/// When `sidegate bootstrap` fails.
pub async fn sidecar(sandbox: &Sandbox, pod: &str, xds: SocketAddr) -> Process {
    let config = bootstrap(sandbox, "sidecar", pod, xds).await;
    Process::start(sandbox, pod, &program("sidegate-proxy"), ["-c", &config, "--concurrency", "1"])
}

/// Writes what `sidegate bootstrap` prints and tells where.
async fn bootstrap(sandbox: &Sandbox, role: &str, name: &str, xds: SocketAddr) -> String {
    let (target, xds, port) = (format!("shop/{name}"), xds.to_string(), local_port().to_string());
    let arguments = ["bootstrap", role, &target, "--plaintext", "--xds", &xds, "--admin-port", &port];
    let bootstrap = run("sidegate", arguments).await;
    assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
    sandbox.write(&format!("{name}.yaml"), &bootstrap.out).display().to_string()
}

const ENVOY: &str = "SIDEGATE_TEST_ENVOY";
