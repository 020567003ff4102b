//! GRPCRoutes.

use sidegate_xds::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;

use super::fixture::{GATEWAY, SERVICES, Shown, action, destination, gateway, sidecar};

/// A GRPCRoute `shop/NAME` with these rules.
fn route(name: &str, metadata: &str, hostnames: &str, rules: &[&str]) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("  - {{{rule}}}\n")).collect();
    format!(
        "---\nkind: GRPCRoute\nmetadata: {{name: {name}, namespace: shop{metadata}}}\nspec:\n  \
         parentRefs: [{{name: public, namespace: edge}}]\n  hostnames: {hostnames}\n  rules:\n{}",
        rules.concat()
    )
}

fn rules(rules: &[&str]) -> Shown {
    gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", "", "[]", rules)))
}

fn path(route: &sidegate_xds::envoy::config::route::v3::Route) -> String {
    match route.r#match.clone().unwrap().path_specifier.unwrap() {
        PathSpecifier::Prefix(path) => format!("{path}*"),
        PathSpecifier::Path(path) => path,
        PathSpecifier::SafeRegex(regex) => format!("~{}", regex.regex),
        other => panic!("{other:?}"),
    }
}

#[test]
fn methods_are_paths() {
    let table = [
        ("matches: [{method: {service: a.B, method: Get}}]", "/a.B/Get"),
        ("matches: [{method: {service: a.B}}]", "/a.B/*"),
        ("matches: [{method: {method: Get}}]", "~/[^/]+/Get"),
        ("matches: [{method: {type: RegularExpression, service: 'a\\.(B|C)'}}]", "~/(?:a\\.(B|C))/[^/]+"),
        ("matches: [{method: {type: RegularExpression, service: a, method: 'G|S'}}]", "~/(?:a)/(?:G|S)"),
        ("matches: [{headers: [{name: v, value: '1'}]}]", "/*"),
        ("name: all", "/*"),
    ];
    for (given, expected) in table {
        let shown = rules(&[&format!("{given}, backendRefs: [{{name: web, port: 80}}]")]);
        assert_eq!(path(&shown.route()), expected, "{given}");
        assert_eq!(destination(&shown.route()), "outbound|80||web.shop");
    }
    let bad = rules(&["matches: [{method: {service: a/b}}], backendRefs: [{name: web, port: 80}]"]);
    assert!(bad.routes("*").is_empty());
    assert!(bad.said("GRPCRoute shop/web").contains(&"PartiallyInvalid=true UnsupportedValue".to_owned()));
}

#[test]
fn precedence_counts_service_then_method_then_headers() {
    let to_web = ", backendRefs: [{name: web, port: 80}]";
    let given = [
        "matches: [{method: {method: LongMethodName}}]",
        "matches: [{method: {service: a}}]",
        "matches: [{method: {service: a, method: M}}]",
        "matches: [{method: {service: aa}}]",
        "matches: [{method: {service: a}, headers: [{name: h, value: x}]}]",
        "name: rest",
    ];
    let given: Vec<String> = given.iter().map(|rule| format!("{rule}{to_web}")).collect();
    let shown = rules(&given.iter().map(String::as_str).collect::<Vec<_>>());
    let names: Vec<_> = shown.routes("*").iter().map(path).collect();
    assert_eq!(names, ["/aa/*", "/a/M", "/a/*", "/a/*", "~/[^/]+/LongMethodName", "/*"]);
    assert_eq!(shown.routes("*")[2].r#match.as_ref().unwrap().headers.len(), 1);
}

#[test]
fn backends_speak_http2_and_failures_are_unavailable() {
    let shown = rules(&["backendRefs: [{name: web, port: 80}, {name: none, port: 80}]"]);
    let cluster = shown.cluster("outbound|80||web.shop.svc.cluster.local");
    assert!(
        cluster
            .typed_extension_protocol_options
            .contains_key("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
    );
    let action = action(&shown.route());
    assert_eq!(
        action.cluster_not_found_response_code,
        i32::from(ClusterNotFoundResponseCode::ServiceUnavailable)
    );
    assert_eq!(action.timeout.unwrap().seconds, 0, "streams have no bound by default");
    assert_eq!(destination(&rules(&["name: empty"]).route()), "503");
}

#[test]
fn filters_apply() {
    let shown = rules(&[
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}, \
        {type: RequestMirror, requestMirror: {backendRef: {name: canary, port: 80}}}], backendRefs: [{name: web, port: 80}]",
    ]);
    assert_eq!(shown.route().request_headers_to_add.len(), 1);
    assert_eq!(action(&shown.route()).request_mirror_policies.len(), 1);
    let shown = rules(&[
        "filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}], backendRefs: [{name: web, port: 80}]",
    ]);
    assert_eq!(destination(&shown.route()), "503");
}

#[test]
fn http_and_grpc_do_not_share_a_host() {
    let http = |created: &str, hostnames: &str| {
        format!(
            "---\nkind: HTTPRoute\nmetadata: {{name: http, namespace: shop{created}}}\nspec: {{parentRefs: \
             [{{name: public, namespace: edge}}], hostnames: {hostnames}, rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n"
        )
    };
    let rule = ["backendRefs: [{name: web, port: 80}]"];
    let created = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    // (HTTP created, hosts), (gRPC created, hosts), who loses
    let table = [
        ((created(2024), "[a.com]"), (created(2023), "[a.com]"), "HTTPRoute shop/http"),
        ((created(2023), "[a.com]"), (created(2024), "['*.com']"), "GRPCRoute shop/grpc"),
        ((String::new(), "[]"), (String::new(), "[a.com]"), "HTTPRoute shop/http"),
        ((String::new(), "[a.com]"), (String::new(), "[b.com]"), ""),
    ];
    for ((http_created, http_hosts), (grpc_created, grpc_hosts), loser) in table {
        let yaml = GATEWAY.to_owned()
            + SERVICES
            + &http(&http_created, http_hosts)
            + &route("grpc", &grpc_created, grpc_hosts, &rule);
        let shown = gateway(&yaml);
        for object in ["HTTPRoute shop/http", "GRPCRoute shop/grpc"] {
            let expected =
                if object == loser { "Accepted=false Conflicted" } else { "Accepted=true Accepted" };
            assert_eq!(shown.said(object)[0], expected, "{http_hosts} {grpc_hosts}");
        }
    }
}

#[test]
fn the_receiving_sidecar_speaks_http2_to_its_app_too() {
    let pod = "---\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: \
               {sidegate.dev/inbound: '8080:15006'}}\nstatus: {podIP: 10.0.0.1}\n";
    let services = SERVICES.replacen("spec: {ports", "spec: {selector: {app: web}, ports", 1);
    let yaml = GATEWAY.to_owned()
        + &services
        + pod
        + &route("web", "", "[]", &["backendRefs: [{name: web, port: 80}]"]);
    let cluster = sidecar(&yaml, "shop", "web-1").cluster("inbound|8080||");
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
    let plain = sidecar(&(services + pod), "shop", "web-1").cluster("inbound|8080||");
    assert!(plain.typed_extension_protocol_options.is_empty());
}
