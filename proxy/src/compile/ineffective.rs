//! What a resource says that has no effect here: it only tunes, and control planes send it unasked, so it is accepted. But it is told.

use std::collections::BTreeSet;

use sidegate_xds::envoy::config::cluster::v3 as cluster;
use sidegate_xds::envoy::config::cluster::v3::cluster::LbConfig;
use sidegate_xds::envoy::config::core::v3::{HttpProtocolOptions, RoutingPriority};
use sidegate_xds::envoy::config::listener::v3 as listener;
use sidegate_xds::envoy::config::listener::v3::filter::ConfigType;
use sidegate_xds::envoy::config::listener::v3::listener::connection_balance_config::BalanceType;
use sidegate_xds::envoy::config::route::v3 as route;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use sidegate_xds::envoy::extensions::upstreams::http::v3::HttpProtocolOptions as UpstreamOptions;
use sidegate_xds::resource::from_any;

use super::extension;

/// Fields that are set and have no effect. Each once, wherever and however often it stands: a control plane's thousand clusters are alike.
pub(super) type Fields = BTreeSet<&'static str>;

/// Those of a cluster.
pub(super) fn of_cluster(wire: &cluster::Cluster) -> Fields {
    let slow_start = match &wire.lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.is_some(),
        Some(LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config.is_some(),
        _ => false,
    };
    let has_high = |breakers: &cluster::CircuitBreakers| {
        breakers.thresholds.iter().any(|thresholds| thresholds.priority() != RoutingPriority::Default)
    };
    let extension = wire.typed_extension_protocol_options.values();
    let extension = extension.filter_map(|any| from_any::<UpstreamOptions>(any).ok());
    let jitter = extension.filter_map(|options| options.common_http_protocol_options);
    let jitter = jitter.chain(wire.common_http_protocol_options).any(|common| has_jitter(&common));
    of(&[
        ("slow_start_config", slow_start),
        ("preconnect_policy", wire.preconnect_policy.is_some()),
        (
            "circuit_breakers.thresholds of priority HIGH",
            wire.circuit_breakers.as_ref().is_some_and(has_high),
        ),
        ("common_http_protocol_options.max_connection_duration_jitter", jitter),
    ])
}

/// Those of a listener, its connection managers and the route tables inside them.
pub(super) fn of_listener(wire: &listener::Listener) -> Fields {
    // Connections are balanced exactly as it is.
    let balance = wire.connection_balance_config.as_ref().and_then(|config| config.balance_type.as_ref());
    let mut fields = of(&[
        ("connection_balance_config.extend_balance", matches!(balance, Some(BalanceType::ExtendBalance(_)))),
        ("drain_type", wire.drain_type != 0),
        ("access_log of the listener itself", !wire.access_log.is_empty()),
    ]);
    let chains = wire.filter_chains.iter().chain(&wire.default_filter_chain);
    for filter in chains.flat_map(|chain| &chain.filters) {
        if let Some(ConfigType::TypedConfig(any)) = &filter.config_type
            && extension::type_name(any) == MANAGER
            && let Ok(manager) = from_any::<manager::HttpConnectionManager>(any)
        {
            fields.append(&mut of_manager(&manager));
        }
    }
    fields
}

fn of_manager(wire: &manager::HttpConnectionManager) -> Fields {
    use manager::http_connection_manager::RouteSpecifier;
    let common = wire.common_http_protocol_options.as_ref();
    let mut fields = of(&[
        // Expectations are answered here; 1xx of endpoints are not passed on.
        ("proxy_100_continue", wire.proxy_100_continue),
        ("access_log_options", wire.access_log_options.is_some()),
        ("drain_timeout_jitter", wire.drain_timeout_jitter.is_some()),
        (
            "common_http_protocol_options.max_response_headers_kb",
            common.is_some_and(|common| common.max_response_headers_kb.is_some()),
        ),
        ("common_http_protocol_options.max_connection_duration_jitter", common.is_some_and(has_jitter)),
    ]);
    if let Some(RouteSpecifier::RouteConfig(table)) = &wire.route_specifier {
        fields.append(&mut of_table(table));
    }
    fields
}

/// Those of a route table.
pub(super) fn of_table(wire: &route::RouteConfiguration) -> Fields {
    let mut fields = Fields::new();
    for host in &wire.virtual_hosts {
        fields.append(&mut host.retry_policy.as_ref().map(of_retry).unwrap_or_default());
        for route in &host.routes {
            let Some(route::route::Action::Route(action)) = &route.action else { continue };
            fields.append(&mut of(&[("route.priority: HIGH", action.priority != 0)]));
            fields.append(&mut action.retry_policy.as_ref().map(of_retry).unwrap_or_default());
        }
    }
    fields
}

/// Conditions that cannot come up here: there is no HTTP/3, and no global rate limit whose mark says that another endpoint may be asked.
fn of_retry(wire: &route::RetryPolicy) -> Fields {
    let has = |word: &str| wire.retry_on.split(',').any(|condition| condition.trim() == word);
    of(&[
        ("retry_on: envoy-ratelimited", has("envoy-ratelimited")),
        ("retry_on: http3-post-connect-failure", has("http3-post-connect-failure")),
    ])
}

fn has_jitter(common: &HttpProtocolOptions) -> bool {
    common.max_connection_duration_jitter.is_some()
}

fn of(fields: &[(&'static str, bool)]) -> Fields {
    fields.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| *field).collect()
}

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::fixture::yaml;

    #[test]
    fn what_only_tunes_is_told() {
        let cluster = "{name: a, lb_policy: LEAST_REQUEST, least_request_lb_config: {slow_start_config: {}}, preconnect_policy: {},
            circuit_breakers: {thresholds: [{}, {priority: HIGH}]}, common_http_protocol_options: {max_connection_duration_jitter: {value: 1}}}";
        assert_eq!(of_cluster(&yaml(cluster)).len(), 4);
        let plain = "{name: a, circuit_breakers: {thresholds: [{max_requests: 1}]}, common_http_protocol_options: {idle_timeout: 1s}}";
        assert_eq!(of_cluster(&yaml(plain)), Fields::new());
        let listener = |own: &str, manager: &str| {
            of_listener(&yaml(&format!(
                "{{name: l, {own}, filter_chains: [{{filters: [{{name: h, typed_config: {{
                   '@type': type.googleapis.com/{MANAGER}, {manager}}}}}]}}]}}"
            )))
        };
        let own = "drain_type: MODIFY_ONLY, connection_balance_config: {exact_balance: {}}";
        let routes = "{virtual_hosts: [{name: v, domains: ['*'], retry_policy: {retry_on: 'envoy-ratelimited'}, routes: [
            {match: {prefix: /}, route: {cluster: a, priority: HIGH, retry_policy: {retry_on: '5xx, http3-post-connect-failure'}}}]}]}";
        let manager = format!("proxy_100_continue: true, access_log_options: {{}}, route_config: {routes}");
        let expected = [
            "access_log_options",
            "drain_type",
            "proxy_100_continue",
            "retry_on: envoy-ratelimited",
            "retry_on: http3-post-connect-failure",
            "route.priority: HIGH",
        ];
        assert_eq!(listener(own, &manager).into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(listener("drain_type: DEFAULT", "stat_prefix: s"), Fields::new());
    }
}
