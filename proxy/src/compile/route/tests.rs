use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::compile::tests::fixture::yaml;
use crate::route::{AddedValue, AppendAction, Forward, HostRewrite, Rewrite};

fn compiled(text: &str) -> Result<Plan, String> {
    compile(&yaml(text), None, Instant::now()).map_err(|problem| problem.to_string())
}

/// The only route of a table; `route` stands inside `routes: [{…}]`.
fn route(route: &str) -> Result<Route, String> {
    let text = format!("name: t\nvirtual_hosts: [{{name: v, domains: ['*'], routes: [{{{route}}}]}}]");
    let plan = compiled(&text)?;
    let table = Arc::try_unwrap(plan.table).unwrap();
    let host = table.hosts.into_iter().next().unwrap();
    Ok(Arc::try_unwrap(host.routes.into_iter().next().unwrap()).unwrap())
}

/// The same, with the route as a block.
fn block(text: &str) -> Route {
    let lines = text.trim().lines().map(|line| format!("    {line}\n")).collect::<String>();
    let plan =
        compiled(&format!("name: t\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n  -\n{lines}"));
    let table = Arc::try_unwrap(plan.unwrap().table).unwrap();
    Arc::try_unwrap(table.hosts.into_iter().next().unwrap().routes.into_iter().next().unwrap()).unwrap()
}

/// The action of a route to cluster `c`.
fn forward(action: &str) -> Result<Forward, String> {
    match route(&format!("match: {{prefix: /}}, route: {{cluster: c{action}}}"))?.action {
        Action::Forward(forward) => Ok(*forward),
        other => panic!("{other:?}"),
    }
}

fn refused_forward(action: &str) -> String {
    let error = forward(action).unwrap_err();
    error.strip_prefix("virtual_hosts[0] (v).routes[0].route.").unwrap_or(&error).to_owned()
}

#[test]
fn defaults_are_envoys() {
    let forward = forward("").unwrap();
    assert!(matches!(&forward.target, Target::Cluster(name) if &**name == "c"));
    assert_eq!(forward.timeout, Some(Duration::from_secs(15)));
    assert_eq!(forward.cluster_not_found, StatusCode::SERVICE_UNAVAILABLE);
    assert!(forward.retry.is_none() && forward.mirrors.is_empty() && !forward.terminate_connect);
    assert!(matches!((forward.rewrite, forward.host_rewrite), (Rewrite::Keep, HostRewrite::Keep)));
    let route = route("match: {prefix: /}, route: {cluster: c}").unwrap();
    assert_eq!((&*route.name, route.origin), ("v[0]", None));
}

#[test]
fn what_our_control_plane_sends() {
    let route = block(
        "
name: HTTPRoute/shop/web/0/0
match:
  path_separated_prefix: /api
  headers:
  - {name: ':method', string_match: {exact: GET}}
  - {name: X-Canary, string_match: {safe_regex: {regex: 'a|b'}}}
  query_parameters: [{name: v, string_match: {exact: '2'}}]
route:
  weighted_clusters:
    clusters:
    - {name: a, weight: 90, request_headers_to_add: [{header: {key: x-a, value: '1'}}]}
    - {name: zero, weight: 0}
    - {name: 'blackhole|NotFound|shop/web|0|1', weight: 10}
  timeout: 0s
  cluster_not_found_response_code: INTERNAL_SERVER_ERROR
  prefix_rewrite: /
  host_rewrite_literal: other.example
  retry_policy:
    retry_on: connect-failure,refused-stream,unavailable,reset,retriable-status-codes
    retriable_status_codes: [503]
    num_retries: 2
    per_try_timeout: 1s
    retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts}]
    host_selection_retry_max_attempts: 5
    retry_back_off: {base_interval: 0.1s}
