//! Who asks, as far as can be known: `x-forwarded-*`, and what only insiders may say (I3), by Envoy's rules.
//!
//! A peer is *inside* when its address is in `internal_address_config` and it speaks for nobody else. The *edge* is a connection manager with
//! `use_remote_address`: it tells the mesh behind it who asked, and believes of a stranger's headers only what it is told to
//! (`xff_num_trusted_hops`).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::HeaderValue;

use crate::message::{Headers, Name, RequestHead, Scheme, Value};
use crate::snapshot::Forwarding;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// It may steer us (`x-envoy-*`).
    pub(super) inside: bool,
    /// We are the edge and it is a stranger.
    pub(super) stranger: bool,
    /// Its address, where trusted hops say it rather than the connection.
    pub(super) address: Option<IpAddr>,
}

/// Finds out who asks, and makes the headers say so.
pub(super) fn identify(
    rules: &Forwarding,
    edge: bool,
    head: &mut RequestHead,
    peer: SocketAddr,
    local: SocketAddr,
) -> Caller {
    let hops = usize::from(rules.trusted_hops);
    let peer = peer.ip().to_canonical();
    let forwarded = head.headers.contains(FOR);
    let (named, alone) = match (edge, hops) {
        (true, 0) => (None, !forwarded),
        (true, hops) => (nth_from_right(&head.headers, hops - 1).0, !forwarded),
        (false, hops) => nth_from_right(&head.headers, hops),
    };
    let address = named.unwrap_or(peer);
    let inside = alone && rules.internal.iter().any(|range| range.contains(address));
    let trusts = !edge || hops > 0;
    strip(&mut head.headers, inside, edge);
    if edge {
        tell_address(&mut head.headers, peer, address, inside, rules.skip_append);
    }
    tell_scheme(head, trusts);
    if rules.append_port && !(trusts && head.headers.contains(PORT)) {
        head.headers.set(PORT, HeaderValue::from(local.port()));
    }
    if inside {
        head.headers.insert(Name::Static("x-envoy-internal"), Value::Static("true"));
    }
    Caller { inside, stranger: edge && !inside, address: named }
}

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const PORT: &str = "x-forwarded-port";

/// The address that stands so many places before the last in `x-forwarded-for`; and whether it is the only one.
fn nth_from_right(headers: &Headers, skip: usize) -> (Option<IpAddr>, bool) {
    let values: Vec<&[u8]> = headers.get_all(FOR).collect();
    let mut elements = values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    let found = elements.nth(skip).and_then(|element| std::str::from_utf8(element).ok());
    let address = found.and_then(|text| text.trim_matches([' ', '\t']).parse::<IpAddr>().ok());
    let alone = skip == 0 && elements.next().is_none();
    (address.map(|address| address.to_canonical()), address.is_some() && alone)
}

/// `x-forwarded-for` and, of a stranger, `x-envoy-external-address`.
fn tell_address(headers: &mut Headers, peer: IpAddr, address: IpAddr, inside: bool, skip_append: bool) {
    let text = |address: IpAddr| HeaderValue::from_maybe_shared(Bytes::from(address.to_string())).ok();
    let own = text(peer);
    if !inside && let Some(value) = if address == peer { own.clone() } else { text(address) } {
        headers.set("x-envoy-external-address", value);
    }
    let Some(own) = own.filter(|_| !skip_append) else { return };
    if !headers.contains(FOR) {
        return headers.append(Name::Static(FOR), Value::Http(own));
    }
    let mut list = Vec::new();
    for value in headers.get_all(FOR) {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(own.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.set(FOR, value);
    }
}

/// `x-forwarded-proto`: a trusted one counts as the request's scheme, any other is replaced by what the connection is.
fn tell_scheme(head: &mut RequestHead, trusts: bool) {
    if trusts && head.headers.contains(PROTO) {
        let mut values = head.headers.get_all(PROTO);
        let told = match (values.next(), values.next()) {
            (Some(value), None) if value.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
            (Some(value), None) if value.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
            _ => None,
        };
        head.scheme = told.unwrap_or(head.scheme);
        return;
    }
    head.headers.insert(Name::Static(PROTO), Value::Static(head.scheme.as_str()));
}

/// Takes away what would steer us or our neighbours if a stranger's word were obeyed.
fn strip(headers: &mut Headers, inside: bool, edge: bool) {
    let unwanted =
        |name: &[u8]| is_ours(name) && (!inside || starts(name, b"x-sidegate-")) && (edge || steers(name));
    if headers.iter().any(|(name, _)| unwanted(name)) {
        headers.retain(|name, _| !unwanted(name));
    }
}

/// Takes away what only proxies of the mesh say of a response.
pub(super) fn strip_response(headers: &mut Headers) {
    if headers.iter().any(|(name, _)| starts(name, b"x-sidegate-")) {
        headers.retain(|name, _| !starts(name, b"x-sidegate-"));
    }
}

/// Headers of this proxy and its kin.
fn is_ours(name: &[u8]) -> bool {
    // Few names begin so: the rest is settled by one byte.
    matches!(name.first(), Some(b'x' | b'X')) && (starts(name, b"x-envoy-") || starts(name, b"x-sidegate-"))
}

fn starts(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Headers that only insiders may send, also past the edge; the others tell of the request and are passed on within the mesh.
fn steers(name: &[u8]) -> bool {
    STEERING.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

const STEERING: [&str; 15] = [
    "x-envoy-internal",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

#[cfg(test)]
mod tests;
