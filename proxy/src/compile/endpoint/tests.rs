use proptest::prelude::*;

use super::*;
use crate::compile::tests::fixture::yaml;

fn compiled(text: &str) -> Result<Assignment, String> {
    by_address(&yaml(&format!("cluster_name: a\nendpoints:\n{text}"))).map_err(|problem| problem.to_string())
}

fn member(port: u16, rest: &str) -> String {
    format!("{{endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: {port}}}}}}}{rest}}}")
}

fn set(text: &str, locality_weighted: bool) -> EndpointSet {
    compiled(text).unwrap().endpoints(locality_weighted, &EndpointSet::default()).unwrap()
}

fn ports(endpoints: &[Arc<Endpoint>]) -> Vec<u16> {
    endpoints.iter().map(|endpoint| endpoint.address.port()).collect()
}

#[test]
fn another_identity_at_an_address_is_another_endpoint() {
    let assignment = |identity: &str, account: &str| {
        by_address(&yaml(&format!(
            "{{cluster_name: a, endpoints: [{{metadata: {{filter_metadata: {{envoy.transport_socket_match: {{zone: 1}}}}}}, lb_endpoints: [
              {{endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: 80}}}}}}, metadata: {{filter_metadata: {{
                envoy.transport_socket_match: {{identity: {identity}, also: [1]}}, sidegate: {{service_account: {account}}}}}}}}},
              {{endpoint: {{address: {{socket_address: {{address: 10.0.0.2, port_value: 80}}}}}}}}]}}]}}"
        )))
        .unwrap()
    };
    let first = assignment("a", "x").endpoints(false, &EndpointSet::default()).unwrap();
    let labels = |index: usize| first.all[index].labels.as_deref().cloned().unwrap_or_default();
    assert_eq!(labels(0), [("identity".into(), "=a".into())].into(), "what is no plain value is left out");
    assert_eq!(labels(1), [("zone".into(), "1".into())].into(), "the locality's");
    assert!(assignment("a", "x").endpoints(false, &first).is_none(), "nothing has changed");
    for (identity, account) in [("b", "x"), ("a", "y")] {
        let second = assignment(identity, account).endpoints(false, &first).unwrap();
        assert_ne!(second.all[0].id, first.all[0].id, "its connections serve nobody any more");
        assert_eq!(second.all[1].id, first.all[1].id);
    }
}

#[test]
fn health_decides_who_is_available() {
    let members: Vec<_> = ["UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"]
        .iter()
        .enumerate()
        .map(|(index, status)| member(index as u16, &format!(", health_status: {status}")))
        .collect();
    let set = set(&format!("- lb_endpoints: [{}]", members.join(", ")), false);
    assert_eq!(ports(&set.all), [0, 1, 2, 3, 4, 5]);
    assert_eq!(ports(&set.available), [0, 1, 5]);
}

#[test]
fn the_lowest_priority_number_with_anyone_available_serves() {
    let text = |status: &str| {
        format!(
            "- {{priority: 1, lb_endpoints: [{}]}}\n- {{priority: 0, lb_endpoints: [{}]}}",
            member(1, ""),
            member(2, &format!(", health_status: {status}"))
        )
    };
    assert_eq!(ports(&set(&text("HEALTHY"), false).available), [2]);
    assert_eq!(ports(&set(&text("UNHEALTHY"), false).available), [1]);
}

#[test]
fn locality_weights_count_only_when_asked_for() {
    let text = format!(
        "- {{load_balancing_weight: 3, lb_endpoints: [{}, {}, {}]}}\n- {{load_balancing_weight: 1, lb_endpoints: [{}]}}\n- {{lb_endpoints: [{}]}}",
        member(1, ""),
        member(2, ""),
        member(3, ", load_balancing_weight: 2"),
        member(4, ""),
        member(5, ""),
    );
    let plain = set(&text, false);
    assert_eq!(plain.all.iter().map(|one| one.weight).collect::<Vec<_>>(), [1, 1, 2, 1, 1]);
    let weighted = set(&text, true);
    let weights: Vec<_> = weighted.all.iter().map(|one| one.weight).collect();
    assert_eq!(weights[2], 2 * weights[0]);
    assert_eq!(weights[0] + weights[1] + weights[2], 3 * weights[3]);
    assert_eq!(ports(&weighted.available), [1, 2, 3, 4], "a locality without weight gets nothing");
}

