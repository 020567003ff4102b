//! Network filters: they decide about a connection once, and again after they have changed: about each request, and about bytes that are
//! copied at once.

use std::future::poll_fn;
use std::sync::Arc;

use super::{Downstream, Reply};
use crate::error::Reason;
use crate::snapshot::FilterChain;
use crate::worker::Worker;

impl Downstream {
    /// A connection that was let through by other rules than those in force is asked again, for each request.
    pub(super) fn readmit(&self, worker: &Worker) -> Result<(), Reply> {
        let (_, chain) = self.in_force(worker);
        if Arc::ptr_eq(&chain.gate, &self.gate) {
            return Ok(());
        }
        self.admitted_by(&chain, worker).map_err(|detail| Reply::new(Reason::AccessDenied).detail(detail))
    }

    /// Whether the network filters of a form of its chain let the connection through.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub(crate) fn admitted_by(&self, chain: &FilterChain, worker: &Worker) -> Result<(), String> {
        let direct = self.direct_source.ip();
        // No HTTP without TLS asks for a name.
        let server_name = if chain.http().is_some() { Some("") } else { self.server_name.as_deref() };
        chain.gate.admit(&self.connection, direct, server_name, &worker.recorder)
    }

    /// Until the network filters in force do not let the connection through any more: why.
    pub(crate) async fn denied(&self, worker: &Worker) -> String {
        let mut judged = self.gate.clone();
        poll_fn(|context| {
            self.member.poll_denied(context, |chain| {
                if Arc::ptr_eq(&chain.gate, &judged) {
                    return None;
                }
                judged = chain.gate.clone();
                self.admitted_by(chain, worker).err()
            })
        })
        .await
    }
}
