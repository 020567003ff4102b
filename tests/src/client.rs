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
    try_call_over(Protocol::Http1, address, call).await
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
pub async fn call_over(protocol: Protocol, address: SocketAddr, call: &Call) -> Response {
    let answered = try_call_over(protocol, address, call).await;
    answered.unwrap_or_else(|error| panic!("no response to {call:?}: {error}"))
}

/// As [`call_over`], giving errors back.
///
/// # Errors
/// When the connection or the stream fails before a response head.
pub async fn try_call_over(protocol: Protocol, address: SocketAddr, call: &Call) -> io::Result<Response> {
    let answered = async {
        match protocol {
            Protocol::Http1 => Http1::connect(address).await?.call(call).await,
            Protocol::Http2 => Http2::connect(address).await?.call(call).await,
        }
    };
    wait::within("a response", answered).await
}
