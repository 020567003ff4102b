//! RateLimitPolicy and BackendPolicy.

use std::collections::HashMap;

use sidegate_xds::envoy::config::cluster::v3::cluster::LbPolicy;
use sidegate_xds::envoy::config::route::v3::Route;
use sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use super::fixture::{GATEWAY, SERVICES, Shown, gateway, sidecar};

const FILTER: &str = "envoy.filters.http.local_ratelimit";
const ROUTE: &str = "---\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  parentRefs: [{name: public, namespace: edge}]\n  rules:\n  \
    - {name: api, matches: [{path: {value: /api}}, {path: {value: /v2}}], backendRefs: [{name: web, port: 80}]}\n  \
    - {name: rest, backendRefs: [{name: web, port: 80}, {name: canary, port: 80}]}\n";

fn limit(name: &str, namespace: &str, metadata: &str, target: &str, local: &str) -> String {
    format!(
        "---\nkind: RateLimitPolicy\nmetadata: {{name: {name}, namespace: {namespace}{metadata}}}\n\
         spec: {{targetRefs: [{target}], local: {local}}}\n"
    )
}

fn with(policies: &str) -> Shown {
    gateway(&(GATEWAY.to_owned() + SERVICES + ROUTE + policies))
}

fn read(config: &HashMap<String, Any>) -> Option<LocalRateLimit> {
    config.get(FILTER).map(|any| from_any(any).unwrap())
}

/// Tokens of each route's limit, 0 where it has none of its own.
fn tokens(shown: &Shown) -> Vec<(String, u32)> {
    let tokens = |route: &Route| {
        read(&route.typed_per_filter_config).map_or(0, |limit| limit.token_bucket.unwrap().max_tokens)
    };
    shown.routes("*").iter().map(|route| (route.name.replace("HTTPRoute/shop/", ""), tokens(route))).collect()
}

/// Tokens of the listener's limit; `None` when the filter is not there.
fn of_listener(shown: &Shown) -> Option<u32> {
    let manager = shown.manager("edge/public/80");
    let filter = manager.http_filters.iter().find(|filter| filter.name == FILTER)?;
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!() };
    let limit: LocalRateLimit = from_any(any).unwrap();
    Some(limit.token_bucket.map_or(0, |bucket| bucket.max_tokens))
}

const TO_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}";
const TO_RULE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: api}";
const TO_SERVICE: &str = "{group: '', kind: Service, name: web}";
const TO_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: public}";

#[test]
fn the_more_specific_target_wins() {
    let gateway = limit("g", "edge", "", TO_GATEWAY, "{requests: 1}");
    let service = limit("s", "shop", "", TO_SERVICE, "{requests: 2}");
    let route = limit("r", "shop", "", TO_ROUTE, "{requests: 3}");
    let rule = limit("l", "shop", "", TO_RULE, "{requests: 4}");
    // policies, limit of the listener, of rule `api` (twice: two matches) and of rule `rest`
    let table = [
        (String::new(), None, [0, 0, 0]),
        (gateway.clone(), Some(1), [0, 0, 0]),
        // The rule with two Services is not one that sends to `web`.
        (service.clone(), Some(0), [2, 2, 0]),
        (gateway.clone() + &service + &route, Some(1), [3, 3, 3]),
        (gateway + &service + &route + &rule, Some(1), [4, 4, 3]),
    ];
    for (policies, listener, routes) in table {
        let shown = with(&policies);
        assert_eq!(of_listener(&shown), listener, "{policies}");
        assert_eq!(
            tokens(&shown).into_iter().map(|(_, tokens)| tokens).collect::<Vec<_>>(),
            routes,
            "{policies}"
        );
        assert!(shown.0.verdicts.iter().all(|verdict| verdict.status), "{:?}", shown.0.verdicts);
    }
}

#[test]
fn a_rules_matches_share_one_bucket_by_name() {
    let shown = with(&limit("l", "shop", "", TO_RULE, "{requests: 5, per: 1m, burst: 7}"));
    let routes = shown.routes("*");
    let limits: Vec<_> = routes.iter().filter_map(|route| read(&route.typed_per_filter_config)).collect();
    assert_eq!(limits.len(), 2);
    assert_eq!(limits[0].stat_prefix, "ratelimit/shop/l/HTTPRoute/shop/web/0");
    assert_eq!(limits[0], limits[1]);
    let bucket = limits[0].token_bucket.as_ref().unwrap();
    assert_eq!((bucket.max_tokens, bucket.tokens_per_fill.unwrap().value), (7, 5));
    assert_eq!(bucket.fill_interval.unwrap().seconds, 60);
    assert_eq!(limits[0].filter_enabled.as_ref().unwrap().default_value.as_ref().unwrap().numerator, 100);
}

#[test]
fn a_limit_on_one_listener_stays_there() {
    let two = GATEWAY.replace(
        "  listeners:",
        "  listeners:\n  - {name: other, protocol: HTTP, port: 80, hostname: other.com, allowedRoutes: {namespaces: {from: All}}}",
    );
    let target = TO_GATEWAY.replace("name: public}", "name: public, sectionName: other}");
    let shown = gateway(&(two + SERVICES + ROUTE + &limit("g", "edge", "", &target, "{requests: 9}")));
    assert_eq!(of_listener(&shown), Some(0));
    let limit_of =
        |domain: &str| read(&shown.host("edge/public/80", domain).unwrap().typed_per_filter_config);
    assert_eq!(limit_of("other.com").unwrap().token_bucket.unwrap().max_tokens, 9);
    assert!(limit_of("*").is_none());
}

