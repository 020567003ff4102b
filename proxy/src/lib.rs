//! The data plane of Sidegate.
//!
//! The order of this page is the order of the path; a room imports only rooms below it.

pub mod app; // wiring: creates every task and hands each its ends

mod admin; // readiness, metrics, dumps, /why (control thread)

// Config staircase: what happens to an update.
mod xds; // one delta ADS stream: connect, read, ack
mod compile; // wire types die here: resources → snapshot, or named rejections
mod identity; // the proxy's own certificate: asked for, kept in memory, renewed in time

// Request staircase: what happens to a byte.
mod listener; // bind, accept, hand over
mod tcp; // the opaque road
mod http; // both server codecs; one call per request into `exchange`
mod exchange; // the conductor of one request: route → filter → attempts → reply
mod worker; // what one thread owns: snapshot reader, pools, recorder, randomness

// The landing.
mod snapshot; // everything compiled, immutable, swapped by one pointer

// Rooms that a snapshot holds.
mod route; // host and request → rule
mod filter; // what runs around an exchange
mod authorization; // what an external authorization service is asked and answers, no IO
mod upstream; // connections to endpoints, pooled per worker
mod cluster; // endpoints, balancing, limits

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing; // what `fuzz/` checks; not in the program

#[cfg(feature = "measured")]
#[doc(hidden)]
pub mod measured; // what `bench/` measures alone; not in the program

// Ground floor.
mod telemetry; // metrics, access log, flight recorder
mod trace; // B3 and W3C trace context
mod http2; // HTTP/2 by the h2 crate: heads, bodies
mod http1; // the HTTP/1.1 codec, no IO
mod message; // heads, headers, bodies
mod relay; // bytes both ways between two connections
mod tls; // certificates, who is trusted, the handshakes of both directions
mod io; // a connection's byte stream
mod detect; // what do the first bytes speak? no IO
mod proxy_header; // the PROXY protocol, no IO
mod timer; // bounds of time that cost nothing when nothing waits
mod overload; // a ceiling on memory, and what is given up near it: acts by `drain`, is read by everything above
mod drain; // asking connections to end: shutting down in order, or for want of memory
pub mod settings; // flags and bootstrap
mod error; // the closed `Reason`, named rejections

pub use app::{explain, run};
pub use identity::{agent, own};
