//! The control plane and command line of Sidegate.
//!
//! The order of this page is the order of the path, from the command line down to the plain types of the world;
//! a room imports only rooms below it.

// Commands.
pub mod cli; // flags, and one file a command
pub mod demo; // `sidegate demo`: the main job in one command

// The control plane, wired.
pub mod app; // `sidegate serve`: creates every task and hands each its ends

// Kubernetes staircase: what happens to an object.
pub mod source; // where objects come from: a folder of manifests now, the Kubernetes API next
pub mod index; // every object in its last good form, one owner; emits views
pub mod jwks; // the key sets that JWTPolicies name, fetched; views pass through
pub mod check; // may this caller do that? asks the proxy's own judgement
pub mod publish; // a view → one snapshot for each proxy that is connected
pub mod translate; // view + scope → Envoy resources; pure

// Stream staircase: what happens to a proxy's stream.
pub mod status; // what is applied where: `/status`, metrics
pub mod secure; // the TLS port: handshakes, limits, and the two services behind them
pub mod xds; // the ADS service; its delta state machine does no IO

// Identity: who is who, who says so, and who is calling.
pub mod issue; // the certificate service: a proven identity + a signing request → a chain
pub mod authn; // token or certificate → an identity; every refusal counted
pub mod ca; // the certificate authority, and the rotation of its root

// The landing and the ground floor.
pub mod snapshot; // immutable resources of one scope, versioned
pub mod model; // plain types of the world