#[test]
fn fast_refills_become_steps_that_envoy_accepts() {
    let shown = with(&limit("l", "shop", "", TO_ROUTE, "{requests: 3, per: 10ms}"));
    let bucket = read(&shown.routes("*")[0].typed_per_filter_config).unwrap().token_bucket.unwrap();
    assert_eq!(
        (bucket.tokens_per_fill.unwrap().value, bucket.fill_interval.unwrap().nanos),
        (15, 50_000_000)
    );
}

#[test]
fn policies_that_cannot_be_used_say_why() {
    // target, local, reason, text
    let table = [
        (
            TO_ROUTE.replace("web", "none"),
            "{requests: 1}",
            "TargetNotFound",
            "HTTPRoute shop/none does not exist",
        ),
        (TO_RULE.replace("api", "none"), "{requests: 1}", "TargetNotFound", "has no section \"none\""),
        (
            TO_ROUTE.replace("HTTPRoute", "TCPRoute"),
            "{requests: 1}",
            "Invalid",
            "cannot target kind \"TCPRoute\"",
        ),
        (TO_SERVICE.replace("''", "apps"), "{requests: 1}", "Invalid", "of group \"apps\""),
        (TO_ROUTE.to_owned(), "{requests: 0}", "Invalid", "at least 1"),
        (TO_ROUTE.to_owned(), "{requests: 1, per: never}", "Invalid", "spec.local.per"),
        (TO_ROUTE.to_owned(), "{requests: 1, per: 0s}", "Invalid", "longer than 0s"),
    ];
    for (target, local, reason, text) in table {
        let shown = with(&limit("p", "shop", "", &target, local));
        assert_eq!(
            shown.said("RateLimitPolicy shop/p"),
            [format!("Accepted=false {reason}")],
            "{target} {local}"
        );
        assert!(shown.message(reason).contains(text), "{}", shown.message(reason));
        assert!(tokens(&shown).iter().all(|(_, tokens)| *tokens == 0));
    }
}

#[test]
fn of_two_policies_on_one_target_the_older_wins_then_the_lower_name() {
    let created = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    for (a, b, loser) in [
        ("".to_owned(), "".to_owned(), "b"),
        (created(2024), created(2023), "a"),
        ("".to_owned(), created(2024), "a"),
    ] {
        let shown = with(
            &(limit("a", "shop", &a, TO_ROUTE, "{requests: 1}")
                + &limit("b", "shop", &b, TO_ROUTE, "{requests: 2}")),
        );
        assert_eq!(shown.said(&format!("RateLimitPolicy shop/{loser}")), ["Accepted=false Conflicted"]);
        let winner = if loser == "a" { 2 } else { 1 };
        assert!(tokens(&shown).iter().all(|(_, tokens)| *tokens == winner));
    }
}

#[test]
fn a_backend_policy_changes_the_cluster() {
    let policy = |section: &str, spec: &str| {
        format!(
            "---\nkind: BackendPolicy\nmetadata: {{name: p{}, namespace: shop}}\nspec: {{targetRefs: \
             [{{group: '', kind: Service, name: web{section}}}], {spec}}}\n",
            section.len()
        )
    };
    let name = "outbound|80||web.shop.svc.cluster.local";
    let plain = with("").cluster(name);
    assert_eq!(plain.lb_policy, i32::from(LbPolicy::LeastRequest));
    assert_eq!(plain.connect_timeout.unwrap().seconds, 2);
    let budget = plain.circuit_breakers.unwrap().thresholds[0].retry_budget.unwrap();
    assert!((budget.budget_percent.unwrap().value - 20.0).abs() < f64::EPSILON);
    assert_eq!(budget.min_retry_concurrency.unwrap().value, 3);

    let wide = policy(
        "",
        "loadBalancing: RoundRobin, limits: {maxConnections: 7}, retryBudget: {percent: 50, minConcurrent: 1}, timeouts: {connect: 500ms}",
    );
    let changed = with(&wide).cluster(name);
    assert_eq!(changed.lb_policy, i32::from(LbPolicy::RoundRobin));
    assert_eq!(changed.connect_timeout.unwrap().nanos, 500_000_000);
    let threshold = changed.circuit_breakers.unwrap().thresholds.remove(0);
    assert_eq!(threshold.max_connections.unwrap().value, 7);
    assert!(threshold.max_pending_requests.unwrap().value > 1000);

    for section in [", sectionName: http", ", sectionName: '80'"] {
        let both = wide.clone() + &policy(section, "timeouts: {connect: 9s}");
        assert_eq!(with(&both).cluster(name).connect_timeout.unwrap().seconds, 9, "{section}");
    }
    for (spec, text) in [
        ("retryBudget: {percent: 101}", "at most 100"),
        ("timeouts: {connect: 0s}", "longer than 0s"),
        ("timeouts: {connect: x}", "spec.timeouts.connect"),
    ] {
        let shown = with(&policy("", spec));
        assert!(shown.message("Invalid").contains(text));
        assert_eq!(shown.cluster(name), with("").cluster(name));
    }
}

#[test]
fn a_services_limit_holds_in_the_mesh_too() {
    let pod = "---\nkind: Pod\nmetadata: {name: me, namespace: shop, annotations: {sidegate.dev/outbound-proxy: '15001'}}\nstatus: {podIP: 10.0.0.1}\n";
    let yaml = SERVICES.to_owned() + pod + &limit("s", "shop", "", TO_SERVICE, "{requests: 6}");
    let shown = sidecar(&yaml, "shop", "me");
    let host = shown.host("outbound-proxy", "web").unwrap();
    assert_eq!(read(&host.routes[0].typed_per_filter_config).unwrap().token_bucket.unwrap().max_tokens, 6);
    assert_eq!(shown.manager("outbound-proxy").http_filters[0].name, FILTER);
}
