//! Sidecars: what comes in, what goes out, and routes with Services as parents.

use sidegate_xds::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;

use super::fixture::{SERVICES, Shown, action, destination, show_address, sidecar};

fn pod(ip: &str, annotations: &str) -> String {
    format!(
        "---\nkind: Pod\nmetadata: {{name: me, namespace: shop, annotations: {{{annotations}}}}}\nstatus: {{podIP: {ip}}}\n---\n"
    )
}

const OTHER: &str = "kind: Service\nmetadata: {name: far, namespace: other}\nspec: {ports: [{port: 8080}, {port: 80}]}\n---\n\
    kind: Service\nmetadata: {name: outside, namespace: shop}\nspec: {type: ExternalName, externalName: a.b, ports: [{port: 80}]}\n---\n";

/// The sidecar `shop/me` with an outbound proxy, among a few Services.
fn mesh(beside: &str) -> Shown {
    let pod = pod("10.0.0.1", "sidegate.dev/outbound-proxy: '15001', sidegate.dev/inbound: '8080:15006'");
    sidecar(&(pod + SERVICES + OTHER + beside), "shop", "me")
}

fn route(name: &str, namespace: &str, parent: &str, backend: &str) -> String {
    format!(
        "---\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{{group: '', kind: Service, \
         {parent}}}], rules: [{{backendRefs: [{backend}]}}]}}\n"
    )
}

#[test]
fn inbound_goes_to_the_app_on_the_pods_address() {
    let shown = mesh("");
    let listener = shown.listener("inbound|15006||");
    assert_eq!(show_address(listener.address.as_ref().unwrap()), "10.0.0.1:15006");
    let Some(RouteSpecifier::RouteConfig(table)) = shown.manager("inbound|15006||").route_specifier else {
        panic!()
    };
    assert_eq!(table.name, "inbound|8080||");
    let route = &table.virtual_hosts[0].routes[0];
    assert_eq!(destination(route), "inbound|8080||");
    assert_eq!(action(route).timeout.unwrap().seconds, 0);
    assert_eq!(action(route).retry_policy.unwrap().retry_on, "connect-failure,refused-stream");
    let cluster = shown.cluster("inbound|8080||");
    assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(0)));
    assert!(shown.0.verdicts.iter().all(|verdict| verdict.status), "{:?}", shown.0.verdicts);
}

#[test]
fn outbound_knows_every_service_by_all_its_names() {
    let shown = mesh("");
    let table = shown.table("outbound-proxy");
    let domains: Vec<_> =
        table.virtual_hosts.iter().map(|host| (host.name.as_str(), host.domains.join(" "))).collect();
    let expected = [
        (
            "far.other.svc.cluster.local:8080",
            "far.other.svc.cluster.local:8080 far.other.svc:8080 far.other:8080",
        ),
        (
            "far.other.svc.cluster.local:80",
            "far.other.svc.cluster.local far.other.svc far.other far.other.svc.cluster.local:80 far.other.svc:80 far.other:80",
        ),
        (
            "canary.shop.svc.cluster.local:80",
            "canary.shop.svc.cluster.local canary.shop.svc canary.shop canary canary.shop.svc.cluster.local:80 canary.shop.svc:80 \
             canary.shop:80 canary:80",
        ),
        (
            "web.shop.svc.cluster.local:80",
            "web.shop.svc.cluster.local web.shop.svc web.shop web web.shop.svc.cluster.local:80 web.shop.svc:80 web.shop:80 web:80",
        ),
        ("*", "*"),
    ];
    for (name, names) in expected {
        assert!(domains.contains(&(name, names.to_owned())), "{name}: {domains:#?}");
    }
    assert_eq!(domains.len(), expected.len());
    assert_eq!(domains.last().unwrap().0, "*");
    assert!(!table.ignore_port_in_host_matching);
}

#[test]
fn the_unknown_passes() {
    let shown = mesh("");
    let host = shown.host("outbound-proxy", "*").unwrap();
    let Some(PathSpecifier::ConnectMatcher(_)) = host.routes[0].r#match.as_ref().unwrap().path_specifier
    else {
        panic!()
    };
    assert!(action(&host.routes[0]).upgrade_configs[0].connect_config.is_some());
    assert_eq!(destination(&host.routes[1]), "PassthroughCluster");
    let Some(ClusterDiscoveryType::ClusterType(kind)) =
        shown.cluster("PassthroughCluster").cluster_discovery_type
    else {
        panic!()
    };
    assert_eq!(kind.name, "envoy.clusters.dynamic_forward_proxy");
    let manager = shown.manager("outbound-proxy");
    assert_eq!(
        manager.http_filters.iter().map(|filter| filter.name.as_str()).collect::<Vec<_>>(),
        ["envoy.filters.http.dynamic_forward_proxy", "envoy.filters.http.router"]
    );
    assert!(manager.upgrade_configs.iter().any(|upgrade| upgrade.upgrade_type == "CONNECT"));
}

#[test]
fn the_proxy_stands_where_only_its_app_can_reach_it() {
    for (ip, expected) in [("10.0.0.1", "127.0.0.1:15001"), ("127.0.0.21", "127.0.0.21:15001")] {
        let shown = sidecar(&pod(ip, "sidegate.dev/outbound-proxy: '15001'"), "shop", "me");
        assert_eq!(show_address(shown.listener("outbound-proxy").address.as_ref().unwrap()), expected);
    }
}

