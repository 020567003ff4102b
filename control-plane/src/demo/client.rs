//! A small HTTP/1.1 client for one address: keep-alive, a bounded stock of idle connections, nothing clever.
//!
//! A request is sent again only when it was never written to the connection that turned out to be closed. So what the
//! mesh breaks stays broken here, and is counted.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One address and the idle connections to it.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    /// Taken by whoever starts a request, put back by whoever finished one; never locked across an await.
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Empty<Bytes>>;

impl Client {
    /// A client for `address`; connects when the first request comes.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request without a body and reads the whole answer. Has no time limit of its own.
    pub(super) async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, ClientError> {
        let mut request = request;
        while let Some(connection) = self.take_idle() {
            match self.exchange(connection, request).await {
                Ok(response) => return Ok(response),
                Err(Failure::Unsent(unsent)) => request = *unsent,
                Err(Failure::Sent(error)) => return Err(error),
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, request).await.map_err(|failure| match failure {
            Failure::Unsent(_) => ClientError::Closed,
            Failure::Sent(error) => error,
        })
    }

    /// `GET path` with the address as its host.
    pub(super) async fn get(&self, path: &str) -> Result<Response<Bytes>, ClientError> {
        let request = Request::get(path)
            .header(http::header::HOST, self.address.to_string())
            .body(Empty::new())
            .map_err(|error| ClientError::Request(error.to_string()))?;
        self.send(request).await
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let failed = |reason: String| ClientError::Connect { address: self.address, reason };
        let stream = TcpStream::connect(self.address).await.map_err(|error| failed(error.to_string()))?;
        // Latency is measured: a small request must not wait for an acknowledgement.
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
        // The task ends with the connection; what went wrong on it is told to the request that was on it.
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, Failure> {
        if connection.ready().await.is_err() {
            return Err(Failure::Unsent(Box::new(request)));
        }
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                return Err(match error.take_message() {
                    Some(unsent) => Failure::Unsent(Box::new(unsent)),
                    None => Failure::Sent(ClientError::Exchange(describe(&error.into_error()))),
                });
            }
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| Failure::Sent(ClientError::Exchange(format!("the answer broke off: {error}"))))?
            .to_bytes();
        self.put_back(connection);
        Ok(Response::from_parts(head, body))
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

/// hyper's texts name the layer, their sources name the cause: both are wanted in one line.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

enum Failure {
    /// Not a byte was written: safe to send on another connection.
    Unsent(Box<Request<Empty<Bytes>>>),
    Sent(ClientError),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody accepts connections there.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// The connection was closed before the request could be written.
    #[error("the connection was closed at once")]
    Closed,
    /// The request was sent; the answer did not come, or not whole.
    #[error("{0}")]
    Exchange(String),
    /// The request cannot be written down.
    #[error("not a request: {0}")]
    Request(String),
}

/// More than this is closed instead of kept.
const IDLE_LIMIT: usize = 256;
/// The shop's answers have a few hundred bytes; `/status` has a few kilobytes.
const BODY_LIMIT: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    async fn answer(stream: &mut TcpStream) {
        read_head(stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_replaced_when_it_was_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            answer(&mut first).await;
            answer(&mut first).await;
            drop(first);
            let (mut second, _) = listener.accept().await.unwrap();
            answer(&mut second).await;
        });
        for _ in 0..3 {
            assert_eq!(client.get("/").await.unwrap().body(), "ok");
        }
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_was_delivered_is_not_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            answer(&mut first).await;
            read_head(&mut first).await;
            drop(first);
            listener
        });
        assert!(client.get("/").await.is_ok());
        assert!(matches!(client.get("/").await, Err(ClientError::Exchange(_))));
        drop(server);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Client::new(address).get("/").await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot connect to {address}: ")), "{error}");
    }
}
