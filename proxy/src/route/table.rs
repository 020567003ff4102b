//! A route table: domains → virtual host → the first route that matches.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Recorder, Route};
use crate::message::RequestHead;

/// `RouteConfiguration`, compiled.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Which virtual host a host belongs to.
    pub(crate) domains: Domains,
    /// The virtual hosts.
    pub(crate) hosts: Vec<VirtualHost>,
    /// `ignore_port_in_host_matching`.
    pub(crate) ignore_port: bool,
}

/// `VirtualHost`.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its routes, in order.
    pub(crate) routes: Vec<Arc<Route>>,
    /// `include_request_attempt_count`.
    pub(crate) attempt_count: bool,
}

/// Domains in Envoy's order: exact, longest suffix wildcard (`*.x`), longest prefix wildcard (`x.*`), `*`. Values index `Table::hosts`.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    /// Exact hosts, lower case, with port where the domain has one.
    pub(crate) exact: FxHashMap<Box<str>, usize>,
    /// `*.x` without the star, longest first.
    pub(crate) suffix: Vec<(Box<str>, usize)>,
    /// `x.*` without the star, longest first.
    pub(crate) prefix: Vec<(Box<str>, usize)>,
    /// `*`.
    pub(crate) any: Option<usize>,
}

impl Table {
    /// The route for a request, or `None`. `roll` is uniform over parts per million.
    pub(crate) fn select<'a>(
        &'a self,
        head: &RequestHead,
        roll: u32,
        recorder: &mut impl Recorder,
    ) -> Option<(&'a VirtualHost, &'a Arc<Route>)> {
        let authority = head.authority.as_ref().map_or("", |authority| authority.as_str());
        let Some(host) = self.virtual_host(authority) else {
            recorder
                .note(|| format!("no virtual host of {} has a domain for host \"{authority}\"", self.name));
            return None;
        };
        recorder.note(|| format!("host \"{authority}\" belongs to virtual host {}", host.name));
        for route in &host.routes {
            match route.matcher.mismatch(head, roll) {
                Some(mismatch) => recorder.note(|| format!("route {} {mismatch}", route.name)),
                None => {
                    recorder.note(|| match &route.origin {
                        Some(origin) => format!("route {} matches (from {origin})", route.name),
                        None => format!("route {} matches", route.name),
                    });
                    return Some((host, route));
                }
            }
        }
        recorder.note(|| format!("no route of virtual host {} matches", host.name));
        None
    }

    /// The virtual host for an authority as it came: any case, with or without port, perhaps with the root's trailing dot.
    pub(crate) fn virtual_host(&self, authority: &str) -> Option<&VirtualHost> {
        if self.domains.are_all_alike() {
            return self.hosts.get(self.domains.any?);
        }
        let (host, port) = split_port(authority);
        let host = host.strip_suffix('.').unwrap_or(host);
        let port = if self.ignore_port { "" } else { port };
        let index = with_lower_case([host, port], |host| self.domains.find(host))?;
        self.hosts.get(index)
    }
}

impl Domains {
    /// Whether no host is told from another.
    fn are_all_alike(&self) -> bool {
        self.exact.is_empty() && self.suffix.is_empty() && self.prefix.is_empty()
    }

    /// The best match for a host in lower case, as an index into `Table::hosts`.
    fn find(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let longer = |part: &str| host.len() > part.len();
        let suffix = self.suffix.iter().find(|(suffix, _)| longer(suffix) && host.ends_with(&**suffix));
        let found = suffix
            .or_else(|| self.prefix.iter().find(|(prefix, _)| longer(prefix) && host.starts_with(&**prefix)));
        found.map(|(_, index)| *index).or(self.any)
    }

    /// Adds a domain in any of the four forms, for the virtual host at `index`.
    ///
    /// # Errors
    /// When the domain is taken already, or has a `*` elsewhere than at one end.
    pub(crate) fn insert(&mut self, domain: &str, index: usize) -> Result<(), DomainError> {
        let domain = normalise(domain);
        let taken = match domain.as_str() {
            "" => return Err(DomainError::Malformed),
            "*" => self.any.replace(index).is_some(),
            text => match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (Some(suffix), None) => insert_longest_first(&mut self.suffix, suffix, index)?,
                (None, Some(prefix)) => insert_longest_first(&mut self.prefix, prefix, index)?,
                (None, None) if !text.contains('*') => self.exact.insert(text.into(), index).is_some(),
                _ => return Err(DomainError::Malformed),
            },
        };
        if taken { Err(DomainError::Taken) } else { Ok(()) }
    }
}

/// Why a domain was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DomainError {
    /// Another virtual host, or this one, has it.
    #[error("is there twice; each domain belongs to one virtual host")]
    Taken,
    /// The star is not at one end.
    #[error("is not a domain: a host, `*.suffix`, `prefix.*` or `*`")]
    Malformed,
}

fn insert_longest_first(
    list: &mut Vec<(Box<str>, usize)>,
    part: &str,
    index: usize,
) -> Result<bool, DomainError> {
    if part.contains('*') {
        return Err(DomainError::Malformed);
    }
    if list.iter().any(|(other, _)| **other == *part) {
        return Ok(true);
    }
    let place = list.partition_point(|(other, _)| other.len() >= part.len());
    list.insert(place, (part.into(), index));
    Ok(false)
}

/// A configured domain as hosts are compared: lower case, without the root's trailing dot.
fn normalise(domain: &str) -> String {
    let (host, port) = split_port(domain);
    let host = host.strip_suffix('.').unwrap_or(host);
    format!("{host}{port}").to_ascii_lowercase()
}

/// Host and `:port` (or empty). A colon inside brackets belongs to an IPv6 address.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rfind(':') {
        Some(colon) if authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => {
            let (host, port) = authority.split_at(colon);
            let bare_v6 = host.contains(':') && !host.ends_with(']');
            match (bare_v6, port) {
                (true, _) => (authority, ""),
                (false, ":") => (host, ""),
                (false, port) => (host, port),
            }
        }
        _ => (authority, ""),
    }
}

/// Calls `use_it` with the parts joined in lower case, on the stack unless the host is longer than any DNS name.
fn with_lower_case<T>(parts: [&str; 2], use_it: impl FnOnce(&str) -> T) -> T {
    let mut stack = [0_u8; LONGEST_HOST];
    let length = parts[0].len() + parts[1].len();
    let Some(buffer) = stack.get_mut(..length) else {
        return use_it(&parts.concat().to_ascii_lowercase());
    };
    let (host, port) = buffer.split_at_mut(parts[0].len());
    host.copy_from_slice(parts[0].as_bytes());
    port.copy_from_slice(parts[1].as_bytes());
    buffer.make_ascii_lowercase();
    // Lower-casing ASCII keeps UTF-8 valid: the default cannot be reached.
    use_it(std::str::from_utf8(buffer).unwrap_or_default())
}

/// A DNS name has at most 253 characters; a port adds six.
const LONGEST_HOST: usize = 260;

#[cfg(test)]
mod tests;
