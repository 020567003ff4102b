//! The plaintext port's connections: anybody on the machine may come, so that there are so many in all, and so many from one address.
//!
//! Nothing of this port is shared with the TLS port: who has proven nothing takes no place of those who have.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::metrics::{CauseLabel, Metrics};
use crate::authn::shares::Shares;

/// How many the plaintext port takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections in all.
    pub(super) connections: usize,
    /// Connections from one address.
    pub(super) of_address: usize,
    /// Streams in all.
    pub(super) streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1_000, of_address: 256, streams: 1_000 }
    }
}

impl Limits {
    /// The same, with so few connections that the port takes a small part of the files that the process may open.
    pub(super) fn within(self, files: usize) -> Self {
        Self { connections: self.connections.min(files / PART), ..self }
    }
}

/// How many files the plaintext port may take of so many.
pub fn share_of(files: usize) -> usize {
    Limits::default().within(files).connections
}

/// One connection, with its places.
#[derive(Debug)]
pub(super) struct Visitor {
    stream: TcpStream,
    _places: [OwnedSemaphorePermit; 2],
}

/// Lets connections in for as long as somebody takes them. Those for which there is no place are closed at once.
pub(super) async fn accept(
    listener: TcpListener,
    limits: Limits,
    metrics: Metrics,
    visitors: mpsc::Sender<io::Result<Visitor>>,
) {
    let all = Arc::new(Semaphore::new(limits.connections));
    let addresses: Shares<IpAddr> = Shares::new(limits.of_address);
    while !visitors.is_closed() {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that died in the queue: neither lasts.
                tracing::warn!(%error, "the plaintext xDS port cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let own = addresses.of(address.ip().to_canonical()).try_acquire_owned();
        let (cause, limit) = match (own, Arc::clone(&all).try_acquire_owned()) {
            (Ok(own), Ok(one)) => {
                // A connection that is gone is found out by its first read.
                let _ = stream.set_nodelay(true);
                // The server may have ended meanwhile.
                let _ = visitors.send(Ok(Visitor { stream, _places: [own, one] })).await;
                continue;
            }
            (Err(_), _) => ("address_limit", limits.of_address),
            (_, Err(_)) => ("limit", limits.connections),
        };
        metrics.refused_connections.get_or_create(&CauseLabel { cause }).inc();
        // At `debug`: who is refused tries again, and the counter tells how often.
        tracing::debug!(%address, cause, limit, "a connection to the plaintext xDS port was closed: there are as many as may be");
    }
}

impl Connected for Visitor {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// One of how many files the port takes at most.
const PART: usize = 8;

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_the_port_takes_a_small_part_of_the_files() {
        assert_eq!((share_of(1 << 20), share_of(1024), share_of(0)), (1_000, 128, 0));
    }
}
