use std::time::Duration;

use super::*;
use crate::compile::cluster;
use crate::compile::tests::fixture::yaml;

fn dns(text: &str) -> Plan {
    let text = format!(
        "{{name: a, {text}, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [
           {{endpoint: {{address: {{socket_address: {{address: web, port_value: 80}}}}}}}}]}}]}}}}"
    );
    cluster::compile(&yaml(&text), &mut crate::compile::Contexts::default()).unwrap()
}

struct Scenario {
    clusters: Clusters,
    now: Instant,
}

impl Scenario {
    fn new(plan: Plan) -> Self {
        let mut clusters = Clusters::new(Metrics::new(0));
        let now = Instant::now();
        assert!(!clusters.accept(plan, now), "a cluster of names waits for addresses");
        Self { clusters, now }
    }

    fn answer(&mut self, addresses: &[&str]) -> bool {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.clusters.resolve("a", &|_| addresses.clone())
    }

    fn hosts(&self) -> Vec<String> {
        let serving = self.clusters.serving();
        let endpoints = serving["a"].endpoints.load();
        endpoints.all.iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
    }
}

#[test]
fn names_become_endpoints_in_an_order_that_does_not_rotate() {
    let mut scenario = Scenario::new(dns("type: STRICT_DNS"));
    assert!(scenario.clusters.is_warming("a"));
    assert!(scenario.answer(&["10.0.0.2", "10.0.0.1", "::1"]));
    assert_eq!(scenario.hosts(), ["10.0.0.1", "10.0.0.2"]);
    let before = scenario.clusters.serving()["a"].endpoints.load_full();
    assert!(!scenario.answer(&["::1", "10.0.0.1", "10.0.0.2"]));
    assert!(Arc::ptr_eq(&before, &scenario.clusters.serving()["a"].endpoints.load_full()));
    scenario.answer(&["::1"]);
    assert_eq!(scenario.hosts(), ["::1"], "IPv6 when there is nothing else");
}

#[test]
fn families() {
    for (family, expected) in [
        ("V4_ONLY", vec!["10.0.0.1"]),
        ("V6_ONLY", vec!["::1"]),
        ("V4_PREFERRED", vec!["10.0.0.1"]),
        ("AUTO", vec!["10.0.0.1"]),
        ("ALL", vec!["10.0.0.1", "::1"]),
    ] {
        let mut scenario = Scenario::new(dns(&format!("type: STRICT_DNS, dns_lookup_family: {family}")));
        scenario.answer(&["::1", "10.0.0.1"]);
        assert_eq!(scenario.hosts(), expected, "{family}");
    }
}

#[test]
fn a_logical_cluster_stays_with_its_address_while_it_is_in_the_answer() {
    let mut scenario = Scenario::new(dns("type: LOGICAL_DNS"));
    scenario.answer(&["10.0.0.2", "10.0.0.3"]);
    assert_eq!(scenario.hosts(), ["10.0.0.2"]);
    scenario.answer(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(scenario.hosts(), ["10.0.0.2"]);
    scenario.answer(&["10.0.0.1", "10.0.0.3"]);
    assert_eq!(scenario.hosts(), ["10.0.0.1"]);
}

#[test]
fn without_an_answer_it_starts_empty() {
    let mut scenario = Scenario::new(dns("type: STRICT_DNS"));
    assert_eq!(scenario.clusters.deadline(), Some(scenario.now + Duration::from_secs(5)));
    assert!(scenario.clusters.expire(scenario.now + Duration::from_secs(5)));
    assert!(scenario.hosts().is_empty());
    assert!(!scenario.answer(&["10.0.0.1"]), "later answers swap in place");
    assert_eq!(scenario.hosts(), ["10.0.0.1"]);
}

#[test]
fn a_changed_cluster_of_the_same_names_serves_on_with_what_it_has() {
    let mut scenario = Scenario::new(dns("type: STRICT_DNS"));
    scenario.answer(&["10.0.0.1"]);
    assert!(scenario.clusters.accept(dns("type: STRICT_DNS, lb_policy: RANDOM"), scenario.now));
    assert_eq!(scenario.hosts(), ["10.0.0.1"]);
    assert_eq!(scenario.clusters.deadline(), None);
    assert!(!scenario.clusters.resolve("ghost", &|_| Vec::new()));
}
