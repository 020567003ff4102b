//! One proxy: how it is found, started, asked what it has used, and stopped.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::configuration::{self, Ports};
use super::machine::{Machine, answer};
use super::process;
use crate::origin::Addresses;
use crate::workload::Protocol;

/// Which proxy, and its program.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Sidegate(PathBuf),
    Envoy(PathBuf),
    Haproxy(PathBuf),
    Nginx(PathBuf),
}

impl Kind {
    /// Sidegate, and whatever peers the machine has.
    pub(crate) fn found(sidegate: &Path, envoy: Option<&Path>) -> Vec<Self> {
        let mut kinds = vec![Self::Sidegate(sidegate.to_owned())];
        kinds.extend(envoy.map(|program| Self::Envoy(program.to_owned())));
        kinds.extend(installed("haproxy").map(Self::Haproxy));
        kinds.extend(installed("nginx").map(Self::Nginx));
        kinds
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sidegate(_) => "sidegate",
            Self::Envoy(_) => "envoy",
            Self::Haproxy(_) => "haproxy",
            Self::Nginx(_) => "nginx",
        }
    }

    /// The number in what the program itself says.
    pub(crate) fn version(&self) -> String {
        let (program, flag) = match self {
            Self::Sidegate(program) | Self::Envoy(program) => (program, "--version"),
            Self::Haproxy(program) | Self::Nginx(program) => (program, "-v"),
        };
        let text = answer(program, &[flag]).unwrap_or_default();
        let mut words = text.split(['/', ' ', '\n']);
        let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
        number.unwrap_or("unknown").to_owned()
    }

    fn configuration(&self, ports: &Ports, folder: &Path) -> String {
        match self {
            Self::Sidegate(_) | Self::Envoy(_) => configuration::envoy(ports),
            Self::Haproxy(_) => configuration::haproxy(ports),
            Self::Nginx(_) => configuration::nginx(ports, folder),
        }
    }

    fn command(&self, machine: &Machine, file: &Path, folder: &Path) -> Command {
        match self {
            Self::Sidegate(program) => {
                let mut command = machine.beside_nobody(program);
                command.args(["--concurrency", "1", "-l", "error", "-c"]).arg(file);
                command
            }
            Self::Envoy(program) => {
                let mut command = machine.beside_nobody(program);
                command.args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "-c"]).arg(file);
                command
            }
            Self::Haproxy(program) => {
                let mut command = machine.beside_nobody(program);
                command.args(["-db", "-q", "-f"]).arg(file);
                command
            }
            Self::Nginx(program) => {
                let mut command = machine.beside_nobody(program);
                command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(file);
                command
            }
        }
    }

    /// What it can forward in this comparison: nginx speaks no HTTP/2 to upstreams, and TCP only by a module of its own.
    fn speaks(&self, protocol: Protocol) -> bool {
        match (self, protocol) {
            (Self::Nginx(_), Protocol::Http2) => false,
            (Self::Nginx(_), Protocol::Tcp) => configuration::nginx_stream_module().is_some(),
            _ => true,
        }
    }
}

/// A running proxy.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    child: Child,
    addresses: BTreeMap<Protocol, SocketAddr>,
}

impl Peer {
    /// Starts a proxy in front of the origin and waits until every listener answers.
    pub(crate) fn start(
        kind: Kind,
        folder: &Path,
        origins: &Addresses,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let mut addresses = BTreeMap::new();
        for protocol in Protocol::ALL.into_iter().filter(|protocol| kind.speaks(*protocol)) {
            addresses.insert(protocol, free_address()?);
        }
        let ports = Ports { listeners: addresses.clone(), origins: origins.clone(), admin: free_address()? };
        let folder = folder.join(kind.name());
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(if matches!(kind, Kind::Sidegate(_) | Kind::Envoy(_)) {
            "proxy.yaml"
        } else {
            "proxy.conf"
        });
        std::fs::write(&file, kind.configuration(&ports, &folder))?;
        let mut command = kind.command(machine, &file, &folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", kind.name()))?;
        let mut peer = Self { kind, child, addresses };
        peer.wait_until_ready()?;
        Ok(peer)
    }

    pub(crate) fn address(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.addresses.get(&protocol).copied()
    }

    /// Nanoseconds of processor time so far.
    pub(crate) fn spent(&self) -> anyhow::Result<u64> {
        process::spent(self.child.id()).with_context(|| format!("{} has ended", self.kind.name()))
    }

    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        process::resident_kib(self.child.id()).with_context(|| format!("{} has ended", self.kind.name()))
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let mut patience = 100;
        while !self.addresses.values().all(|address| TcpStream::connect(address).is_ok()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} when it was started", self.kind.name());
            }
            patience -= 1;
            if patience == 0 {
                bail!("{} does not listen after ten seconds", self.kind.name());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Peer {
    /// Asks first, so that a master can end its workers.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..20 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has at the moment; the proxy takes it a moment later.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// System services are often not on a person's path.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
