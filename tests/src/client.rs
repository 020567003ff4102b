//! Clients. One connection each, so that a scenario decides what shares a connection.

pub mod http1;
pub mod http2;

use std::io;
use std::net::SocketAddr;

pub use http1::Http1;
pub use http2::Http2;

use crate::message::{Call, Response};
use crate::wait;

/// One request on an HTTP/1.1 connection of its own.
///
/// # Panics
/// When no response comes; an incomplete one is given back as such.
pub async fn call(address: SocketAddr, call: &Call) -> Response {
    try_call(address, call).await.unwrap_or_else(|error| panic!("no response to {call:?}: {error}"))
}

/// As [`call`], giving errors back.
///
/// # Errors
/// When the connection fails before a response head.
pub async fn try_call(address: SocketAddr, call: &Call) -> io::Result<Response> {
    wait::within("a response", async { Http1::connect(address).await?.call(call).await }).await
}

/// Which of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge.
    Http2,
}

/// One request on a connection of its own, over either protocol.
///
/// # Panics
/// When no response comes.
pub async fn call_over(protocol: Protocol, address: SocketAddr, request: &Call) -> Response {
    match protocol {
        Protocol::Http1 => call(address, request).await,
        Protocol::Http2 => {
            let answered = async { Http2::connect(address).await?.call(request).await };
            let answered: io::Result<Response> = wait::within("a response", answered).await;
            answered.unwrap_or_else(|error| panic!("no response to {request:?}: {error}"))
        }
    }
}
