//! The network filters of a chain: who may have a connection at all.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Facts, Judgement, Rbac};
use crate::telemetry::{Downstream, Recorder};

/// `envoy.filters.network.rbac`, every one of a filter chain in its order.
#[derive(Debug, Default)]
pub(crate) struct Gate(Box<[Keeper]>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// `stat_prefix`.
    pub(crate) stat_prefix: Arc<str>,
    /// Its rules.
    pub(crate) rbac: Rbac,
}

impl Gate {
    /// These filters, in this order.
    pub(crate) fn new(keepers: Vec<Keeper>) -> Self {
        Self(keepers.into())
    }

    /// Whether nobody asks anything.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any rule asks for the name that a TLS client wants to reach.
    pub(crate) fn asks_server_name(&self) -> bool {
        self.0.iter().any(|keeper| keeper.rbac.asks_server_name())
    }

    /// What each of them says, up to the first that denies; nothing is counted.
    pub(crate) fn judge(&self, facts: &Facts<'_>) -> Vec<(&Keeper, Judgement<'_>)> {
        let mut said = Vec::with_capacity(self.0.len());
        for keeper in &self.0 {
            let judgement = keeper.rbac.judge(facts);
            said.push((keeper, judgement));
            if judgement.enforced.is_some_and(|verdict| !verdict.allowed) {
                break;
            }
        }
        said
    }

    /// Whether a connection may go on.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub(crate) fn admit(
        &self,
        connection: &Downstream,
        direct: IpAddr,
        server_name: Option<&str>,
        recorder: &Recorder,
    ) -> Result<(), String> {
        if self.is_open() {
            return Ok(());
        }
        let facts = Facts::of_connection(connection, direct, server_name);
        for (keeper, judgement) in self.judge(&facts) {
            judgement.count(&keeper.rbac, false, &keeper.stat_prefix, recorder);
            if let Some(detail) = judgement.denial(&keeper.name) {
                return Err(detail);
            }
            if let Some(note) = judgement.shadow_note(&keeper.name) {
                tracing::debug!(listener = &*connection.listener, peer = %connection.peer, "{note}");
            }
        }
        Ok(())
    }

    /// Whether a connection of which nothing is known but its addresses would be let through; nothing is counted.
    pub(crate) fn would_admit(&self, connection: &Downstream, direct: IpAddr) -> bool {
        let facts = Facts::of_connection(connection, direct, None);
        let mut said = self.judge(&facts).into_iter();
        said.all(|(_, judgement)| judgement.enforced.is_none_or(|verdict| verdict.allowed))
    }
}
