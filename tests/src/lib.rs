//! What the scenarios are made of: origins and clients in this process, proxies and control planes in processes of their own.
//!
//! A scenario reads as its topology, what is done, and what must be seen. Everything listens on a loopback address of its own
//! where the system has them, so scenarios run beside each other; every process ends with the value that started it, and tells
//! its log when the scenario failed. Nothing here sleeps to wait for something: [`wait::until`] polls with a deadline.

pub mod plane; // a gateway under our control plane: our proxy, or Envoy
pub mod control; // `sidegate serve` on a folder of manifests, and what it says
pub mod secured; // `sidegate serve` with TLS, and proxies, agents, rotations under it
pub mod ads; // a control plane in this process, in Envoy's own words
pub mod gateway; // our proxy under a static configuration
pub mod manifests; // short forms of Kubernetes objects

pub mod guarded; // a proxy whose promises are checked after every case
pub mod load; // a steady load, counted
pub mod fountain; // peers that take or give without end
pub mod origin; // upstreams that record what they get and answer by script
pub mod switch; // upstreams that become tunnels, and streams that are ones
pub mod client; // requests over HTTP/1.1 and HTTP/2
// The fuzzer's second reading, which needs nothing of the proxy.
#[path = "../../proxy/src/fuzzing/strict.rs"]
pub mod strict; // what an origin got, read without mercy
pub mod issuer; // a certificate authority, and a control plane beside it, by script
pub mod held; // servers that say nothing until they are let
pub mod secure; // TLS ends in this process
pub mod certificates; // authorities and what they sign
pub mod tokens; // an issuer of JWTs
pub mod authorizer; // an external authorization service by tonic
pub mod frames; // HTTP/2 frames by hand, to break every rule
mod wire; // HTTP/1.1 bytes, read without mercy and without judgement
pub mod message; // requests and responses as scenarios see them

pub mod peers; // programs and libraries that nobody here wrote
pub mod clock; // the time of day as one process sees it
pub mod resources; // what a process takes of the machine
pub mod process; // children, their logs, their ends
pub mod sandbox; // a folder and addresses of a scenario's own
pub mod wait; // polling with a deadline