#[test]
fn a_pod_that_cannot_be_served_says_why() {
    let none = sidecar("", "shop", "me");
    assert_eq!(none.said("Pod shop/me"), ["Programmed=false Pending"]);
    assert!(none.0.resources.clusters.is_empty());
    let no_address = sidecar("kind: Pod\nmetadata: {name: me, namespace: shop}\n", "shop", "me");
    assert!(no_address.message("Pending").contains("podIP"));
    for annotation in
        ["sidegate.dev/inbound: '8080'", "sidegate.dev/inbound: '1:2,1:3'", "sidegate.dev/outbound-proxy: x"]
    {
        let shown = sidecar(&pod("10.0.0.1", annotation), "shop", "me");
        assert!(shown.said("Pod shop/me").contains(&"Programmed=false Invalid".to_owned()), "{annotation}");
        assert!(shown.0.resources.listeners.is_empty());
    }
}

#[test]
fn a_route_replaces_the_default_of_its_service() {
    let canary = route(
        "r",
        "shop",
        "name: web",
        "{name: web, port: 80, weight: 9}, {name: canary, port: 80, weight: 1}",
    );
    let shown = mesh(&canary);
    let host = shown.host("outbound-proxy", "web").unwrap();
    assert_eq!(destination(&host.routes[0]), "outbound|80||web.shop@9 outbound|80||canary.shop@1");
    assert_eq!(host.routes.len(), 2, "the route and CONNECT");
    assert_eq!(
        destination(&shown.host("outbound-proxy", "canary").unwrap().routes[0]),
        "outbound|80||canary.shop"
    );
    assert_eq!(shown.said("HTTPRoute shop/r"), ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"]);
    let default = &shown.host("outbound-proxy", "canary").unwrap().routes[0];
    assert_eq!(action(default).timeout.unwrap().seconds, 0);
}

#[test]
fn a_parent_port_limits_a_route_to_it() {
    let by_port = route("r", "other", "name: far, port: 8080", "{name: far, port: 80}");
    let shown = mesh(&by_port);
    assert_eq!(
        destination(&shown.host("outbound-proxy", "far.other:8080").unwrap().routes[0]),
        "outbound|80||far.other"
    );
    assert_eq!(
        destination(&shown.host("outbound-proxy", "far.other").unwrap().routes[0]),
        "outbound|80||far.other"
    );
    for parent in ["name: far, port: 81", "name: none"] {
        let shown = mesh(&route("r", "other", parent, "{name: far, port: 80}"));
        assert_eq!(shown.said("HTTPRoute other/r")[0], "Accepted=false NoMatchingParent", "{parent}");
    }
}

#[test]
fn a_callers_own_route_takes_the_place_of_the_owners() {
    let grant = "---\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, \
                 kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}\n";
    let owners = route("owner", "other", "name: far", "{name: far, port: 80}");
    let callers =
        route("caller", "shop", "name: far, namespace: other", "{name: far, namespace: other, port: 8080}");
    let strangers = route(
        "stranger",
        "third",
        "name: far, namespace: other",
        "{name: far, namespace: other, port: 8080}",
    );
    let sends =
        |routes: String| destination(&mesh(&routes).host("outbound-proxy", "far.other").unwrap().routes[0]);
    assert_eq!(sends(owners.clone()), "outbound|80||far.other");
    assert_eq!(sends(owners.clone() + &callers + grant), "outbound|8080||far.other");
    assert_eq!(sends(owners.clone() + &strangers), "outbound|80||far.other");
    assert_eq!(sends(strangers), "outbound|80||far.other");
}

#[test]
fn routes_of_two_kinds_do_not_share_a_port() {
    let http = route("http", "shop", "name: web", "{name: canary, port: 80}");
    let grpc =
        route("grpc", "shop", "name: web", "{name: canary, port: 80}").replace("HTTPRoute", "GRPCRoute");
    let shown = mesh(&(http + &grpc));
    assert_eq!(shown.said("HTTPRoute shop/http")[0], "Accepted=false Conflicted");
    assert_eq!(shown.said("GRPCRoute shop/grpc")[0], "Accepted=true Accepted");
}

#[test]
fn a_sidecar_has_a_cluster_for_every_service() {
    let names: Vec<_> = mesh("").0.resources.clusters.into_keys().collect();
    assert_eq!(
        names,
        [
            "PassthroughCluster",
            "inbound|8080||",
            "outbound|8080||far.other.svc.cluster.local",
            "outbound|80||canary.shop.svc.cluster.local",
            "outbound|80||far.other.svc.cluster.local",
            "outbound|80||web.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn a_service_whose_name_is_no_hostname_spoils_nothing() {
    let shown =
        mesh("kind: Service\nmetadata: {name: 'Web', namespace: shop}\nspec: {ports: [{port: 80}]}\n");
    assert_eq!(shown.said("Service shop/Web"), ["Accepted=false Invalid"]);
    assert!(shown.host("outbound-proxy", "web").is_some());
}
