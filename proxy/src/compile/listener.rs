//! `envoy.config.listener.v3.Listener` → `snapshot::Listener`.

use std::sync::Arc;

use sidegate_xds::envoy::config::core::v3::TrafficDirection;
use sidegate_xds::envoy::config::listener::v3 as wire;
use tokio::time::Instant;

use super::problem::{Problem, unsupported};
use super::tls::Contexts;
use super::value;
use crate::snapshot::{Direction, Listener};

mod chain;
mod criteria;
mod preamble;
mod socket;

pub(crate) use chain::{ChainPlan, Routes};
pub(crate) use criteria::prefix;

/// A checked listener.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The listener.
    pub(crate) listener: Arc<Listener>,
    /// Its chains.
    pub(crate) chains: Vec<ChainPlan>,
}

impl Plan {
    /// Whether the secrets of all its chains have arrived.
    pub(crate) fn is_secured(&self) -> bool {
        let mut contexts = self.chains.iter().filter_map(|plan| plan.chain.security.as_ref());
        contexts.all(|security| security.context.is_ready())
    }

    /// The clusters that the filters of its chains ask.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Arc<str>> {
        self.chains.iter().flat_map(|chain| &chain.asked)
    }

    /// Where the routes of its chains are.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Routes> {
        self.chains.iter().map(|chain| &chain.routes)
    }
}

/// Checks a listener. What `previous` has too is taken over: chains, counts, token buckets.
pub(crate) fn compile(
    wire: &wire::Listener,
    previous: Option<&Plan>,
    contexts: &mut Contexts,
    now: Instant,
) -> Result<Plan, Problem> {
    refuse_unsupported(wire)?;
    let preamble = preamble::compile(wire)?;
    let addresses = socket::addresses(wire)?;
    let name = name(wire);
    let (table, chains) = chain::compile(wire, previous, contexts, now)?;
    let bind = value::flag(wire.bind_to_port.as_ref(), true)
        && wire.deprecated_v1.as_ref().is_none_or(|old| value::flag(old.bind_to_port.as_ref(), true));
    let listener = Listener {
        name,
        addresses,
        bind,
        socket: socket::settings(wire)?,
        preamble,
        hand_over: value::flag(wire.use_original_dst.as_ref(), false),
        chains: table,
        direction: match wire.traffic_direction() {
            TrafficDirection::Inbound => Direction::Inbound,
            TrafficDirection::Outbound | TrafficDirection::Unspecified => Direction::Outbound,
        },
    };
    Ok(Plan { listener: Arc::new(listener), chains })
}

/// The name; a static listener may have none and then has its address's.
pub(crate) fn name(wire: &wire::Listener) -> Arc<str> {
    let address = || value::host_and_port(wire.address.as_ref()).ok();
    match wire.name.as_str() {
        "" => address().map(|(host, port)| format!("{host}_{port}").into()).unwrap_or_default(),
        name => name.into(),
    }
}

/// Accepted without effect: statistics, buffers (they are bounded), how connections are balanced (they are, exactly), and what
/// `ineffective` tells of.
fn refuse_unsupported(wire: &wire::Listener) -> Result<(), Problem> {
    unsupported(&[
        ("fcds_config", wire.fcds_config.is_some()),
        ("filter_chain_matcher", wire.filter_chain_matcher.is_some()),
        ("udp_listener_config", wire.udp_listener_config.is_some()),
        ("api_listener", wire.api_listener.is_some()),
        ("internal_listener", wire.listener_specifier.is_some()),
    ])
}

#[cfg(test)]
mod tests;
