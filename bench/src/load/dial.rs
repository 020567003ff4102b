//! Connections to a proxy, plain or with mutual TLS, from many addresses of the loopback network.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::certificates::{Certificates, server_name};

/// A byte stream, whatever carries it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Opens connections to one address.
pub(crate) struct Dialer {
    target: SocketAddr,
    tls: Option<TlsConnector>,
    dialed: Cell<u32>,
}

impl Dialer {
    pub(crate) fn plain(target: SocketAddr) -> Self {
        Self { target, tls: None, dialed: Cell::new(0) }
    }

    /// With TLS where there are certificates.
    pub(crate) fn new(
        target: SocketAddr,
        certificates: Option<&Path>,
        anonymous: bool,
    ) -> anyhow::Result<Self> {
        let config = certificates.map(|folder| Certificates::at(folder).client(anonymous)).transpose()?;
        Ok(Self { tls: config.map(TlsConnector::from), ..Self::plain(target) })
    }

    /// Fails after [`PATIENCE`]: a proxy that does not answer is not waited for.
    pub(crate) async fn dial(&self) -> anyhow::Result<Box<dyn Stream>> {
        timeout(PATIENCE, self.connect()).await.context("no connection within ten seconds")?
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(self.source()).context("cannot bind a source address")?;
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        Ok(Box::new(tls.connect(server_name()?, stream).await.context("TLS handshake")?))
    }

    /// One address after another, each with ports of its own: closed connections keep theirs for a minute, and one address has
    /// fewer than a few seconds of new connections need.
    fn source(&self) -> SocketAddr {
        let index = self.dialed.get();
        self.dialed.set(index.wrapping_add(1));
        let [.., low] = (index % SOURCES).to_be_bytes();
        if self.target.ip().is_loopback() {
            (Ipv4Addr::new(127, 0, 1, low), 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        }
    }
}

/// Addresses that connections come from: 127.0.1.0 and on.
const SOURCES: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(10);
