//! Filters of rules and of backendRefs.

use sidegate_xds::envoy::config::core::v3::HeaderValueOption;
use sidegate_xds::envoy::config::route::v3::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use sidegate_xds::envoy::config::route::v3::{RedirectAction, RouteAction};

use super::fixture::{GATEWAY, SERVICES, Shown, action, destination, gateway};

/// A rule with this path match, these filters and these backendRefs.
fn rule(path: &str, filters: &str, backends: &str) -> Shown {
    rule_on_port(80, path, filters, backends)
}

fn rule_on_port(port: u16, path: &str, filters: &str, backends: &str) -> Shown {
    let gateway_yaml = GATEWAY.replace("port: 80", &format!("port: {port}"));
    gateway(&format!(
        "{gateway_yaml}{SERVICES}\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\n\
         spec:\n  parentRefs: [{{name: public, namespace: edge}}]\n  rules:\n  \
         - {{matches: [{{path: {path}}}], filters: {filters}, backendRefs: {backends}}}\n"
    ))
}

const WEB: &str = "[{name: web, port: 80}]";
const PREFIX: &str = "{value: /}";

fn show(options: &[HeaderValueOption]) -> Vec<String> {
    let each = options.iter().map(|option| {
        let header = option.header.as_ref().unwrap();
        let sign = match option.append_action {
            0 => "+",
            2 => "=",
            other => panic!("action {other}"),
        };
        format!("{}{sign}{}", header.key, header.value)
    });
    each.collect()
}

#[test]
fn headers_are_set_added_and_removed() {
    let shown = rule(
        PREFIX,
        "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: 50%}], add: [{name: B, value: b}], remove: [C]}}, \
          {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: D, value: d}], remove: [E, F]}}]",
        WEB,
    );
    let route = shown.route();
    // Envoy reads values as format strings.
    assert_eq!(show(&route.request_headers_to_add), ["A=50%%", "B+b"]);
    assert_eq!(route.request_headers_to_remove, ["c"]);
    assert_eq!(show(&route.response_headers_to_add), ["D=d"]);
    assert_eq!(route.response_headers_to_remove, ["e", "f"]);
    assert_eq!(destination(&route), "outbound|80||web.shop");
}

#[test]
fn a_backends_own_headers_stay_with_its_share() {
    let shown = rule(
        PREFIX,
        "[]",
        "[{name: web, port: 80, weight: 3, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: v, value: a}]}}]}, \
          {name: canary, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]}]",
    );
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = action(&shown.route()).cluster_specifier else {
        panic!()
    };
    assert_eq!(destination(&shown.route()), "outbound|80||web.shop@3 outbound|80||canary.shop@1");
    assert_eq!(show(&weighted.clusters[0].request_headers_to_add), ["v+a"]);
    assert_eq!(weighted.clusters[1].response_headers_to_remove, ["x"]);
    // A single backend needs the weighted form for the sake of its headers.
    let shown = rule(
        PREFIX,
        "[]",
        "[{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [v]}}]}]",
    );
    assert_eq!(destination(&shown.route()), "outbound|80||web.shop@1");
}

