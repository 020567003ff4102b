//! A connection after its handshake. It stays for as long as it wants once a call has proven an identity, and not for long before.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::authn::Peer;

/// One connection of the TLS port.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// What ends the stay of a stranger; none once it has proven who it is.
    stay: Option<Stay>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Stay {
    evicted: oneshot::Receiver<()>,
    over: Pin<Box<Sleep>>,
}

impl Guest {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        evicted: oneshot::Receiver<()>,
        stay: Duration,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (_, session) = stream.get_ref();
        let chain = session
            .peer_certificates()
            .map(|chain| chain.iter().cloned().map(|one| one.into_owned()).collect());
        let peer = Peer { address, chain, known: Arc::new(AtomicBool::new(false)) };
        let stay = Some(Stay { evicted, over: Box::pin(sleep(stay)) });
        Self { stream, peer, stay, _place: place }
    }

    /// Whether it may stay for now.
    fn poll_stay(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(stay) = &mut self.stay else { return Ok(()) };
        if self.peer.known.load(Ordering::Relaxed) {
            self.stay = None;
            return Ok(());
        }
        let evicted = Pin::new(&mut stay.evicted).poll(context).is_ready();
        if evicted || stay.over.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the caller has not proven who it is"));
        }
        Ok(())
    }
}

impl Connected for Guest {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stay(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
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
