//! An HTTP/1.1 client connection.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::message::{Call, Response};
use crate::wire::{End, Wire, encode, end_of};

/// A connection.
#[derive(Debug)]
pub struct Http1 {
    wire: Wire,
    reusable: bool,
}

impl Http1 {
    /// Connects.
    ///
    /// # Errors
    /// When the other side does not listen.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { wire: Wire::new(TcpStream::connect(address).await?), reusable: true })
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// When the connection ends before a response head.
    pub async fn call(&mut self, call: &Call) -> io::Result<Response> {
        self.send(&encode(call)).await?;
        self.response(&call.method).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write(bytes).await
    }

    /// Reads the response to a request of this method.
    ///
    /// # Errors
    /// When the connection ends before a response head.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            let Some(head) = self.wire.head().await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let status = head.start.split(' ').nth(1).and_then(|text| text.parse().ok());
            response.status =
                status.ok_or_else(|| io::Error::other(format!("no status line: {:?}", head.start)))?;
            response.headers = head.fields;
            if response.status >= 200 || response.status == 101 {
                break;
            }
            response.interim.push(response.status);
        }
        let tunnel = method == "CONNECT" && response.status < 300;
        let bodiless = matches!(response.status, 101 | 204 | 304) || method == "HEAD" || tunnel;
        let end = if bodiless { End::None } else { end_of(&response.headers, End::Close) };
        match self.wire.body(end, &mut response.body).await {
            Ok(trailers) => {
                response.trailers = trailers;
                response.complete = true;
            }
            Err(_) => response.complete = false,
        }
        let close = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.reusable = response.complete && end != End::Close && !close;
        Ok(response)
    }

    /// Whether another request may be sent.
    pub fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// At least one more byte, or false at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn readable(&mut self) -> io::Result<bool> {
        self.wire.fill().await
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.wire.exactly(count).await
    }

    /// Everything until the other side closes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.wire.rest().await
    }

    /// Ends our direction only.
    ///
    /// # Errors
    /// When the connection is broken already.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.wire.socket.shutdown().await
    }
}
