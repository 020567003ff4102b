//! What the control plane says about itself on its admin page: which generation it serves, and who has applied it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use crate::ca::rotation::Phase;
use crate::status::{Proxy, Report, Role};

/// The admin page of the control plane.
#[derive(Debug)]
pub(super) struct ControlPlane {
    client: Client,
}

/// The proxies that must apply a change: `gateway shop`, `sidecar web-1`.
pub(super) type Expected = BTreeSet<String>;

/// How many of the expected proxies have applied this generation.
pub(super) fn applied(report: &Report, expected: &Expected, generation: u64) -> usize {
    expected.len() - lagging(report, expected, generation).len()
}

/// The expected proxies that have not, each with the reason if one is known.
fn lagging(report: &Report, expected: &Expected, generation: u64) -> Vec<String> {
    expected.iter().filter_map(|name| lag(report, name, generation)).collect()
}

/// A proxy may be listed twice while an old stream of it is being forgotten: the best one counts.
fn lag(report: &Report, name: &str, generation: u64) -> Option<String> {
    let proxies: Vec<&Proxy> = report.proxies.iter().filter(|proxy| is_named(proxy, name)).collect();
    let newest = proxies.iter().map(|proxy| proxy.applied_generation).max();
    if newest.is_some_and(|applied| applied >= generation) {
        return None;
    }
    let Some(applied) = newest else { return Some(format!("{name} is not connected")) };
    let errors: Vec<String> = proxies
        .iter()
        .flat_map(|proxy| &proxy.types)
        .filter_map(|state| {
            state.error.as_ref().map(|error| format!("{} {}: {error}", state.kind, state.state.word()))
        })
        .collect();
    let why = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
    Some(format!("{name} is at generation {applied}{why}"))
}

fn is_named(proxy: &Proxy, name: &str) -> bool {
    let role = match proxy.role {
        Role::Gateway => "gateway",
        Role::Sidecar => "sidecar",
    };
    name.split_once(' ') == Some((role, &proxy.name))
}

impl ControlPlane {
    /// The control plane whose admin page is at `address`.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { client: Client::new(address) }
    }

    /// Asks once.
    pub(super) async fn status(&self) -> Result<Report, String> {
        let asked = tokio::time::timeout(ASK_LIMIT, self.client.get("/status")).await;
        let response =
            asked.map_err(|_| "/status does not answer".to_owned())?.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("/status answers {}", response.status()));
        }
        serde_json::from_slice(response.body())
            .map_err(|error| format!("/status is not as expected: {error}"))
    }

    /// Waits until every expected proxy has got a certificate of the new root.
    pub(super) async fn wait_renewed(&self, expected: &Expected) -> Result<(), String> {
        while !is_renewed(&self.status().await?, expected) {
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Waits until every expected proxy has applied a generation above `before`; any at all when there is none.
    /// Returns that generation, or what was still missing when the time was up.
    pub(super) async fn wait_applied(
        &self,
        expected: &Expected,
        before: Option<u64>,
        limit: Duration,
    ) -> Result<u64, String> {
        let deadline = Instant::now() + limit;
        loop {
            let missing = match self.status().await {
                Ok(status) => match target(&status, before) {
                    None => format!("the control plane is still at generation {}", status.generation),
                    Some(target) => match lagging(&status, expected, target) {
                        lagging if lagging.is_empty() => return Ok(status.generation),
                        lagging => lagging.join(", "),
                    },
                },
                Err(reason) => format!("the control plane: {reason}"),
            };
            if Instant::now() >= deadline {
                return Err(missing);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// Whether every expected proxy has got a certificate of the root that signs now.
fn is_renewed(report: &Report, expected: &Expected) -> bool {
    let signing = report.ca.as_ref().is_some_and(|authority| authority.rotation.phase == Phase::Signing);
    let renewed = |proxy: &Proxy| proxy.certificate.as_ref().is_some_and(|certificate| certificate.renewed);
    signing
        && expected
            .iter()
            .all(|name| report.proxies.iter().any(|proxy| is_named(proxy, name) && renewed(proxy)))
}

/// The generation to wait for, once the control plane has it. The first above `before` holds the edit; a new process
/// has everything from its first one on.
fn target(status: &Report, before: Option<u64>) -> Option<u64> {
    match before {
        Some(before) => (status.generation > before).then_some(before + 1),
        None => (status.generation > 0).then_some(status.generation),
    }
}

const ASK_LIMIT: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Report {
        serde_json::from_str(text).unwrap()
    }

    fn expected(names: &[&str]) -> Expected {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const TWO: &str = r#"{ "generation": 7, "findings": [], "conditions": [], "proxies": [
        { "id": "gateway~shop.shop", "role": "gateway", "namespace": "shop", "name": "shop", "foreign": false,
          "connected_seconds": 1.2, "applied_generation": 7, "types": [] },
        { "id": "sidecar~web-1.shop", "role": "sidecar", "namespace": "shop", "name": "web-1", "foreign": false,
          "connected_seconds": 1.2, "applied_generation": 6, "types": [
            { "type": "route", "resources": 4, "sent": "b", "accepted": "a", "state": "rejected",
              "error": "no such cluster", "since_seconds": 0.4 } ] } ] }"#;

    #[test]
    fn who_lags_is_named_with_the_reason() {
        let status = status(TWO);
        let both = expected(&["gateway shop", "sidecar web-1"]);
        assert_eq!(applied(&status, &both, 6), 2);
        assert_eq!(applied(&status, &both, 7), 1);
        assert_eq!(
            lagging(&status, &both, 7),
            ["sidecar web-1 is at generation 6 (route rejected: no such cluster)"]
        );
        assert_eq!(lagging(&status, &expected(&["sidecar web-2"]), 1), ["sidecar web-2 is not connected"]);
    }

    #[test]
    fn an_edit_is_in_the_first_generation_above_the_one_before_it() {
        let status = status(TWO);
        assert_eq!(target(&status, Some(7)), None);
        assert_eq!(target(&status, Some(5)), Some(6));
        assert_eq!(target(&status, None), Some(7));
        assert_eq!(target(&Report::default(), None), None);
    }
}
