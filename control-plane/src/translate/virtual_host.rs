//! Routes of one port → virtual hosts: every host gets the routes of its own listener, in the order of precedence.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use sidegate_xds::envoy::config::route::v3::{Route as WireRoute, VirtualHost};

use super::attach::{self, GatewayListener};
use super::hostname::{self, ANY};
use super::normal::Route;
use super::route::Compiled;

/// A route on a listener, compiled.
pub(super) struct Entry<'e, 'a> {
    pub(super) listener: usize,
    pub(super) domains: &'e BTreeSet<String>,
    pub(super) route: &'e Route<'a>,
    pub(super) compiled: &'e [Compiled],
}

/// Which entry's which match: what makes two hosts' route lists equal.
type Place = (usize, usize);

/// The virtual hosts of one port, each with the listener that owns it. Hosts with the same routes share one.
///
/// A host belongs to the most specific listener that takes it, and never falls through to another one: a listener with a
/// hostname has a virtual host even when no route is attached, so that a wider listener does not answer for it.
/// Within its listener a host gets the rules of every route that has a hostname for it, those of the more specific hostname
/// first ("precedence must be given to rules from the HTTPRoute with the largest number of characters in a matching
/// non-wildcard hostname"), so that a wildcard's rules answer what the exact host's do not.
pub(super) fn assemble(
    listeners: &[GatewayListener<'_>],
    port: u16,
    entries: &[Entry<'_, '_>],
) -> Vec<(usize, VirtualHost)> {
    let mut by_pattern: FxHashMap<(usize, &str), Vec<usize>> = FxHashMap::default();
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        for domain in entry.domains.iter().filter(|domain| attach::owns(listeners, entry.listener, domain)) {
            domains.insert(domain, entry.listener);
        }
        for domain in entry.domains {
            by_pattern.entry((entry.listener, domain)).or_default().push(index);
        }
    }
    for (index, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.port == port) {
        if listener.hostname != ANY {
            domains.entry(&listener.hostname).or_insert(index);
        }
    }
    let mut groups: BTreeMap<(usize, Vec<Place>), Vec<&str>> = BTreeMap::new();
    for (domain, listener) in domains {
        groups
            .entry((listener, routes_for(listener, domain, entries, &by_pattern)))
            .or_default()
            .push(domain);
    }
    let mut hosts: Vec<(usize, VirtualHost)> = groups
        .into_iter()
        .map(|((listener, places), domains)| {
            let routes =
                places.into_iter().map(|(entry, position)| entries[entry].compiled[position].route.clone());
            (listener, host(domains.into_iter().map(str::to_owned).collect(), routes.collect()))
        })
        .collect();
    hosts.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    hosts
}

/// A virtual host, called after its first domain.
pub(super) fn host(domains: Vec<String>, routes: Vec<WireRoute>) -> VirtualHost {
    VirtualHost {
        name: domains.first().cloned().unwrap_or_default(),
        domains,
        routes,
        ..VirtualHost::default()
    }
}

/// All routes of several objects, in the order of precedence.
pub(super) fn in_order<'e>(objects: impl Iterator<Item = (&'e Route<'e>, &'e [Compiled])>) -> Vec<WireRoute> {
    let mut all: Vec<(&Route<'_>, &Compiled)> =
        objects.flat_map(|(route, compiled)| compiled.iter().map(move |each| (route, each))).collect();
    all.sort_by(|one, other| precedence(one.0, one.1).cmp(&precedence(other.0, other.1)));
    all.into_iter().map(|(_, compiled)| compiled.route.clone()).collect()
}

/// Sorts first what is to be asked first.
fn precedence<'e>(route: &'e Route<'_>, compiled: &Compiled) -> impl Ord + use<'e> {
    (Reverse(compiled.rank), route.seniority(), compiled.rule, compiled.position)
}

fn routes_for(
    listener: usize,
    domain: &str,
    entries: &[Entry<'_, '_>],
    by_pattern: &FxHashMap<(usize, &str), Vec<usize>>,
) -> Vec<Place> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    // From the most specific pattern to the widest, so that a route counts with its best hostname.
    for pattern in patterns(domain) {
        let specificity = hostname::specificity(&pattern);
        for entry in by_pattern.get(&(listener, pattern.as_str())).into_iter().flatten().copied() {
            if seen.insert(entry) {
                let places =
                    (0..entries[entry].compiled.len()).map(|position| (specificity, (entry, position)));
                found.extend(places);
            }
        }
    }
    let key = |(entry, position): Place| precedence(entries[entry].route, &entries[entry].compiled[position]);
    found.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| key(one.1).cmp(&key(other.1))));
    found.into_iter().map(|(_, place)| place).collect()
}

/// Every pattern that covers a domain: itself, `*.` before each of its suffixes, and `*`.
fn patterns(domain: &str) -> Vec<String> {
    let mut patterns = vec![domain.to_owned()];
    let mut rest = domain.strip_prefix("*.").unwrap_or(domain);
    while let Some((_, suffix)) = rest.split_once('.') {
        patterns.push(format!("*.{suffix}"));
        rest = suffix;
    }
    if domain != ANY {
        patterns.push(ANY.to_owned());
    }
    patterns
}
