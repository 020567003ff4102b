//! Binding: keeps the sockets that the snapshot asks for open, one for each worker and address. Runs on the control thread.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::Command;
use crate::snapshot::{Handle, Snapshot};

/// Keeps what is bound in step with the snapshot.
pub(crate) struct Binder {
    snapshots: Handle,
    workers: Vec<mpsc::Sender<Command>>,
    bound: BTreeSet<SocketAddr>,
}

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot bind {address}: {source}{}", advice(source))]
pub(crate) struct BindError {
    listener: String,
    address: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program (or another start of this one) listens there: stop it or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability NET_BIND_SERVICE, or choose a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

impl Binder {
    /// Nothing bound yet.
    pub(crate) fn new(snapshots: Handle, workers: Vec<mpsc::Sender<Command>>) -> Self {
        Self { snapshots, workers, bound: BTreeSet::new() }
    }

    /// Binds what the current snapshot asks for and is not bound, stops what it no longer asks for. What could not be bound is returned;
    /// the rest is bound all the same.
    pub(crate) async fn sync(&mut self) -> Vec<BindError> {
        let snapshot = self.snapshots.current();
        let wanted: BTreeSet<SocketAddr> = snapshot.by_address.addresses().collect();
        let gone: Vec<_> = self.bound.difference(&wanted).copied().collect();
        for address in gone {
            self.bound.remove(&address);
            for worker in &self.workers {
                // A worker that is gone is shutting down.
                let _ = worker.send(Command::Stop(address)).await;
            }
            tracing::info!("listener on {address} stopped");
        }
        let mut errors = Vec::new();
        let missing: Vec<_> = wanted.difference(&self.bound).copied().collect();
        for address in missing {
            match self.bind(address, &snapshot).await {
                Ok(()) => drop(self.bound.insert(address)),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Follows the snapshot for ever; addresses that cannot be bound are tried again.
    pub(crate) async fn run(mut self) {
        let mut changed = self.snapshots.changed();
        let mut said = BTreeSet::new();
        loop {
            let errors = self.sync().await;
            for error in &errors {
                if said.insert(error.to_string()) {
                    tracing::error!("{error}; trying again every {} s", RETRY.as_secs());
                }
            }
            if errors.is_empty() {
                said.clear();
            }
            let again = async {
                if errors.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    async fn bind(&self, address: SocketAddr, snapshot: &Snapshot) -> Result<(), BindError> {
        let listener = snapshot.by_address.bound(address);
        let name = listener.map(|listener| listener.name.to_string()).unwrap_or_default();
        let failed = |source| BindError { listener: name.clone(), address, source };
        // Sharing a port is for our own workers. That nobody else has it is checked with a socket that does not share.
        drop(socket(address, false).map_err(failed)?);
        let mut actual = address;
        for worker in &self.workers {
            let socket = socket(actual, true).map_err(failed)?;
            // Port 0 is settled by the first worker's socket.
            actual = socket.local_addr().map_err(failed)?;
            let _ = worker.send(Command::Accept(address, socket)).await;
        }
        tracing::info!("listener {name} accepts on {actual}");
        Ok(())
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Inherited by what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

const BACKLOG: i32 = 4096;
const RETRY: Duration = Duration::from_secs(2);
