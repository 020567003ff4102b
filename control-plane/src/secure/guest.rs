//! A connection after its handshake. It stays once a call has proven an identity, for as long as that holds or a call is under way;
//! and not for long before.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::door::Limits;
use crate::authn::Peer;

/// One connection of the TLS port.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Ends the stay of a stranger to whom another is preferred; none once it has proven who it is.
    evicted: Option<oneshot::Receiver<()>>,
    /// When it is looked at next.
    look: Pin<Box<Sleep>>,
    /// How often it is looked at then.
    pace: Duration,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        evicted: oneshot::Receiver<()>,
        limits: &Limits,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (_, session) = stream.get_ref();
        let chain = session
            .peer_certificates()
            .map(|chain| chain.iter().cloned().map(|one| one.into_owned()).collect());
        let peer = Peer { address, chain, standing: Arc::default() };
        let look = Box::pin(sleep(limits.stranger));
        Self { stream, peer, evicted: Some(evicted), look, pace: limits.look, _place: place }
    }

    /// Whether it may stay for now.
    fn poll_stay(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.evicted.is_some() && self.peer.standing.is_known() {
            self.evicted = None;
            self.look.as_mut().reset(Instant::now() + self.pace);
        }
        let evicted = self.evicted.as_mut();
        if evicted.is_some_and(|evicted| Pin::new(evicted).poll(context).is_ready()) {
            return Err(over("the caller has not proven who it is"));
        }
        while self.look.as_mut().poll(context).is_ready() {
            if self.evicted.is_some() {
                return Err(over("the caller has not proven who it is"));
            }
            if !self.peer.standing.holds() {
                return Err(over("the caller is no longer who it was, and nothing is under way"));
            }
            self.look.as_mut().reset(Instant::now() + self.pace);
        }
        Ok(())
    }
}

fn over(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
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
