//! The least configuration with which each proxy does the work: one worker, connections to the origin kept, no access log.

mod envoy;
mod haproxy;
mod nginx;

use std::net::SocketAddr;
use std::path::Path;

pub(super) use self::envoy::envoy;
pub(super) use self::haproxy::haproxy;
pub(super) use self::nginx::{nginx, stream_module as nginx_stream_module};
use super::rig::Limits;
use crate::certificates::Certificates;
use crate::lane::Lane;

/// One listener and where it leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) lane: Lane,
    pub(super) listener: SocketAddr,
    pub(super) origin: SocketAddr,
    /// Where the second proxy of a mesh listens
    pub(super) between: SocketAddr,
}

/// What a configuration is made from.
pub(super) struct Setting<'a> {
    pub(super) links: &'a [Link],
    pub(super) admin: SocketAddr,
    pub(super) certificates: &'a Certificates,
    /// For what a proxy keeps beside its configuration
    pub(super) folder: &'a Path,
    pub(super) limits: Limits,
}
