//! Requests on a connection whose filter chain is gone. It was let in by rules that are not in force any more, and its client is not
//! forced to leave: what it still asks is judged as a new connection of the same client would be, for a moment, and then refused.

use std::sync::Arc;
use std::time::Duration;

use super::{Downstream, Reply};
use crate::error::Reason;
use crate::snapshot::{Choice, Facts, FilterChain, Listener, Loaded, RAW, TLS, Told};
use crate::worker::Worker;

impl Downstream {
    /// What to serve a request by: the current snapshot and the connection's chain in it. When that is gone, the chain that would have the
    /// connection now; else the last snapshot that had it.
    pub(super) fn in_force(&self, worker: &Worker) -> (Loaded, Arc<FilterChain>) {
        let (last, chain) = self.member.load(&worker.snapshots);
        if self.member.gone_since().is_none() {
            return (last, chain);
        }
        let now = worker.snapshots.load();
        let listener = now.listeners.get(&self.connection.listener);
        match listener.and_then(|listener| self.successor(listener, &chain)) {
            Some(successor) => (now, successor),
            None => (last, chain),
        }
    }

    /// Refuses what came too late, and what nobody would be let in for any more.
    pub(super) fn refuse_outdated(&self, worker: &Worker) -> Result<(), Reply> {
        let Some(since) = self.member.gone_since() else { return Ok(()) };
        let now = worker.snapshots.load();
        let (_, chain) = self.member.load(&worker.snapshots);
        let listener = now.listeners.get(&self.connection.listener);
        // Of a listener that was taken away as a whole, nothing takes the place: what is on its way is answered as it was.
        let taken = listener.is_none_or(|listener| self.successor(listener, &chain).is_some());
        if taken && since.elapsed() < STRAGGLERS {
            return Ok(());
        }
        let detail = "the filter chain that this connection came to is not configured any more";
        Err(Reply::new(Reason::Misdirected).detail(detail))
    }

    /// The chain of requests that would have this connection if it came now, and by which its client has proven enough.
    fn successor(&self, listener: &Listener, before: &FilterChain) -> Option<Arc<FilterChain>> {
        let connection = &self.connection;
        let security = connection.security.as_deref();
        let (transport, offers): (_, &[&[Box<str>]]) = match security {
            // What exactly the client offered is not kept. One of the mesh comes with the mesh's protocol.
            Some(_) if before.security.as_ref().is_some_and(|security| security.mutual) => {
                (TLS, &[&["istio".into()], &[], &["h2".into()], &["http/1.1".into()]])
            }
            Some(_) => (TLS, &[&[], &["h2".into()], &["http/1.1".into()]]),
            None => (RAW, &[&[], &["http/1.1".into()], &["h2c".into()]]),
        };
        let server_name = security.and_then(|security| security.server_name.as_deref()).unwrap_or_default();
        offers.iter().find_map(|protocols| {
            let facts = Facts {
                destination: connection.local,
                direct_source: self.direct_source,
                source: connection.peer,
                told: Some(Told { server_name, transport, protocols }),
            };
            let Choice::Chain(chain) = listener.chains.choose(&facts) else { return None };
            (chain.http().is_some() && self.proves_enough(chain)).then(|| chain.clone())
        })
    }

    fn proves_enough(&self, chain: &FilterChain) -> bool {
        match (&chain.security, &self.connection.security) {
            (None, None) => true,
            (Some(wanted), Some(shown)) => match &shown.peer {
                Some(peer) => wanted.context.revokes(peer).is_none(),
                None => !wanted.mutual,
            },
            _ => false,
        }
    }
}

/// How long requests may still come that were sent before their client could know.
const STRAGGLERS: Duration = Duration::from_secs(2);