#[test]
fn metadata_and_duplicates() {
    let pod = |pod: &str| {
        format!(
            ", metadata: {{filter_metadata: {{sidegate: {{workload: web, namespace: shop, service_account: sa, pod: {pod}}}}}}}"
        )
    };
    let text = format!(
        "- lb_endpoints: [{}, {}, {}]",
        member(1, &pod("web-1")),
        member(1, &pod("web-1")),
        member(1, &pod("web-2"))
    );
    let set = set(&text, false);
    assert_eq!(set.all.len(), 2, "the same address in another pod is another endpoint");
    let origin = set.all[1].origin.as_ref().unwrap();
    assert_eq!(
        (&*origin.workload, &*origin.namespace, &*origin.service_account, &*origin.pod),
        ("web", "shop", "sa", "web-2")
    );
}

#[test]
fn refusals_name_the_member() {
    for (text, expected) in [
        (
            "- lb_endpoints: [{endpoint: {address: {socket_address: {address: web, port_value: 80}}}}]"
                .to_owned(),
            "endpoints[0].lb_endpoints[0].endpoint.address.address: web is not an IP address",
        ),
        (
            "- lb_endpoints: [{endpoint: {address: {pipe: {path: /x}}}}]".to_owned(),
            "endpoints[0].lb_endpoints[0].endpoint.address: pipe addresses are not supported yet",
        ),
        (
            format!("- lb_endpoints: [{}]", member(1, ", load_balancing_weight: 0")),
            "endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1",
        ),
        (
            "- lb_endpoints: [{endpoint_name: x}]".to_owned(),
            "endpoints[0].lb_endpoints[0].endpoint_name: is not supported yet",
        ),
    ] {
        assert_eq!(compiled(&text).unwrap_err(), expected);
    }
    let drops = "cluster_name: a\npolicy: {drop_overloads: [{category: x, drop_percentage: {numerator: 5}}]}";
    assert_eq!(
        by_address(&yaml(drops)).unwrap_err().to_string(),
        "policy.drop_overloads: is not supported yet"
    );
}

#[test]
fn names_stand_for_addresses() {
    let text = "cluster_name: a
endpoints:
- lb_endpoints:
  - {load_balancing_weight: 2, endpoint: {address: {socket_address: {address: web, port_value: 80}}}}
  - {endpoint: {hostname: named, address: {socket_address: {address: db, port_value: 81}}}}
";
    let template = by_name(&yaml(text)).unwrap();
    let set = template
        .resolved(|host| match host {
            "web" => vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            _ => vec!["::1".parse().unwrap()],
        })
        .endpoints(false, &EndpointSet::default())
        .unwrap();
    let shown: Vec<_> = set
        .all
        .iter()
        .map(|one| (one.address.to_string(), one.hostname.as_deref().unwrap().to_owned(), one.weight))
        .collect();
    assert_eq!(
        shown,
        [
            ("10.0.0.1:80".to_owned(), "web".to_owned(), 2),
            ("10.0.0.2:80".to_owned(), "web".to_owned(), 2),
            ("[::1]:81".to_owned(), "named".to_owned(), 1)
        ]
    );
}

proptest! {
    /// From any assignment to any other: who stays is the same endpoint, who is new is not, and the order is the assignment's.
    #[test]
    fn identity_follows_the_key(
        before in prop::collection::vec((0..6_u16, 1..3_u32, any::<bool>()), 0..6),
        after in prop::collection::vec((0..6_u16, 1..3_u32, any::<bool>()), 0..6),
    ) {
        let assignment = |members: &[(u16, u32, bool)]| Assignment {
            localities: vec![Locality {
                priority: 0,
                weight: None,
                members: members
                    .iter()
                    .map(|(port, weight, available)| Member {
                        address: SocketAddr::from(([10, 0, 0, 1], *port)),
                        hostname: None,
                        weight: *weight,
                        available: *available,
                        labels: None,
                        origin: None,
                    })
                    .collect(),
            }],
        };
        let first = assignment(&before).endpoints(false, &EndpointSet::default()).unwrap();
        let changed = assignment(&after).endpoints(false, &first);
        let mut ids = HashMap::new();
        for endpoint in &first.all {
            ids.insert(endpoint.address, endpoint.id);
        }
        let second = match &changed {
            Some(second) => second,
            None => &first,
        };
        for endpoint in &second.all {
            match ids.get(&endpoint.address) {
                Some(id) => prop_assert_eq!(*id, endpoint.id),
                None => prop_assert!(!ids.values().any(|id| *id == endpoint.id)),
            }
        }
        let mut expected: Vec<u16> = Vec::new();
        for (port, ..) in &after {
            if !expected.contains(port) {
                expected.push(*port);
            }
        }
        prop_assert_eq!(ports(&second.all), expected);
        prop_assert!(assignment(&after).endpoints(false, second).is_none(), "nothing changes twice");
    }
}
