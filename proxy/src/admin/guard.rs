//! What keeps web pages out. A page in an operator's browser can send requests to loopback; it cannot choose the `Host` that goes
//! with them nor hide where it comes from.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method};

/// Refuses what no operator's tool sends, and says why.
pub(super) fn check(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    // A name could be made to point here after the page was loaded from elsewhere (DNS rebinding); an address could not.
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
    if !host.is_some_and(is_local_name) {
        return Err("the Host must be an IP address or localhost: reach the admin server by its address\n");
    }
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    // A page elsewhere may send a plain POST without asking; then the browser says so here.
    let own = format!("http://{}", host.unwrap_or_default());
    let foreign_origin = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes() != own.as_bytes());
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if foreign_origin || !matches!(site, None | Some(b"same-origin" | b"none")) {
        return Err("requests from other sites are refused\n");
    }
    Ok(())
}

/// Whether the host part, with or without a port, is an address or `localhost`.
fn is_local_name(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest),
        None => {
            let at = host.find(':').unwrap_or(host.len());
            host.split_at(at)
        }
    };
    let port_is_sound =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    port_is_sound && (name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: &Method, fields: &[(&'static str, &'static str)]) -> bool {
        let fields = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        check(method, &fields.collect()).is_ok()
    }

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        for host in
            ["127.0.0.1", "127.0.0.1:15000", "localhost:15000", "LOCALHOST", "[::1]:15000", "10.1.2.3"]
        {
            assert!(verdict(&Method::GET, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:15000",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "",
            "[::1",
            "1:x",
        ] {
            assert!(!verdict(&Method::GET, &[("host", host)]), "{host}");
        }
        assert!(!verdict(&Method::GET, &[]));
    }

    #[test]
    fn pages_of_other_sites_cannot_post() {
        let host = ("host", "127.0.0.1:15000");
        assert!(verdict(&Method::POST, &[host]));
        assert!(verdict(&Method::POST, &[host, ("origin", "http://127.0.0.1:15000")]));
        assert!(verdict(&Method::POST, &[host, ("sec-fetch-site", "same-origin")]));
        assert!(!verdict(&Method::POST, &[host, ("origin", "https://evil.example")]));
        assert!(!verdict(&Method::POST, &[host, ("origin", "null")]));
        assert!(!verdict(&Method::POST, &[host, ("sec-fetch-site", "cross-site")]));
    }
}
