use std::time::Duration;

use super::*;
use crate::compile::tests::fixture::yaml;

const LIMIT: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: x";
const ON: &str =
    "filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}";
const BUCKET: &str = "token_bucket: {max_tokens: 5, tokens_per_fill: 2, fill_interval: 1s}";
const ROUTER: &str = "{name: envoy.filters.http.router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn chain_of(filters: &[String]) -> Result<Chain, String> {
    let filters: Vec<_> = filters.iter().map(|filter| yaml(filter)).collect();
    let mut buckets = Buckets::default();
    chain(&filters, &mut Context { now: Instant::now(), buckets: &mut buckets })
        .map_err(|problem| problem.to_string())
}

fn filter(config: &str) -> String {
    format!("{{name: f, typed_config: {{{config}}}}}")
}

fn kind(config: &str) -> Result<Kind, String> {
    Ok(chain_of(&[filter(config), ROUTER.to_owned()])?[0].kind.clone())
}

fn route_overrides(config: &str, buckets: &mut Buckets) -> Result<Overrides, String> {
    let text = format!("match: {{prefix: /}}\ntyped_per_filter_config: {{f: {{{config}}}}}");
    let route: sidegate_xds::envoy::config::route::v3::Route = yaml(&text);
    let mut context = Context { now: Instant::now(), buckets };
    overrides(&route.typed_per_filter_config, "route", &mut context).map_err(|problem| problem.to_string())
}

#[test]
fn the_router_ends_the_chain() {
    assert!(chain_of(&[ROUTER.to_owned()]).unwrap().is_empty());
    assert!(chain_of(&["{name: envoy.filters.http.router}".to_owned()]).unwrap().is_empty());
    assert_eq!(chain_of(&[]).unwrap_err(), "http_filters: must end in envoy.filters.http.router");
    let limit = filter(LIMIT);
    assert_eq!(
        chain_of(std::slice::from_ref(&limit)).unwrap_err(),
        "http_filters[0] (f): the last filter must be the router"
    );
    assert!(
        chain_of(&[ROUTER.to_owned(), limit, ROUTER.to_owned()])
            .unwrap_err()
            .contains("must be the last filter")
    );
}

#[test]
fn filters_that_would_change_meaning_are_refused_by_name() {
    for name in ["lua.v3.Lua", "fault.v3.HTTPFault", "cors.v3.Cors"] {
        let name = format!("envoy.extensions.filters.http.{name}");
        let config = format!("'@type': type.googleapis.com/{name}");
        assert_eq!(
            kind(&config).unwrap_err(),
            format!("http_filters[0] (f): {name} is not supported by this proxy")
        );
    }
}

#[test]
fn optional_disabled_telemetry_and_forward_proxy_filters_do_nothing() {
    let lua = "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}";
    for filter in
        [format!("{{name: f, is_optional: true, {lua}}}"), format!("{{name: f, disabled: true, {lua}}}")]
    {
        assert!(matches!(chain_of(&[filter, ROUTER.to_owned()]).unwrap()[0].kind, Kind::Inert));
    }
    let stats =
        filter("'@type': type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig");
    assert!(chain_of(&[stats, ROUTER.to_owned()]).unwrap().is_empty());
    let proxy = "'@type': type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, dns_cache_config: {name: x}";
    assert!(matches!(kind(proxy).unwrap(), Kind::Inert));
}

#[test]
fn local_rate_limits() {
    assert!(matches!(kind(LIMIT).unwrap(), Kind::Inert), "without a bucket, for routes to bring");
    assert!(matches!(kind(&format!("{LIMIT}, {BUCKET}")).unwrap(), Kind::Inert), "enabled for no request");
    let Kind::LocalRateLimit(limit) = kind(&format!(
        "{LIMIT}, {BUCKET}, {ON}, status: {{code: ServiceUnavailable}}, response_headers_to_add: [{{header: {{key: x-limited, value: 'yes'}}}}]"
    ))
    .unwrap() else {
        panic!()
    };
    assert_eq!(
        (limit.max_tokens, limit.tokens_per_fill, limit.fill_interval),
        (5, 2, Duration::from_secs(1))
    );
    assert_eq!(limit.status, StatusCode::SERVICE_UNAVAILABLE);
    let counting = format!("{LIMIT}, {BUCKET}, filter_enabled: {{default_value: {{numerator: 100}}}}");
    assert!(matches!(kind(&counting).unwrap(), Kind::Inert), "enforced for no request");
    let half = format!("{counting}, filter_enforced: {{default_value: {{numerator: 50}}}}");
    assert!(
        kind(&half).unwrap_err().contains("filter_enforced (other than 0 or 100 %): is not supported yet")
    );
    assert_eq!(limit.response_headers[0].0, "x-limited");
    for (config, expected) in [
        ("token_bucket: {max_tokens: 0, fill_interval: 1s}", "token_bucket.max_tokens: must be at least 1"),
        ("token_bucket: {max_tokens: 1}", "token_bucket.fill_interval: is required"),
        (
            "token_bucket: {max_tokens: 1, fill_interval: 0.01s}",
            "token_bucket.fill_interval: must be at least 50 ms",
        ),
        (
            "token_bucket: {max_tokens: 1, fill_interval: 1s}, local_rate_limit_per_downstream_connection: true",
            "local_rate_limit_per_downstream_connection: is not supported yet",
        ),
    ] {
        let error = kind(&format!("{LIMIT}, {ON}, {config}")).unwrap_err();
        assert_eq!(error, format!("http_filters[0] (f).{expected}"));
    }
}

