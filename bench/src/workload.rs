//! What is sent: the workloads, and the bytes that both ends agree on.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// HTTP/1.1 GET, answered with [`ANSWER_BYTES`]
    Http1,
    /// HTTP/2 POST of a gRPC-like message, answered with one and trailers
    Http2,
    /// [`ECHO_BYTES`] there and back
    Tcp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tcp];
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) connections: u32,
    /// At once on each connection
    pub(crate) streams: u32,
    /// Arrivals a second, whether or not earlier ones were answered; none: each answer asks the next question
    pub(crate) rate: Option<u32>,
}

/// In the order of the table. `6,000/s` is what a busy sidecar sees; there wake-ups cost more than work.
pub(crate) const WORKLOADS: [Workload; 5] = [
    Workload {
        name: "W1",
        what: "HTTP/1.1 GET, 1 KiB, 64 connections, saturated",
        protocol: Protocol::Http1,
        connections: 64,
        streams: 1,
        rate: None,
    },
    Workload {
        name: "W1-6k",
        what: "the same at 6,000/s",
        protocol: Protocol::Http1,
        connections: 64,
        streams: 1,
        rate: Some(6_000),
    },
    Workload {
        name: "W2",
        what: "h2c POST with trailers, 16 connections of 32 streams, saturated",
        protocol: Protocol::Http2,
        connections: 16,
        streams: 32,
        rate: None,
    },
    Workload {
        name: "W2-6k",
        what: "the same at 6,000/s",
        protocol: Protocol::Http2,
        connections: 16,
        streams: 32,
        rate: Some(6_000),
    },
    Workload {
        name: "W5-small",
        what: "TCP echo of 128 B, 64 connections",
        protocol: Protocol::Tcp,
        connections: 64,
        streams: 1,
        rate: None,
    },
];

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) round: Duration,
}

pub(crate) const QUICK: Plan = Plan { rounds: 3, round: Duration::from_secs(3) };
pub(crate) const FULL: Plan = Plan { rounds: 7, round: Duration::from_secs(5) };

/// Body of an HTTP/1.1 answer.
pub(crate) const ANSWER_BYTES: usize = 1_024;
/// One TCP message.
pub(crate) const ECHO_BYTES: usize = 128;
/// A gRPC message: flag, length, 64 bytes.
pub(crate) const MESSAGE: [u8; 69] = message();

const fn message() -> [u8; 69] {
    let mut bytes = [b'm'; 69];
    (bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]) = (0, 0, 0, 0, 64);
    bytes
}
