//! Who a request of the admin page says it was sent to, and by what page: a browser on this machine reaches the port too, and a page of
//! anybody's must not speak through it.
//!
//! A page that resolves its own name to this machine (DNS rebinding) sends that name as the host; one of another origin says so.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request};

/// Whether to answer; `local` is the address at which the request came in.
pub(super) fn is_fine<B>(request: &Request<B>, local: Option<SocketAddr>) -> bool {
    let headers = request.headers();
    let host = match (request.uri().authority(), one(headers, HOST.as_str())) {
        // What stands in the request line counts (RFC 9112, 3.2.2).
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(text)) => text.parse::<Authority>().ok(),
        (None, None) => None,
    };
    let by_page = headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some_and(is_foreign);
    // Probes and scrapers reach a port that is open to the network by names, too, and learn no proxy's name by these.
    let open = local.is_some_and(|local| !local.ip().to_canonical().is_loopback());
    let harmless = open && matches!(request.uri().path(), "/healthz" | "/metrics");
    !by_page && (harmless || host.is_some_and(|host| is_nobodys(&host)))
}

/// Names that no page can have: addresses, and the machine's own.
fn is_nobodys(host: &Authority) -> bool {
    let name = host.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn is_foreign(site: &http::HeaderValue) -> bool {
    !matches!(site.as_bytes(), b"none" | b"same-origin")
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine(path: &str, headers: &[(&str, &str)], local: &str) -> bool {
        let request = headers
            .iter()
            .fold(Request::builder().uri(path), |request, (name, value)| request.header(*name, *value));
        is_fine(&request.body(()).unwrap(), Some(local.parse().unwrap()))
    }

    #[test]
    fn m7_a_page_of_anybodys_gets_no_answer() {
        let here = "127.0.0.1:15014";
        for host in ["127.0.0.1:15014", "localhost:15014", "LOCALHOST", "[::1]:15014", "10.0.0.7:15014"] {
            assert!(fine("/status", &[("host", host)], here), "{host}");
        }
        for host in
            ["evil.example", "evil.example:15014", "localhost.evil.example", "127.0.0.1.evil.example", ""]
        {
            for path in ["/status", "/metrics", "/authz/check"] {
                assert!(!fine(path, &[("host", host)], here), "{host}");
            }
        }
        assert!(!fine("/status", &[], here), "no host at all");
        assert!(!fine("/status", &[("host", "localhost"), ("host", "evil.example")], here));
        let of_page = |name, value| fine("/status", &[("host", "127.0.0.1:15014"), (name, value)], here);
        assert!(!of_page("origin", "http://evil.example") && !of_page("origin", "null"));
        assert!(!of_page("sec-fetch-site", "cross-site"));
        assert!(of_page("sec-fetch-site", "none"), "typed by a person");
        assert!(!fine("http://evil.example/status", &[("host", "127.0.0.1:15014")], here));
    }

    #[test]
    fn m7_a_port_that_is_open_is_probed_by_its_name_and_says_no_more() {
        let name = [("host", "sidegate.sidegate-system.svc:15014")];
        assert!(fine("/metrics", &name, "10.0.0.7:15014") && fine("/healthz", &name, "10.0.0.7:15014"));
        assert!(!fine("/status", &name, "10.0.0.7:15014"));
    }
}