#[test]
fn routes_override_disable_or_say_nothing() {
    let mut buckets = Buckets::default();
    let limit = format!("{LIMIT}, {BUCKET}, {ON}");
    let own = route_overrides(&limit, &mut buckets).unwrap();
    assert!(matches!(own[0].1, Some(Kind::LocalRateLimit(_))));
    let wrapper = "'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig";
    let wrapped = route_overrides(&format!("{wrapper}, config: {{{limit}}}"), &mut buckets).unwrap();
    assert!(matches!(wrapped[0].1, Some(Kind::LocalRateLimit(_))));
    let disabled = route_overrides(&format!("{wrapper}, disabled: true"), &mut buckets).unwrap();
    assert!(disabled[0].1.is_none());
    assert!(route_overrides(wrapper, &mut buckets).unwrap().is_empty());
    let cors = "'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
    assert!(route_overrides(cors, &mut buckets).unwrap_err().starts_with("typed_per_filter_config[f]: "));
    let optional = format!("{wrapper}, is_optional: true, config: {{{cors}}}");
    assert!(route_overrides(&optional, &mut buckets).unwrap().is_empty());
}

#[test]
fn buckets_stay_by_place_and_configuration() {
    let bucket = |overrides: Overrides| match &overrides[0].1 {
        Some(Kind::LocalRateLimit(limit)) => limit.clone(),
        other => panic!("{other:?}"),
    };
    let limit = format!("{LIMIT}, {BUCKET}, {ON}");
    let mut first = Buckets::default();
    let one = bucket(route_overrides(&limit, &mut first).unwrap());
    let two = bucket(route_overrides(&limit, &mut first).unwrap());
    assert!(!Arc::ptr_eq(&one, &two), "two routes that look alike have a bucket each");
    let mut second = Buckets::after(Some(&first));
    assert!(Arc::ptr_eq(&one, &bucket(route_overrides(&limit, &mut second).unwrap())));
    assert!(Arc::ptr_eq(&two, &bucket(route_overrides(&limit, &mut second).unwrap())));
    let changed = limit.replace("max_tokens: 5", "max_tokens: 6");
    let mut third = Buckets::after(Some(&second));
    assert!(!Arc::ptr_eq(&one, &bucket(route_overrides(&changed, &mut third).unwrap())));
}

const RBAC: &str = "'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

#[test]
fn rules_are_never_left_out() {
    let policy = "rules: {action: DENY}";
    assert!(matches!(kind(&format!("{RBAC}, {policy}")), Ok(Kind::Rbac(_))));
    let with = |fields: &str, config: &str| {
        let filter = format!("{{name: f, {fields}, typed_config: {{{config}}}}}");
        chain_of(&[filter, ROUTER.to_owned()]).map(|chain| chain[0].kind.clone())
    };
    assert!(matches!(with("is_optional: true", &format!("{RBAC}, {policy}")), Ok(Kind::Rbac(_))));
    // Optional is the filter, not what it says.
    let unknown =
        format!("{RBAC}, rules: {{policies: {{p: {{permissions: [{{}}], principals: [{{any: true}}]}}}}}}");
    assert!(with("is_optional: true", &unknown).unwrap_err().contains("has no rule that this proxy knows"));
    // Routes that bring their own.
    assert!(matches!(with("disabled: true", RBAC), Ok(Kind::Inert)));
    let error = with("disabled: true", &format!("{RBAC}, {policy}")).unwrap_err();
    assert!(error.contains("disabled, with rules"), "{error}");
    let discovered = "{name: f, is_optional: true, config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC]}}";
    assert!(
        chain_of(&[discovered.to_owned(), ROUTER.to_owned()])
            .unwrap_err()
            .contains("typed_config is required")
    );
    let mut buckets = Buckets::default();
    let route = "'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
    assert!(matches!(&route_overrides(route, &mut buckets).unwrap()[..], [(_, None)]));
    let own = format!("{route}, rbac: {{{policy}}}");
    assert!(matches!(&route_overrides(&own, &mut buckets).unwrap()[..], [(_, Some(Kind::Rbac(_)))]));
}
