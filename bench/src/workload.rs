//! What is sent: the workloads, and the bytes that both ends agree on.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::lane::Lane;

/// What a client does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// HTTP/1.1 GET on a connection that stays
    Get,
    /// HTTP/1.1 GET on a connection of its own: connect, ask, read, close
    Fresh,
    /// HTTP/2 GET
    Fetch,
    /// HTTP/2 POST of a gRPC-like message, answered with one and trailers
    Call,
    /// TCP: [`ECHO_BYTES`] there and back
    Echo,
    /// TCP: one byte there, many back
    Bulk,
}

/// What the processor time is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// Microseconds for each
    Request,
    /// Microseconds for each, with the one request on it
    Connection,
    /// Nanoseconds for each, of answers' bodies
    Byte,
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) lane: Lane,
    pub(crate) ask: Ask,
    /// Of an answer's body
    pub(crate) bytes: usize,
    pub(crate) connections: u32,
    /// At once on each connection
    pub(crate) streams: u32,
    /// Arrivals a second, whether or not earlier ones were answered; none: each answer asks the next question
    pub(crate) rate: Option<u32>,
    pub(crate) unit: Unit,
}

/// In the order of the table.
pub(crate) const WORKLOADS: [Workload; 17] = [
    SMALL,
    Workload { name: "W1-6k", what: "the same at 6,000/s", rate: Some(6_000), ..SMALL },
    GRPC,
    Workload { name: "W2-6k", what: "the same at 6,000/s", rate: Some(6_000), ..GRPC },
    Workload { name: "W3-up", what: "W1, mutual TLS 1.3 to the origin", lane: Lane::TlsUp, ..SMALL },
    Workload { name: "W3-down", what: "W1, mutual TLS 1.3 from the client", lane: Lane::TlsDown, ..SMALL },
    LARGE,
    Workload { name: "W4-up", what: "the same, mutual TLS 1.3 to the origin", lane: Lane::TlsUp, ..LARGE },
    Workload {
        name: "W4-down",
        what: "the same, mutual TLS 1.3 from the client",
        lane: Lane::TlsDown,
        ..LARGE
    },
    Workload {
        name: "W5-small",
        what: "TCP echo of 128 B, 64 connections",
        lane: Lane::Tcp,
        ask: Ask::Echo,
        ..SMALL
    },
    Workload {
        name: "W5-bulk",
        what: "TCP, 1 B asks for 10 MiB, 8 connections",
        lane: Lane::Bulk,
        ask: Ask::Bulk,
        ..LARGE
    },
    FRESH,
    Workload {
        name: "W6-mtls",
        what: "the same with a full handshake of mutual TLS 1.3",
        lane: Lane::TlsDown,
        ..FRESH
    },
    MESH,
    Workload { name: "W7-h1-6k", what: "the same at 6,000/s", rate: Some(6_000), ..MESH },
    Workload { name: "W7-h2", what: "W7-h1, with HTTP/2 between the two", lane: Lane::Mesh2, ..MESH },
    Workload { name: "W7-h2-6k", what: "the same at 6,000/s", lane: Lane::Mesh2, rate: Some(6_000), ..MESH },
];

const SMALL: Workload = Workload {
    name: "W1",
    what: "HTTP/1.1 GET, 1 KiB, 64 connections, saturated",
    lane: Lane::Http1,
    ask: Ask::Get,
    bytes: ANSWER_BYTES,
    connections: 64,
    streams: 1,
    rate: None,
    unit: Unit::Request,
};

const MESH: Workload = Workload {
    name: "W7-h1",
    what: "W1 through two proxies, HTTP/1.1 over mutual TLS 1.3 between them",
    lane: Lane::Mesh1,
    ..SMALL
};

const GRPC: Workload = Workload {
    name: "W2",
    what: "h2c POST with trailers, 16 connections of 32 streams, saturated",
    lane: Lane::Http2,
    ask: Ask::Call,
    connections: 16,
    streams: 32,
    ..SMALL
};

const LARGE: Workload = Workload {
    name: "W4-plain",
    what: "HTTP/1.1 GET, 10 MiB, 8 connections",
    bytes: BULK_BYTES,
    connections: 8,
    unit: Unit::Byte,
    ..SMALL
};

const FRESH: Workload = Workload {
    name: "W6-plain",
    what: "HTTP/1.1 GET, 1 KiB, each on a new connection, 16 at once",
    ask: Ask::Fresh,
    connections: 16,
    unit: Unit::Connection,
    ..SMALL
};

/// What a victim of floods asks for while others attack: little, and evenly.
pub(crate) const VICTIM: Workload = Workload {
    name: "victim",
    what: "HTTP/2 GET, 1 KiB, 4 connections, 100/s",
    lane: Lane::Downgrade,
    ask: Ask::Fetch,
    connections: 4,
    rate: Some(100),
    ..SMALL
};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) round: Duration,
    /// Of each flood; it ends earlier when every attacker was cut
    pub(crate) flood: Duration,
    /// Of uploads to a slow origin
    pub(crate) uploads: Duration,
}

pub(crate) const QUICK: Plan = Plan {
    rounds: 3,
    round: Duration::from_secs(2),
    flood: Duration::from_secs(2),
    uploads: Duration::from_secs(4),
};
pub(crate) const FULL: Plan = Plan {
    rounds: 7,
    round: Duration::from_secs(4),
    flood: Duration::from_secs(8),
    uploads: Duration::from_secs(12),
};

/// Body of a small HTTP answer.
pub(crate) const ANSWER_BYTES: usize = 1_024;
/// Body of a large one.
pub(crate) const BULK_BYTES: usize = 10 * 1_024 * 1_024;
/// One TCP message.
pub(crate) const ECHO_BYTES: usize = 128;
/// A gRPC message: flag, length, 64 bytes.
pub(crate) const MESSAGE: [u8; 69] = message();
/// A POST to here is read at [`SLOW_BYTES`] a second and never answered; one to anywhere else is read as fast as it comes.
pub(crate) const SLOW_PATH: &str = "/slow";
pub(crate) const SLOW_BYTES: usize = 10_000;

const fn message() -> [u8; 69] {
    let mut bytes = [b'm'; 69];
    (bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]) = (0, 0, 0, 0, 64);
    bytes
}
