//! Binding: keeps the sockets that the snapshot asks for open, one for each worker and address. Runs on the control thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::mpsc;

use super::Command;
use crate::snapshot::{Handle, Snapshot, SocketSettings};

/// Keeps what is bound in step with the snapshot.
pub(crate) struct Binder {
    snapshots: Handle,
    workers: Vec<mpsc::Sender<Command>>,
    bound: BTreeMap<SocketAddr, SocketSettings>,
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
        Self { snapshots, workers, bound: BTreeMap::new() }
    }

    /// Binds what the current snapshot asks for and is not bound, stops what it no longer asks for. What could not be bound is returned;
    /// the rest is bound all the same.
    pub(crate) async fn sync(&mut self) -> Vec<BindError> {
        let snapshot = self.snapshots.current();
        let wanted: BTreeMap<SocketAddr, &SocketSettings> = snapshot.by_address.sockets().collect();
        let gone: Vec<_> =
            self.bound.keys().filter(|address| !wanted.contains_key(*address)).copied().collect();
        for address in gone {
            self.bound.remove(&address);
            for worker in &self.workers {
                // A worker that is gone is shutting down.
                let _ = worker.send(Command::Stop(address)).await;
            }
            tracing::info!("listener on {address} stopped");
        }
        let mut errors = Vec::new();
        for (address, settings) in wanted {
            let bound = self.bound.get(&address);
            if bound == Some(settings) {
                continue;
            }
            match self.bind(address, settings, bound.is_some(), &snapshot).await {
                Ok(()) => drop(self.bound.insert(address, settings.clone())),
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

    /// Binds, or binds anew: then the workers' new sockets take over from their old ones.
    async fn bind(
        &self,
        address: SocketAddr,
        settings: &SocketSettings,
        anew: bool,
        snapshot: &Snapshot,
    ) -> Result<(), BindError> {
        let listener = snapshot.by_address.bound(address);
        let name = listener.map(|listener| listener.name.to_string()).unwrap_or_default();
        let failed = |source| BindError { listener: name.clone(), address, source };
        if !anew {
            drop(reserved(address, settings).map_err(failed)?);
        }
        let mut actual = address;
        for worker in &self.workers {
            let socket = listening(actual, settings).map_err(failed)?;
            // Port 0 is settled by the first worker's socket.
            actual = socket.local_addr().map_err(failed)?;
            let _ = worker.send(Command::Accept(address, socket)).await;
        }
        tracing::info!("listener {name} accepts on {actual}");
        Ok(())
    }
}

/// Sharing a port is for our own workers. That nobody else listens there is shown by a socket that does not share; it must not listen
/// itself, or whoever connects before it is closed is answered by a reset.
fn reserved(address: SocketAddr, settings: &SocketSettings) -> io::Result<Socket> {
    let socket = unbound(address, settings)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One worker's socket.
fn listening(address: SocketAddr, settings: &SocketSettings) -> io::Result<std::net::TcpListener> {
    let socket = unbound(address, settings)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(settings.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(BACKLOG))?;
    Ok(socket.into())
}

fn unbound(address: SocketAddr, settings: &SocketSettings) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!settings.dual_stack)?;
    }
    // Inherited by what is accepted.
    socket.set_tcp_nodelay(true)?;
    apply(&socket, address, settings)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn apply(socket: &Socket, address: SocketAddr, settings: &SocketSettings) -> io::Result<()> {
    if let Some(keepalive) = &settings.keepalive {
        socket.set_keepalive(true)?;
        let mut wanted = TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            wanted = wanted.with_time(idle);
        }
        if let Some(interval) = keepalive.interval {
            wanted = wanted.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            wanted = wanted.with_retries(probes);
        }
        socket.set_tcp_keepalive(&wanted)?;
    }
    #[cfg(target_os = "linux")]
    {
        match address {
            SocketAddr::V4(_) => {
                socket.set_freebind_v4(settings.freebind)?;
                if settings.transparent {
                    socket.set_ip_transparent_v4(true)?;
                }
            }
            SocketAddr::V6(_) => {
                socket.set_freebind_v6(settings.freebind)?;
                if settings.transparent {
                    socket.set_ip_transparent_v6(true)?;
                }
            }
        }
        if let Some(mark) = settings.mark {
            socket.set_mark(mark)?;
        }
        socket.set_tcp_user_timeout(settings.user_timeout)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = address;
    Ok(())
}

const BACKLOG: i32 = 4096;
const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_look_for_others_lets_nobody_in() {
        let settings = SocketSettings::default();
        let reserved = reserved("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(reserved);
        let _workers = [(); 2].map(|()| listening(address, &settings).unwrap());
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_port_where_somebody_listens_is_not_taken() {
        let settings = SocketSettings::default();
        // Even who would share it with us.
        let other = listening("127.0.0.1:0".parse().unwrap(), &settings).unwrap();
        let taken = reserved(other.local_addr().unwrap(), &settings).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