#[test]
fn what_cannot_be_done_makes_the_rule_answer_500_and_is_named() {
    let table = [
        ("[{type: CORS, cors: {}}]", WEB, "UnsupportedValue", "filters[0]: CORS is not supported"),
        (
            "[{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]",
            WEB,
            "UnsupportedValue",
            "ExtensionRef",
        ),
        ("[{type: RequestHeaderModifier}]", WEB, "UnsupportedValue", "RequestHeaderModifier"),
        (
            "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: x}]}}]",
            WEB,
            "UnsupportedValue",
            "URLRewrite.hostname",
        ),
        (
            "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"x\\ny\"}]}}]",
            WEB,
            "UnsupportedValue",
            "control characters",
        ),
        (
            "[{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
            "[]",
            "UnsupportedValue",
            "statusCode 200",
        ),
        (
            "[{type: RequestRedirect, requestRedirect: {hostname: a.com}}]",
            WEB,
            "IncompatibleFilters",
            "cannot stand beside",
        ),
        (
            "[{type: URLRewrite, urlRewrite: {hostname: '*.com'}}]",
            WEB,
            "UnsupportedValue",
            "is not a hostname",
        ),
        (
            "[{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: x}}}]",
            WEB,
            "UnsupportedValue",
            "is not a path",
        ),
    ];
    for (filters, backends, reason, text) in table {
        let shown = rule(PREFIX, filters, backends);
        assert_eq!(destination(&shown.route()), "500", "{filters}");
        assert_eq!(shown.said("HTTPRoute shop/web")[0], format!("Accepted=false {reason}"), "{filters}");
        assert!(shown.message(reason).contains(text), "{filters}: {}", shown.message(reason));
    }
    let shown = rule(
        "{type: Exact, value: /a}",
        "[{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
        WEB,
    );
    assert!(shown.message("UnsupportedValue").contains("needs a PathPrefix"));
}

#[test]
fn a_filter_that_a_backend_cannot_have_costs_only_its_share() {
    let shown = rule(
        PREFIX,
        "[]",
        "[{name: web, port: 80}, {name: canary, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.com}}]}]",
    );
    assert_eq!(
        destination(&shown.route()),
        "outbound|80||web.shop@1 blackhole|UnsupportedValue|shop/web|0|1@1"
    );
    assert!(
        shown.message("UnsupportedValue").starts_with("spec.rules[0].backendRefs[1].filters[0]: URLRewrite")
    );
}

fn redirect(port: u16, path: &str, settings: &str) -> RedirectAction {
    let filters = format!("[{{type: RequestRedirect, requestRedirect: {settings}}}]");
    let shown = gateway_route(port, path, &filters);
    match shown.action {
        Some(Action::Redirect(redirect)) => redirect,
        other => panic!("{other:?}"),
    }
}

fn gateway_route(port: u16, path: &str, filters: &str) -> sidegate_xds::envoy::config::route::v3::Route {
    let shown = rule_on_port(port, path, filters, "[]");
    shown.table(&format!("edge/public/{port}")).virtual_hosts[0].routes[0].clone()
}

#[test]
fn redirects_keep_to_the_gateway_apis_rules_of_ports() {
    // listener port, settings, port in the redirect (0: none)
    let table = [
        (80, "{hostname: a.com}", 0),
        (8080, "{hostname: a.com}", 8080),
        (80, "{scheme: https}", 0),
        (80, "{scheme: https, port: 8443}", 8443),
        (80, "{scheme: https, port: 443, hostname: a.com}", 0),
        // The host that the client asked for may carry :8080, which must not stay.
        (8080, "{scheme: https}", 443),
        (8080, "{scheme: http, hostname: a.com}", 0),
        (80, "{port: 8080}", 8080),
        (80, "{scheme: http, port: 443}", 443),
    ];
    for (listener, settings, expected) in table {
        assert_eq!(redirect(listener, PREFIX, settings).port_redirect, expected, "{listener} {settings}");
    }
    let full = redirect(80, PREFIX, "{scheme: https, hostname: a.com, statusCode: 308}");
    assert_eq!(full.host_redirect, "a.com");
    assert_eq!(
        full.scheme_rewrite_specifier,
        Some(SchemeRewriteSpecifier::SchemeRedirect("https".to_owned()))
    );
    let codes = [(301, 0), (302, 1), (303, 2), (307, 3), (308, 4)];
    for (status, code) in codes {
        assert_eq!(redirect(80, PREFIX, &format!("{{statusCode: {status}}}")).response_code, code);
    }
}