metadata: {filter_metadata: {sidegate: {kind: HTTPRoute, namespace: shop, name: web, rule: 0, generation: 3}}}
",
    );
    assert_eq!(route.origin.as_deref(), Some("HTTPRoute shop/web rule 0 generation 3"));
    assert_eq!((route.matcher.headers.len(), &*route.matcher.headers[1].name), (2, "x-canary"));
    let Action::Forward(forward) = route.action else { panic!() };
    let Target::Weighted { clusters, total } = &forward.target else { panic!() };
    assert_eq!((clusters.len(), *total), (2, 100));
    assert_eq!(clusters[0].request_headers.as_ref().unwrap().add.len(), 1);
    assert_eq!(forward.timeout, None);
    assert_eq!(forward.cluster_not_found, StatusCode::INTERNAL_SERVER_ERROR);
    let retry = forward.retry.unwrap();
    assert!(
        retry.on.connect_failure && retry.on.refused_stream && retry.on.reset && retry.on.retriable_statuses
    );
    assert_eq!((retry.on.grpc, retry.on.server_error), (1 << 14, false));
    assert_eq!(retry.statuses, [StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!((retry.retries, retry.other_endpoint, retry.idempotent_only), (2, true, true));
    assert_eq!(retry.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!(retry.back_off, (Duration::from_millis(100), Duration::from_secs(1)));
    assert_eq!(retry.replay_limit, 65_536);
}

#[test]
fn clusters_are_collected_for_warming() {
    let plan = compiled(
        "
name: t
request_mirror_policies: [{cluster: shadow, runtime_fraction: {default_value: {numerator: 1}}}]
virtual_hosts:
- name: v
  domains: ['*']
  routes:
  - {match: {prefix: /a}, route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 1}]}}}
  - {match: {prefix: /b}, route: {cluster_header: X-To}}
  - {match: {prefix: /c}, direct_response: {status: 204}}
",
    )
    .unwrap();
    assert_eq!(plan.clusters, ["a", "b", "shadow"].map(Arc::from).into());
    let Action::Forward(first) = &plan.table.hosts[0].routes[0].action else { panic!() };
    assert_eq!(first.mirrors, [("shadow".into(), 10_000)]);
    let Action::Forward(second) = &plan.table.hosts[0].routes[1].action else { panic!() };
    assert!(matches!(&second.target, Target::Header(name) if &**name == "x-to"));
}

#[test]
fn virtual_hosts_hand_down() {
    let plan = compiled(
        "
name: t
request_headers_to_add: [{header: {key: x-level, value: table}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
ignore_port_in_host_matching: true
virtual_hosts:
- name: v
  domains: [a.example, '*.example']
  include_request_attempt_count: true
  retry_policy: {retry_on: 5xx}
  request_headers_to_remove: [X-Level]
  response_headers_to_add: [{header: {key: x-host, value: v}}]
  routes:
  - match: {prefix: /}
    route: {cluster: c}
    request_headers_to_add: [{header: {key: x-level, value: route}}]
- {name: w, domains: ['*'], routes: []}
",
    )
    .unwrap();
    assert!(plan.table.ignore_port && plan.table.hosts[0].attempt_count);
    let route = &plan.table.hosts[0].routes[0];
    let values: Vec<_> = route.request_headers.iter().flat_map(|changes| &changes.add).collect();
    let is = |value: &AddedValue, text: &str| matches!(value, AddedValue::Fixed(fixed) if fixed == text);
    assert!(is(&values[0].value, "route"), "the route's own first");
    assert!(is(&values[1].value, "table") && values[1].action == AppendAction::Overwrite);
    assert_eq!(&*route.request_headers[1].remove[0], "x-level");
    assert_eq!(route.response_headers.len(), 1);
    let Action::Forward(forward) = &route.action else { panic!() };
    let retry = forward.retry.as_ref().unwrap();
    assert_eq!((retry.retries, retry.idempotent_only), (1, false));
}

#[test]
fn the_most_specific_header_change_may_win() {
    let plan = compiled(
        "
name: t
most_specific_header_mutations_wins: true
request_headers_to_remove: [x-table]
virtual_hosts:
- {name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}, request_headers_to_remove: [x-route]}]}
",
    )
    .unwrap();
    let removed: Vec<_> =
        plan.table.hosts[0].routes[0].request_headers.iter().map(|changes| &*changes.remove[0]).collect();
    assert_eq!(removed, ["x-table", "x-route"]);
}

