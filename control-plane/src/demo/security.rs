//! What the demo tries that must not work, and what it counts of who called whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Empty;
use serde::Serialize;
use tokio::time::timeout;

use super::client::Client;
use super::manifests::{self, ShopPod};

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Security {
    /// Sidecars that were spoken to without TLS.
    pub(super) plaintext_tried: usize,
    /// Those of them that answered nothing.
    pub(super) plaintext_refused: usize,
    /// A call that policy forbids was answered with 403 and its reason.
    pub(super) forbidden_denied: bool,
    /// Requests that arrived over mutual TLS, by caller and called: `shop → web`.
    pub(super) edges: BTreeMap<String, u64>,
    /// Requests that arrived otherwise.
    pub(super) without_tls: u64,
    /// Seconds until the first certificate of a proxy expires.
    pub(super) next_expiry_seconds: Option<u64>,
    /// How long the exchange of the mesh's root took under load.
    pub(super) root_rotated_ms: Option<u64>,
}

impl Security {
    /// Whether everything that must not work did not, and nothing came unprotected.
    pub(super) fn holds(&self) -> bool {
        self.plaintext_tried > 0
            && self.plaintext_refused == self.plaintext_tried
            && self.forbidden_denied
            && self.without_tls == 0
            && !self.edges.is_empty()
    }
}

/// Speaks to a sidecar as a stranger would: no TLS, no identity. True when it answers nothing.
pub(super) async fn refuses_plaintext(pod: &ShopPod) -> bool {
    let client = Client::new(SocketAddr::new(pod.place.address, pod.place.inbound));
    !matches!(timeout(LIMIT, client.get("/")).await, Ok(Ok(_answered)))
}

/// Calls `reviews` as `web`, whom policy does not let: through the sidecar of `web`, so with its identity. `Ok` when it is denied.
pub(super) async fn is_denied(web: &ShopPod) -> Result<(), String> {
    let client = Client::new(SocketAddr::new(web.place.address, web.place.outbound));
    let request = Request::get(format!("http://{FORBIDDEN}.{}/", manifests::NAMESPACE))
        .header(HOST, format!("{FORBIDDEN}.{}", manifests::NAMESPACE))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = timeout(LIMIT, client.send(request)).await.map_err(|_| "no answer".to_owned())?;
    let response = response.map_err(|error| error.to_string())?;
    let reason =
        response.headers().get("x-sidegate-reason").and_then(|value| value.to_str().ok()).unwrap_or("none");
    if response.status() == StatusCode::FORBIDDEN && reason.starts_with("access_denied") {
        return Ok(());
    }
    Err(format!("{} with reason {reason}, instead of 403 access_denied", response.status()))
}

/// Adds what a sidecar has counted of the requests that arrived at it.
pub(super) async fn count(pod: &ShopPod, security: &mut Security) -> Result<(), String> {
    let client = Client::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), pod.place.admin));
    let page = timeout(LIMIT, client.get("/stats/prometheus")).await.map_err(|_| "no answer".to_owned())?;
    let page = page.map_err(|error| error.to_string())?;
    for line in String::from_utf8_lossy(page.body()).lines() {
        let Some(arrived) = Arrived::read(line) else { continue };
        if arrived.mutual_tls {
            let edge = format!("{} → {}", account(arrived.source), pod.app);
            *security.edges.entry(edge).or_default() += arrived.requests;
        } else {
            security.without_tls += arrived.requests;
        }
    }
    Ok(())
}

/// One line of `istio_requests_total`, as the called side reports it.
#[derive(Debug, PartialEq, Eq)]
struct Arrived<'a> {
    source: &'a str,
    mutual_tls: bool,
    requests: u64,
}

impl<'a> Arrived<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix("istio_requests_total{")?;
        let (labels, value) = rest.rsplit_once('}')?;
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        (label("reporter")? == "destination").then_some(())?;
        // A denial is not a call that came through.
        if label("response_code")? == "403" {
            return None;
        }
        let requests: f64 = value.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            source: label("source_principal")?,
            mutual_tls: label("connection_security_policy")? == "mutual_tls",
            requests: requests as u64,
        })
    }
}

/// `web` of `spiffe://cluster.local/ns/shop/sa/web`.
fn account(principal: &str) -> &str {
    principal.rsplit_once("/sa/").map_or(principal, |(_, account)| account)
}

/// Whom `web` may not call.
const FORBIDDEN: &str = "reviews";

const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"istio_requests_total{reporter="destination",source_workload="web",source_principal="spiffe://cluster.local/ns/shop/sa/web",response_code="200",connection_security_policy="mutual_tls"} 12"#;

    #[test]
    fn what_arrived_is_read_from_the_called_side() {
        let arrived = Arrived::read(LINE).unwrap();
        assert_eq!((account(arrived.source), arrived.mutual_tls, arrived.requests), ("web", true, 12));
        assert_eq!(
            Arrived::read(&LINE.replace("mutual_tls", "none")).map(|arrived| arrived.mutual_tls),
            Some(false)
        );
        for other in [
            LINE.replace("destination", "source"),
            LINE.replace("200", "403"),
            LINE.replace("_total", "_sum"),
            String::new(),
        ] {
            assert_eq!(Arrived::read(&other), None, "{other}");
        }
    }

    #[test]
    fn one_sidecar_that_answers_a_stranger_is_too_many() {
        let holding = Security {
            plaintext_tried: 5,
            plaintext_refused: 5,
            forbidden_denied: true,
            edges: [("web → catalog".to_owned(), 1)].into(),
            ..Security::default()
        };
        assert!(holding.holds());
        assert!(!Security { plaintext_refused: 4, ..holding.clone() }.holds());
        assert!(!Security { forbidden_denied: false, ..holding.clone() }.holds());
        assert!(!Security { without_tls: 1, ..holding.clone() }.holds());
        assert!(!Security::default().holds());
    }
}