#[test]
fn redirects_change_paths() {
    let full = redirect(80, PREFIX, "{path: {type: ReplaceFullPath, replaceFullPath: /x}}");
    assert_eq!(full.path_rewrite_specifier, Some(PathRewriteSpecifier::PathRedirect("/x".to_owned())));
    let prefix = redirect(80, "{value: /a}", "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/}}");
    assert_eq!(prefix.path_rewrite_specifier, Some(PathRewriteSpecifier::PrefixRewrite("/x".to_owned())));
}

fn rewrite(path: &str, settings: &str) -> RouteAction {
    action(&rule(path, &format!("[{{type: URLRewrite, urlRewrite: {settings}}}]"), WEB).route())
}

/// What a rewritten prefix makes of a path: as Envoy does it.
fn rewritten(action: &RouteAction, prefix: &str, path: &str) -> String {
    if let Some(rewrite) = &action.regex_rewrite {
        let pattern = regex::Regex::new(&rewrite.pattern.as_ref().unwrap().regex).unwrap();
        return pattern.replace_all(path, rewrite.substitution.as_str()).into_owned();
    }
    if action.prefix_rewrite.is_empty() {
        return path.to_owned();
    }
    format!("{}{}", action.prefix_rewrite, path.strip_prefix(prefix).unwrap())
}

#[test]
fn rewritten_prefixes_neither_lose_nor_double_slashes() {
    // The Gateway API's own table (HTTPPathModifier), and a few more.
    let table = [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo.x/bar", "/foo.x", "/", "/bar"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/bar", "/", "/", "/bar"),
    ];
    for (path, prefix, replacement, expected) in table {
        let settings = format!("{{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{replacement}'}}}}");
        let action = rewrite(&format!("{{value: {prefix}}}"), &settings);
        let matched = if prefix == "/" { "/" } else { prefix.trim_end_matches('/') };
        assert_eq!(rewritten(&action, matched, path), expected, "{path}: {prefix} → {replacement:?}");
    }
    let action = rewrite(PREFIX, "{hostname: b.com, path: {type: ReplaceFullPath, replaceFullPath: '/x'}}");
    assert_eq!(rewritten(&action, "/", "/any/thing"), "/x");
    assert_eq!(
        action.host_rewrite_specifier,
        Some(HostRewriteSpecifier::HostRewriteLiteral("b.com".to_owned()))
    );
}

#[test]
fn mirrors_copy_their_share() {
    let mirror = |settings: &str| {
        let filters = format!(
            "[{{type: RequestMirror, requestMirror: {{backendRef: {{name: canary, port: 80}}{settings}}}}}]"
        );
        rule(PREFIX, &filters, WEB)
    };
    let table = [
        ("", 1_000_000),
        (", percent: 25", 250_000),
        (", fraction: {numerator: 1, denominator: 1000}", 1000),
        (", percent: 0", 0),
    ];
    for (settings, millionths) in table {
        let shown = mirror(settings);
        let policy = &action(&shown.route()).request_mirror_policies[0];
        assert_eq!(policy.cluster, "outbound|80||canary.shop.svc.cluster.local");
        let share = policy.runtime_fraction.as_ref().unwrap().default_value.as_ref().unwrap();
        assert_eq!((share.numerator, share.denominator), (millionths, 2), "{settings}");
        assert!(shown.0.resources.clusters.contains_key(&policy.cluster), "a mirror's cluster is needed too");
    }
    for settings in [
        ", percent: 101",
        ", percent: 1, fraction: {numerator: 1}",
        ", fraction: {numerator: 1, denominator: 0}",
    ] {
        assert_eq!(destination(&mirror(settings).route()), "500", "{settings}");
    }
    // A mirror that leads nowhere does not stop the request.
    let shown =
        rule(PREFIX, "[{type: RequestMirror, requestMirror: {backendRef: {name: none, port: 80}}}]", WEB);
    assert_eq!(destination(&shown.route()), "outbound|80||web.shop");
    assert!(action(&shown.route()).request_mirror_policies.is_empty());
    assert!(
        shown
            .message("BackendNotFound")
            .contains("requestMirror.backendRef: Service shop/none does not exist")
    );
}