#[test]
fn plaintext_is_sent_to_https_when_tls_is_required() {
    let plan = compiled("name: t\nvirtual_hosts: [{name: v, domains: ['*'], require_tls: ALL, routes: []}]")
        .unwrap();
    let Action::Redirect(redirect) = &plan.table.hosts[0].routes[0].action else { panic!() };
    assert_eq!(redirect.scheme.as_deref(), Some("https"));
}

#[test]
fn connect_is_terminated_where_it_says_so() {
    let route = route(
        "match: {connect_matcher: {}}, route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}",
    )
    .unwrap();
    assert!(matches!(route.matcher.path, PathMatch::Connect));
    let Action::Forward(forward) = route.action else { panic!() };
    assert!(forward.terminate_connect);
}

#[test]
fn upgrades_are_allowed_and_forbidden_by_route() {
    let forward =
        forward(", upgrade_configs: [{upgrade_type: WebSocket, enabled: false}, {upgrade_type: spdy/3.1}]")
            .unwrap();
    assert_eq!(forward.upgrades, [("websocket".into(), false), ("spdy/3.1".into(), true)]);
    assert!(
        refused_forward(", upgrade_configs: [{upgrade_type: a}, {upgrade_type: A}]")
            .ends_with("is there twice")
    );
}

#[test]
fn rewriting_by_regex_speaks_rusts_form() {
    let forward =
        forward(r", regex_rewrite: {pattern: {regex: '^/(\w+)/(.*)$'}, substitution: '/\2/$x/\1\\'}")
            .unwrap();
    let Rewrite::Regex(rewrite) = forward.rewrite else { panic!() };
    assert_eq!(rewrite.0.replace_all("/a/b", &rewrite.1), r"/b/$x/a\");
}

#[test]
fn redirects_and_answers() {
    let redirect = |text: &str| match route(&format!("match: {{prefix: /}}, redirect: {{{text}}}"))?.action {
        Action::Redirect(redirect) => Ok::<_, String>(*redirect),
        other => panic!("{other:?}"),
    };
    let plain = redirect("https_redirect: true, host_redirect: b.example, port_redirect: 8443, response_code: PERMANENT_REDIRECT").unwrap();
    assert_eq!((plain.status.as_u16(), plain.port), (308, Some(8443)));
    assert_eq!((plain.scheme.as_deref(), plain.host.as_deref()), (Some("https"), Some("b.example")));
    let full = redirect("path_redirect: '/x?y=1', strip_query: true").unwrap();
    assert!(matches!(&full.path, RedirectPath::Full(path) if path == "/x?y=1") && full.strip_query);
    assert!(matches!(redirect("prefix_rewrite: /n").unwrap().path, RedirectPath::Prefix(_)));
    assert!(
        redirect("port_redirect: 70000")
            .unwrap_err()
            .ends_with("redirect.port_redirect: 70000 is not a port")
    );
    let direct =
        |text: &str| match route(&format!("match: {{prefix: /}}, direct_response: {{{text}}}"))?.action {
            Action::Direct(direct) => Ok::<_, String>(*direct),
            other => panic!("{other:?}"),
        };
    assert_eq!(direct("status: 418, body: {inline_string: tea}").unwrap().body, "tea");
    assert!(direct("status: 101").unwrap_err().ends_with("status: 101 is not a status from 200 to 599"));
    assert!(direct("status: 200, body: {filename: /etc/passwd}").unwrap_err().contains("inline_string"));
}

#[test]
fn refusals_of_actions() {
    for (action, expected) in [
        (", hedge_policy: {}", "hedge_policy: is not supported yet"),
        (", cors: {}", "cors: is not supported yet"),
        (", metadata_match: {}", "metadata_match: is not supported yet"),
        (
            ", prefix_rewrite: /, regex_rewrite: {pattern: {regex: a}}",
            "prefix_rewrite and regex_rewrite exclude each other",
        ),
        (
            ", regex_rewrite: {pattern: {regex: a}, substitution: '\\1'}",
            "regex_rewrite.substitution: a backslash stands before another one or the number of a group",
        ),
        (", host_rewrite_literal: 'a b'", "host_rewrite_literal: \"a b\" is not a host"),
        (
            ", retry_policy: {retry_on: sometimes}",
            "retry_policy.retry_on: sometimes is not a condition that this proxy knows",
        ),
        (
            ", retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 1s, max_interval: 0.5s}}",
            "retry_policy.retry_back_off.max_interval: must be at least base_interval",
        ),
        (
            ", upgrade_configs: [{upgrade_type: connect}]",
            "upgrade_configs[0] (connect): CONNECT is only served with a connect_config: it ends here",
        ),
        (", timeout: '-1s'", "timeout: is not a duration of zero or more"),
    ] {
        let error = refused_forward(action);
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn refusals_of_tables_and_hosts() {
    let host = |rest: &str| format!("name: t\nvirtual_hosts: [{{name: v, {rest}}}]");
    for (text, expected) in [
        ("name: t\nvhds: {config_source: {ads: {}}}".to_owned(), "vhds: is not supported yet"),
        (host("domains: []"), "virtual_hosts[0] (v).domains: needs at least one"),
        (
            host("domains: [a, A]"),
            "virtual_hosts[0] (v).domains[1]: \"A\" is there twice; each domain belongs to one virtual host",
        ),
        (
            host("domains: ['a*b']"),
            "virtual_hosts[0] (v).domains[0]: \"a*b\" is not a domain: a host, `*.suffix`, `prefix.*` or `*`",
        ),
        (
            "name: t\nvirtual_hosts: [{name: v, domains: [a]}, {name: v, domains: [b]}]".to_owned(),
            "virtual_hosts[1] (v): its name is there twice",
        ),
        (
            host("domains: [a], routes: [{match: {prefix: /}}]"),
            "virtual_hosts[0] (v).routes[0]: has no action that this proxy knows",
        ),
        (
            host("domains: [a], routes: [{match: {}, route: {cluster: c}}]"),
            "virtual_hosts[0] (v).routes[0].match: has no path specifier that this proxy knows",
        ),
        (
            host("domains: [a], routes: [{match: {safe_regex: {regex: '['}}, route: {cluster: c}}]"),
            "virtual_hosts[0] (v).routes[0].match.safe_regex.regex: regex parse error:",
        ),
        (
            host("domains: [a], routes: [{match: {path_separated_prefix: /a/}, route: {cluster: c}}]"),
            "virtual_hosts[0] (v).routes[0].match.path_separated_prefix: must start with / and not end with it",
        ),
        (
            host(
                "domains: [a], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}]",
            ),
            "virtual_hosts[0] (v).routes[0].route.weighted_clusters.clusters: the weights must be together at least 1",
        ),
    ] {
        let error = compiled(&text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn matches() {
    let matcher = |text: &str| route(&format!("match: {{{text}}}, route: {{cluster: c}}")).unwrap().matcher;
    let half = matcher(
        "prefix: /, runtime_fraction: {default_value: {numerator: 50, denominator: HUNDRED}}, case_sensitive: false, grpc: {}",
    );
    assert_eq!((half.fraction, half.ignore_case, half.grpc), (Some(500_000), true, true));
    assert_eq!(matcher("prefix: /, runtime_fraction: {default_value: {numerator: 100}}").fraction, None);
    let headers = matcher(
        "prefix: /, headers: [{name: a}, {name: b, present_match: false}, {name: c, range_match: {start: 1, end: 2}, invert_match: true}]",
    )
    .headers;
    assert!(matches!((&headers[0].test, headers[0].invert), (HeaderTest::Present, false)));
    assert!(matches!((&headers[1].test, headers[1].invert), (HeaderTest::Present, true)));
    assert!(matches!((&headers[2].test, headers[2].invert), (HeaderTest::Range(1, 2), true)));
}
