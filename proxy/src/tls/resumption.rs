//! Sessions that may be resumed, on the server's side: valid under one policy, and gone with it (R8).

use std::sync::Arc;

use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};

/// How sessions are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remember {
    /// By tickets that the client keeps.
    pub(crate) tickets: bool,
    /// Here.
    pub(crate) sessions: bool,
}

/// What sessions under one policy are remembered with.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) fingerprint: [u8; 32],
    pub(super) ticketer: Option<Arc<dyn ProducesTickets>>,
    pub(super) storage: Arc<dyn StoresServerSessions>,
}

impl Memory {
    /// A memory that knows no session.
    pub(super) fn new(fingerprint: [u8; 32], remember: Remember) -> Result<Self, rustls::Error> {
        let ticketer = match remember.tickets {
            true => Some(rustls::crypto::aws_lc_rs::Ticketer::new()?),
            false => None,
        };
        let storage: Arc<dyn StoresServerSessions> = match remember {
            Remember { tickets: false, sessions: true } => ServerSessionMemoryCache::new(SESSIONS),
            _ => Arc::new(NoServerSessionStorage {}),
        };
        Ok(Self { fingerprint, ticketer, storage })
    }
}

/// Sessions remembered here when clients keep no tickets.
const SESSIONS: usize = 4096;
