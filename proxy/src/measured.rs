//! What `bench/` measures by itself, without a proxy around it.
//!
//! Only for its example `handshakes`; no part of the program.

pub use crate::tls::measured::{clients, id_of};
