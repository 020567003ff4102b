//! A running proxy: started, asked what it has used, and stopped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};

use super::configuration::Link;
use super::kind::Kind;
use super::process;
use crate::lane::Lane;

/// One proxy in front of the origin.
pub(super) struct Peer {
    pub(super) kind: Kind,
    /// Its page for operators, if it has one
    pub(super) admin: Option<SocketAddr>,
    child: Child,
    links: Vec<Link>,
}

impl Peer {
    /// Starts the program and waits until every listener answers.
    pub(super) fn start(
        kind: &Kind,
        mut command: Command,
        links: Vec<Link>,
        admin: SocketAddr,
    ) -> anyhow::Result<Self> {
        let admin = kind.has_admin().then_some(admin);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", kind.name))?;
        let mut peer = Self { kind: kind.clone(), admin, child, links };
        peer.wait_until_ready()?;
        Ok(peer)
    }

    pub(super) fn address(&self, lane: Lane) -> Option<SocketAddr> {
        self.links.iter().find(|link| link.lane == lane).map(|link| link.listener)
    }

    /// Nanoseconds of processor time so far.
    pub(super) fn spent(&self) -> anyhow::Result<u64> {
        process::spent(self.child.id()).with_context(|| format!("{} has ended", self.kind.name))
    }

    pub(super) fn resident_kib(&self) -> anyhow::Result<u64> {
        process::resident_kib(self.child.id()).with_context(|| format!("{} has ended", self.kind.name))
    }

    /// Watches it for some time: the most memory that it had, looked at twenty times a second.
    pub(super) fn peak_kib(&self, length: Duration) -> anyhow::Result<u64> {
        let mut peak = self.resident_kib()?;
        for _ in 0..length.as_millis() / LOOK.as_millis() {
            std::thread::sleep(LOOK);
            peak = peak.max(self.resident_kib()?);
        }
        Ok(peak)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let mut patience = 100;
        while !self.links.iter().all(|link| TcpStream::connect(link.listener).is_ok()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} when it was started", self.kind.name);
            }
            patience -= 1;
            if patience == 0 {
                bail!("{} does not listen after ten seconds", self.kind.name);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Peer {
    /// Asks first, so that a master can end its workers; ours would drain.
    fn drop(&mut self) {
        if !self.kind.is_ours() {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            for _ in 0..40 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between looks at a proxy's memory.
const LOOK: Duration = Duration::from_millis(50);

/// A port that nobody has at the moment; the proxy takes it a moment later.
pub(super) fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}
