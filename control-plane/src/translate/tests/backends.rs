//! Backends, their shares, timeouts and retries.

use std::time::Duration;

use sidegate_xds::envoy::config::route::v3::RetryPolicy;
use sidegate_xds::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode;

use super::fixture::{GATEWAY, SERVICES, Shown, action, destination, gateway, metadata, view};
use crate::model::{Name, Scope};
use crate::translate::translate;

const OTHER: &str = r#"
kind: Service
metadata: {name: far, namespace: other}
spec: {ports: [{port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
"#;

/// A route `shop/web` with one rule of these lines.
fn yaml(rule: &str) -> String {
    format!(
        "{GATEWAY}{SERVICES}{OTHER}\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop, generation: 7}}\n\
         spec:\n  parentRefs: [{{name: public, namespace: edge}}]\n  rules:\n  - {{{rule}}}\n"
    )
}

fn rule(rule: &str) -> Shown {
    gateway(&yaml(rule))
}

#[test]
fn shares_are_kept_and_references_that_lead_nowhere_fail_their_share() {
    // backendRefs, destination, what is said of ResolvedRefs
    let table = [
        ("[{name: web, port: 80}]", "outbound|80||web.shop", ""),
        (
            "[{name: web, port: 80, weight: 90}, {name: canary, port: 80, weight: 10}]",
            "outbound|80||web.shop@90 outbound|80||canary.shop@10",
            "",
        ),
        (
            "[{name: web, port: 80, weight: 1}, {name: canary, port: 80, weight: 0}]",
            "outbound|80||web.shop",
            "",
        ),
        ("[{name: web, port: 80, weight: 0}]", "500", ""),
        ("[{name: web, port: 80, weight: 0}, {name: canary, port: 80, weight: 0}]", "500", ""),
        ("[]", "500", ""),
        ("[{name: none, port: 80}]", "blackhole|BackendNotFound|shop/web|0|0", "BackendNotFound"),
        (
            "[{name: web, port: 80}, {name: none, port: 80, weight: 2}]",
            "outbound|80||web.shop@1 blackhole|BackendNotFound|shop/web|0|1@2",
            "BackendNotFound",
        ),
        ("[{name: web, port: 81}]", "blackhole|BackendNotFound|shop/web|0|0", "BackendNotFound"),
        ("[{name: web}]", "blackhole|BackendNotFound|shop/web|0|0", "BackendNotFound"),
        (
            "[{name: far, namespace: other, port: 80}]",
            "blackhole|RefNotPermitted|shop/web|0|0",
            "RefNotPermitted",
        ),
        ("[{name: web, kind: Bucket, group: x.io}]", "blackhole|InvalidKind|shop/web|0|0", "InvalidKind"),
        ("[{name: outside, port: 80}]", "blackhole|UnsupportedProtocol|shop/web|0|0", "UnsupportedProtocol"),
    ];
    for (backends, expected, reason) in table {
        let shown = rule(&format!("backendRefs: {backends}"));
        assert_eq!(destination(&shown.route()), expected, "{backends}");
        let said = shown.said("HTTPRoute shop/web");
        let resolved = if reason.is_empty() {
            "ResolvedRefs=true ResolvedRefs".to_owned()
        } else {
            format!("ResolvedRefs=false {reason}")
        };
        assert_eq!(said, ["Accepted=true Accepted".to_owned(), resolved], "{backends}");
        if expected.starts_with("blackhole") || expected.contains('@') {
            let code = action(&shown.route()).cluster_not_found_response_code;
            assert_eq!(code, i32::from(ClusterNotFoundResponseCode::InternalServerError), "{backends}");
        }
        assert!(shown.0.resources.clusters.keys().all(|name| !name.contains("blackhole")));
    }
}

#[test]
fn a_rule_without_backend_refs_answers_500() {
    assert_eq!(destination(&rule("name: empty").route()), "500");
}

#[test]
fn a_grant_permits_what_it_names() {
    let grant = |from: &str, to: &str| {
        yaml("backendRefs: [{name: far, namespace: other, port: 80}]")
            + &format!(
                "---\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec: {{from: [{from}], to: [{to}]}}\n"
            )
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}";
    let table = [
        (from, "{group: '', kind: Service}", true),
        (from, "{group: '', kind: Service, name: far}", true),
        (from, "{group: '', kind: Service, name: near}", false),
        (from, "{group: '', kind: Secret}", false),
        (
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
            "{group: '', kind: Service}",
            false,
        ),
        (
            "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: shop}",
            "{group: '', kind: Service}",
            false,
        ),
        ("{group: '', kind: HTTPRoute, namespace: shop}", "{group: '', kind: Service}", false),
    ];
    for (from, to, permitted) in table {
        let sends = destination(&gateway(&grant(from, to)).route());
        let expected =
            if permitted { "outbound|80||far.other" } else { "blackhole|RefNotPermitted|shop/web|0|0" };
        assert_eq!(sends, expected, "{from} {to}");
    }
}

#[test]
fn weights_are_bounded_so_that_their_sum_is() {
    let backends: Vec<String> =
        (0..8).map(|_| "{name: web, port: 80, weight: 2147483647}".to_owned()).collect();
    let shown = rule(&format!("backendRefs: [{}]", backends.join(", ")));
    let sends = destination(&shown.route());
    assert!(sends.split(' ').all(|each| each.ends_with("@1000000")), "{sends}");
    assert!(shown.message("UnsupportedValue").contains("weight"));
    let shown = rule("backendRefs: [{name: web, port: 80, weight: -1}]");
    assert_eq!(destination(&shown.route()), "500");
}

#[test]
fn only_clusters_that_routes_refer_to_are_sent() {
    let shown = rule("backendRefs: [{name: web, port: 80}, {name: canary, port: 80, weight: 0}]");
    let names: Vec<_> = shown.0.resources.clusters.keys().map(String::as_str).collect();
    // One of weight 0 is kept warm: the next edit of the weights must not wait for it.
    assert_eq!(
        names,
        ["outbound|80||canary.shop.svc.cluster.local", "outbound|80||web.shop.svc.cluster.local"]
    );
    assert_eq!(shown.0.resources.endpoints.len(), 2);
}

#[test]
fn a_route_names_the_object_behind_it() {
    let shown = rule("name: first, backendRefs: [{name: web, port: 80}]");
    let named = metadata(&shown.route().metadata);
    let expected = [
        ("generation", "7"),
        ("kind", "HTTPRoute"),
        ("name", "web"),
        ("namespace", "shop"),
        ("rule", "first"),
    ];
    assert_eq!(named.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect::<Vec<_>>(), expected);
    assert_eq!(shown.route().name, "HTTPRoute/shop/web/first/0");
    let cluster = shown.cluster("outbound|80||web.shop.svc.cluster.local");
    assert_eq!(metadata(&cluster.metadata)["port"], "80");
}

fn seconds(given: Option<sidegate_xds::google::protobuf::Duration>) -> Option<Duration> {
    given.map(|given| Duration::new(given.seconds.try_into().unwrap(), given.nanos.try_into().unwrap()))
}

fn policy(shown: &Shown) -> RetryPolicy {
    action(&shown.route()).retry_policy.expect("a retry policy")
}

#[test]
fn timeouts_are_the_rules_own_or_fifteen_seconds() {
    let table = [
        ("", Some(15_000), None),
        ("timeouts: {request: 3s},", Some(3_000), None),
        ("timeouts: {request: 0s},", Some(0), None),
        ("timeouts: {request: 1m30s, backendRequest: 500ms},", Some(90_000), Some(500)),
        ("timeouts: {backendRequest: 20s},", Some(0), Some(20_000)),
        ("timeouts: {request: 0s, backendRequest: 1s}, retry: {attempts: 0},", Some(0), Some(1_000)),
    ];
    for (timeouts, request, attempt) in table {
        let shown = rule(&format!("{timeouts} backendRefs: [{{name: web, port: 80}}]"));
        let action = action(&shown.route());
        assert_eq!(seconds(action.timeout), request.map(Duration::from_millis), "{timeouts}");
        assert_eq!(seconds(policy(&shown).per_try_timeout), attempt.map(Duration::from_millis), "{timeouts}");
    }
    for timeouts in [
        "timeouts: {request: soon}",
        "timeouts: {request: 1s, backendRequest: 2s}",
        "timeouts: {request: 1.5s}",
    ] {
        let shown = rule(&format!("{timeouts}, backendRefs: [{{name: web, port: 80}}]"));
        assert_eq!(destination(&shown.route()), "500", "{timeouts}");
        assert!(shown.message("UnsupportedValue").starts_with("spec.rules[0].timeouts"), "{timeouts}");
    }
}

#[test]
fn retries_are_the_rules_own_or_the_safe_default() {
    let default = policy(&rule("backendRefs: [{name: web, port: 80}]"));
    assert_eq!(default.retry_on, "connect-failure,refused-stream,unavailable,reset,retriable-status-codes");
    assert_eq!(default.retriable_status_codes, [503]);
    assert_eq!(default.num_retries.unwrap().value, 2);
    assert_eq!(default.retry_host_predicate[0].name, "envoy.retry_host_predicates.previous_hosts");

    let own = policy(&rule(
        "retry: {attempts: 5, codes: [500, 503], backoff: 100ms}, backendRefs: [{name: web, port: 80}]",
    ));
    assert_eq!(own.retry_on, "connect-failure,refused-stream,reset,retriable-status-codes");
    assert_eq!((own.num_retries.unwrap().value, own.retriable_status_codes.as_slice()), (5, &[500, 503][..]));
    let back_off = own.retry_back_off.unwrap();
    assert_eq!(seconds(back_off.base_interval), Some(Duration::from_millis(100)));
    assert_eq!(seconds(back_off.max_interval), Some(Duration::from_secs(1)));

    let none = rule("retry: {attempts: 0}, backendRefs: [{name: web, port: 80}]");
    assert!(action(&none.route()).retry_policy.is_none());
    for retry in ["{attempts: -1}", "{codes: [200]}", "{backoff: x}"] {
        let shown = rule(&format!("retry: {retry}, backendRefs: [{{name: web, port: 80}}]"));
        assert_eq!(destination(&shown.route()), "500", "{retry}");
    }
}

#[test]
fn a_foreign_data_plane_gets_no_retries_that_could_deliver_twice() {
    let view = view(&yaml("backendRefs: [{name: web, port: 80}]"));
    let scope = Scope::Gateway { gateway: Name::new("edge", "public"), foreign: true, secure: false };
    let shown = Shown(translate(&view, None, &scope));
    assert_eq!(policy(&shown).retry_on, "connect-failure,refused-stream,reset-before-request");
    assert!(policy(&shown).retriable_status_codes.is_empty());
}
