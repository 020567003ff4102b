//! A route table: domains → virtual host → the first route that matches.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Recorder, Route};
use crate::message::RequestHead;

/// `RouteConfiguration`, compiled.
#[derive(Debug, Default)]
pub struct Table {
    /// Its name.
    pub name: Arc<str>,
    /// Which virtual host a host belongs to.
    pub domains: Domains,
    /// The virtual hosts.
    pub hosts: Vec<VirtualHost>,
    /// `ignore_port_in_host_matching`.
    pub ignore_port: bool,
}

/// `VirtualHost`.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Its routes, in order.
    pub routes: Vec<Arc<Route>>,
    /// `include_request_attempt_count`.
    pub attempt_count: bool,
}

/// Domains in Envoy's order: exact, longest suffix wildcard (`*.x`), longest prefix wildcard (`x.*`), `*`. Values index `Table::hosts`.
#[derive(Debug, Default)]
pub struct Domains {
    /// Exact hosts, lower case, with port where the domain has one.
    pub exact: FxHashMap<Box<str>, usize>,
    /// `*.x` without the star, longest first.
    pub suffix: Vec<(Box<str>, usize)>,
    /// `x.*` without the star, longest first.
    pub prefix: Vec<(Box<str>, usize)>,
    /// `*`.
    pub any: Option<usize>,
}

impl Table {
    /// The route for a request, or `None`. `roll` is uniform over parts per million.
    pub fn select<'a>(
        &'a self,
        _head: &RequestHead,
        _roll: u32,
        _recorder: &mut impl Recorder,
    ) -> Option<(&'a VirtualHost, &'a Arc<Route>)> {
        None
    }
}
