//! Endpoints by the request's own authority (D14): names are resolved, and the answers kept for a short time.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::SendError;
use crate::cluster::Endpoint;
use crate::error::Reason;

/// One worker's resolved destinations.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    known: RefCell<FxHashMap<Box<str>, Known>>,
    /// One endpoint for each address, so that connections are pooled whatever name led there.
    endpoints: RefCell<FxHashMap<SocketAddr, Arc<Endpoint>>>,
}

#[derive(Clone, Debug)]
struct Known {
    until: Instant,
    endpoint: Arc<Endpoint>,
}

impl Resolver {
    /// The endpoint for `host[:port]`.
    pub(crate) async fn endpoint(
        &self,
        authority: &str,
        default_port: u16,
        time_limit: Duration,
    ) -> Result<Arc<Endpoint>, SendError> {
        let now = Instant::now();
        if let Some(known) = self.known.borrow().get(authority)
            && known.until > now
        {
            return Ok(known.endpoint.clone());
        }
        let (host, port) = split(authority, default_port);
        let address = match host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, port),
            Err(_) => match resolve(host, port, time_limit).await {
                Ok(address) => address,
                // A resolver that fails for a while must not take along what was good a moment ago.
                Err(error) => self.last(authority).ok_or(error)?,
            },
        };
        Ok(self.remember(authority, address, now))
    }

    /// The endpoint at the address that a redirected connection wanted to reach, on a port of the cluster's own if it has one.
    pub(crate) fn original(&self, destination: SocketAddr, port: Option<u16>) -> Arc<Endpoint> {
        let address = SocketAddr::new(destination.ip(), port.unwrap_or(destination.port()));
        if let Some(endpoint) = self.endpoints.borrow().get(&address) {
            return endpoint.clone();
        }
        self.remember(&address.to_string(), address, Instant::now())
    }

    /// The last good answer for a name, however old.
    fn last(&self, authority: &str) -> Option<SocketAddr> {
        self.known.borrow().get(authority).map(|known| known.endpoint.address)
    }

    fn remember(&self, authority: &str, address: SocketAddr, now: Instant) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, known| known.until > now);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            // An endpoint that only we still hold has no request in flight and no name: its pool goes too.
            let named: Vec<_> = known.values().map(|known| known.endpoint.address).collect();
            endpoints.retain(|address, endpoint| Arc::strong_count(endpoint) > 1 || named.contains(address));
        }
        let endpoint =
            endpoints.entry(address).or_insert_with(|| Arc::new(Endpoint::new(address, 1))).clone();
        known.insert(authority.into(), Known { until: now + KEEP, endpoint: endpoint.clone() });
        endpoint
    }
}

async fn resolve(host: &str, port: u16, time_limit: Duration) -> Result<SocketAddr, SendError> {
    let failed =
        |detail: String| SendError::not_sent(Reason::DnsFailure, format!("cannot resolve {host}: {detail}"));
    let mut addresses = match tokio::time::timeout(time_limit, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {time_limit:?}"))),
    };
    // IPv4 first, as `dns_lookup_family: V4_PREFERRED`.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| failed("no address".into()))
}

/// Host and port of an authority; brackets of an IPv6 literal are taken off.
pub(crate) fn split(authority: &str, default_port: u16) -> (&str, u16) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().unwrap_or(default_port))
        }
        _ => (authority, default_port),
    };
    (host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host), port)
}

/// How long an answer is used.
const KEEP: Duration = Duration::from_secs(5);
/// How many names are remembered.
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_authorities() {
        assert_eq!(split("a.test", 80), ("a.test", 80));
        assert_eq!(split("a.test:8080", 80), ("a.test", 8080));
        assert_eq!(split("[::1]:8080", 80), ("::1", 8080));
        assert_eq!(split("[::1]", 443), ("::1", 443));
        assert_eq!(split("::1", 80), ("::1", 80));
    }

    #[tokio::test(start_paused = true)]
    async fn e7_the_last_good_answer_stays_while_a_name_does_not_resolve() {
        let resolver = Resolver::default();
        let limit = Duration::from_secs(1);
        // A label has 63 bytes at most: nobody is asked.
        let name = format!("{}.test", "a".repeat(64));
        let error = resolver.endpoint(&name, 80, limit).await.expect_err("no such name");
        assert_eq!(error.reason, Reason::DnsFailure);
        let good = resolver.remember(&name, "127.0.0.1:81".parse().unwrap(), Instant::now());
        tokio::time::advance(KEEP * 2).await;
        assert!(Arc::ptr_eq(&good, &resolver.endpoint(&name, 80, limit).await.unwrap()));
    }

    #[tokio::test]
    async fn one_endpoint_for_each_address() {
        let resolver = Resolver::default();
        let limit = Duration::from_secs(1);
        let first = resolver.endpoint("127.0.0.1:81", 80, limit).await.unwrap();
        let second = resolver.endpoint("127.0.0.1:81", 80, limit).await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }
}
