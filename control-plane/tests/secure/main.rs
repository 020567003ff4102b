//! `sidegate serve` on its TLS port, as a process: real certificates, real tokens, a scripted Kubernetes, and everybody who lies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod kubernetes;
mod lies;
mod peers;
mod plane;
mod proofs;
