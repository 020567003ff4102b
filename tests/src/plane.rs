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
        let arguments = ["bootstrap", "gateway", "shop/public", "--xds", &xds.to_string(), "--admin-port"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(local_port().to_string());
        let bootstrap = run("sidegate", arguments).await;
        assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
        let config = sandbox.write("bootstrap.yaml", &bootstrap.out);
        let config = config.display().to_string();
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

const ENVOY: &str = "SIDEGATE_TEST_ENVOY";
