//! Services, their clusters and endpoints.

use super::fixture::{GATEWAY, Shown, gateway, metadata};

const CLUSTER: &str = "outbound|80||web.shop.svc.cluster.local";

/// A Service `shop/web` with this spec, objects beside it, and a route to its port 80.
fn service(spec: &str, beside: &str) -> Shown {
    gateway(&format!(
        "{GATEWAY}\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n---\n\
         kind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec: {{parentRefs: [{{name: public, namespace: edge}}], \
         rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n{beside}"
    ))
}

fn slice(name: &str, spec: &str) -> String {
    format!(
        "---\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\n{spec}\n"
    )
}

fn pod(name: &str, ip: &str, metadata: &str, rest: &str) -> String {
    format!(
        "---\nkind: Pod\nmetadata: {{name: {name}, namespace: shop{metadata}}}\nstatus: {{podIP: {ip}}}\n{rest}\n"
    )
}

const SPEC: &str = "{selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}";
const WEB: &str = ", labels: {app: web}";

#[test]
fn slices_are_endpoints() {
    let ports = "ports: [{name: http, port: 9000}, {name: admin, port: 9001}]\n";
    let table = [
        ("endpoints: [{addresses: [10.0.0.1]}]", vec!["10.0.0.1:9000"]),
        ("endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]", vec!["10.0.0.1:9000"]),
        ("endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}}]", vec![]),
        (
            "endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]",
            vec!["-10.0.0.1:9000"],
        ),
        (
            "endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: false, terminating: true}}]",
            vec![],
        ),
        (
            "endpoints: [{addresses: [10.0.0.1, 10.0.0.9]}, {addresses: [10.0.0.2]}]",
            vec!["10.0.0.1:9000", "10.0.0.2:9000"],
        ),
        ("endpoints: [{addresses: [nonsense]}]", vec![]),
        ("endpoints: []", vec![]),
    ];
    for (endpoints, expected) in table {
        let shown = service(SPEC, &slice("web-1", &format!("{ports}{endpoints}")));
        assert_eq!(shown.endpoints(CLUSTER), expected, "{endpoints}");
    }
}

#[test]
fn a_slices_port_is_found_by_name() {
    let unnamed = "{ports: [{port: 80}]}";
    for (spec, ports, expected) in [
        (SPEC, "ports: [{name: other, port: 1}]", vec![]),
        (unnamed, "ports: [{port: 7}]", vec!["10.0.0.1:7"]),
        (unnamed, "ports: [{name: '', port: 7}]", vec!["10.0.0.1:7"]),
        (unnamed, "ports: [{name: '', port: 7, protocol: UDP}]", vec![]),
    ] {
        let shown =
            service(spec, &slice("web-1", &format!("{ports}\nendpoints: [{{addresses: [10.0.0.1]}}]")));
        assert_eq!(shown.endpoints(CLUSTER), expected, "{spec} {ports}");
    }
}

#[test]
fn an_endpoint_in_two_slices_is_one() {
    let one = |name: &str, conditions: &str| {
        slice(
            name,
            &format!(
                "ports: [{{name: http, port: 1}}]\nendpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]"
            ),
        )
    };
    let draining = "{ready: false, serving: true, terminating: true}";
    for (first, second) in [("{ready: true}", draining), (draining, "{ready: true}")] {
        let shown = service(SPEC, &(one("web-1", first) + &one("web-2", second)));
        assert_eq!(shown.endpoints(CLUSTER), ["10.0.0.1:1"]);
    }
}

#[test]
fn of_two_address_families_the_services_first_counts() {
    let both = slice("v4", "ports: [{name: http, port: 1}]\nendpoints: [{addresses: [10.0.0.1]}]")
        + &slice("v6", "ports: [{name: http, port: 1}]\nendpoints: [{addresses: ['fd00::1']}]")
            .replace("IPv4", "IPv6");
    assert_eq!(service(SPEC, &both).endpoints(CLUSTER), ["10.0.0.1:1"]);
    let v6 = SPEC.replace("{selector", "{ipFamilies: [IPv6, IPv4], selector");
    assert_eq!(service(&v6, &both).endpoints(CLUSTER), ["fd00::1:1"]);
}

#[test]
fn pods_stand_in_where_there_are_no_slices() {
    let condition = |status: &str| {
        format!(
            "---\nkind: Pod\nmetadata: {{name: c, namespace: shop{WEB}}}\nstatus: {{podIP: 10.0.0.3, conditions: [{{type: Ready, status: '{status}'}}]}}\n"
        )
    };
    let table = [
        (pod("a", "10.0.0.1", WEB, ""), vec!["10.0.0.1:8080"]),
        (pod("a", "10.0.0.1", ", labels: {app: other}", ""), vec![]),
        (pod("a", "10.0.0.1", "", ""), vec![]),
        (condition("True"), vec!["10.0.0.3:8080"]),
        (condition("False"), vec![]),
        (pod("a", "10.0.0.1", &format!("{WEB}, deletionTimestamp: '2024-01-01T00:00:00Z'"), ""), vec!["-10.0.0.1:8080"]),
        ("---\nkind: Pod\nmetadata: {name: d, namespace: shop, labels: {app: web}}\nstatus: {phase: Failed, podIP: 10.0.0.4}\n".to_owned(), vec![]),
        ("---\nkind: Pod\nmetadata: {name: d, namespace: shop, labels: {app: web}}\n".to_owned(), vec![]),
        (pod("a", "10.0.0.1", WEB, "").replace("namespace: shop", "namespace: elsewhere"), vec![]),
    ];
    for (pods, expected) in table {
        assert_eq!(service(SPEC, &pods).endpoints(CLUSTER), expected, "{pods}");
    }
    let unready = SPEC.replace("{selector", "{publishNotReadyAddresses: true, selector");
    assert_eq!(service(&unready, &condition("False")).endpoints(CLUSTER), ["10.0.0.3:8080"]);
}

