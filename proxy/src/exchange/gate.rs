//! Network filters in front of HTTP: they decide about a connection once, and about each request after they have changed.

use std::sync::Arc;

use super::{Downstream, Reply};
use crate::error::Reason;
use crate::worker::Worker;

impl Downstream {
    /// A connection that was let through by other rules than those in force is asked again, for each request.
    pub(super) fn readmit(&self, worker: &Worker) -> Result<(), Reply> {
        let (_, chain) = self.member.load(&worker.snapshots);
        if Arc::ptr_eq(&chain.gate, &self.gate) {
            return Ok(());
        }
        let admitted =
            chain.gate.admit(&self.connection, self.direct_source.ip(), Some(""), &worker.recorder);
        admitted.map_err(|detail| Reply::new(Reason::AccessDenied).detail(detail))
    }
}