#[test]
fn where_slices_exist_pods_do_not_count() {
    let both =
        pod("a", "10.0.0.1", WEB, "") + &slice("web-1", "ports: [{name: http, port: 1}]\nendpoints: []");
    assert!(service(SPEC, &both).endpoints(CLUSTER).is_empty());
}

#[test]
fn target_ports_are_numbers_names_or_the_port_itself() {
    let named = "spec: {containers: [{name: app, ports: [{name: web, containerPort: 5000}]}]}";
    for (target, expected) in [
        (", targetPort: 8080", vec!["10.0.0.1:8080"]),
        (", targetPort: web", vec!["10.0.0.1:5000"]),
        (", targetPort: none", vec![]),
        ("", vec!["10.0.0.1:80"]),
    ] {
        let spec = format!("{{selector: {{app: web}}, ports: [{{name: http, port: 80{target}}}]}}");
        assert_eq!(
            service(&spec, &pod("a", "10.0.0.1", WEB, named)).endpoints(CLUSTER),
            expected,
            "{target}"
        );
    }
}

#[test]
fn peers_with_a_sidecar_are_reached_through_it() {
    let annotated = format!("{WEB}, annotations: {{sidegate.dev/inbound: '8080:15006, 9:15007'}}");
    let meshed = pod("a", "10.0.0.1", &annotated, "");
    assert_eq!(service(SPEC, &meshed).endpoints(CLUSTER), ["10.0.0.1:15006"]);
    let other_port = slice("s", "ports: [{name: http, port: 8081}]\nendpoints: [{addresses: [10.0.0.1]}]");
    assert_eq!(service(SPEC, &(meshed.clone() + &other_port)).endpoints(CLUSTER), ["10.0.0.1:8081"]);
    // By name, where the slice says which Pod it is, even though another Pod has the address.
    let by_name = slice(
        "s",
        "ports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: a, namespace: shop}}]",
    );
    assert_eq!(service(SPEC, &(meshed + &by_name)).endpoints(CLUSTER), ["10.0.0.2:15006"]);
}

#[test]
fn endpoints_name_their_workload() {
    let owned = ", labels: {app: web, pod-template-hash: 7d9f}, ownerReferences: \
                 [{apiVersion: apps/v1, kind: ReplicaSet, name: front-7d9f, uid: u, controller: true}]";
    let table = [
        (owned.to_owned(), "front"),
        (WEB.to_owned(), "web"),
        (owned.replace("ReplicaSet, name: front-7d9f", "StatefulSet, name: db"), "db"),
    ];
    for (meta, expected) in table {
        let shown = service(
            SPEC,
            &pod("web-1", "10.0.0.1", &meta, "spec: {serviceAccountName: robot, containers: []}"),
        );
        let named = metadata(&shown.assignment(CLUSTER).endpoints[0].lb_endpoints[0].metadata);
        assert_eq!(named["workload"], expected);
        assert_eq!((named["pod"].as_str(), named["service_account"].as_str()), ("web-1", "robot"));
        assert_eq!(named["namespace"], "shop");
    }
}

#[test]
fn zones_are_localities_with_weights() {
    let shown = service(
        SPEC,
        &slice(
            "s",
            "ports: [{name: http, port: 1}]\nendpoints: [{addresses: [10.0.0.1], zone: b}, {addresses: [10.0.0.2], zone: a}, \
             {addresses: [10.0.0.3], zone: b}]",
        ),
    );
    let localities = shown.assignment(CLUSTER).endpoints;
    let shown: Vec<_> = localities
        .iter()
        .map(|each| {
            (each.locality.as_ref().unwrap().zone.as_str(), each.load_balancing_weight.unwrap().value)
        })
        .collect();
    assert_eq!(shown, [("a", 1), ("b", 2)]);
}

#[test]
fn a_headless_service_is_an_ordinary_cluster() {
    let headless = SPEC.replace("{selector", "{clusterIP: None, selector");
    let shown = service(&headless, &pod("a", "10.0.0.1", WEB, ""));
    assert_eq!(shown.endpoints(CLUSTER), ["10.0.0.1:8080"]);
    assert!(shown.cluster(CLUSTER).eds_cluster_config.is_some());
}

#[test]
fn the_protocol_is_what_the_port_says() {
    for (port, h2) in [
        ("{port: 80}", false),
        ("{name: http, port: 80}", false),
        ("{name: grpc, port: 80}", true),
        ("{name: grpc-web, port: 80}", true),
        ("{name: http2-x, port: 80}", true),
        ("{name: x, port: 80, appProtocol: kubernetes.io/h2c}", true),
        ("{name: x, port: 80, appProtocol: grpc}", true),
        ("{name: grpc, port: 80, appProtocol: http}", false),
        ("{name: grpcish, port: 80}", false),
    ] {
        let shown = service(&format!("{{ports: [{port}]}}"), "");
        assert_eq!(!shown.cluster(CLUSTER).typed_extension_protocol_options.is_empty(), h2, "{port}");
    }
}
