//! The RBAC filters of a place: one for each action, in the order audit, deny, allow.

use std::collections::HashMap;

use sidegate_xds::envoy::config::listener::v3::{Filter, filter};
use sidegate_xds::envoy::config::rbac::v3::{Policy, Rbac, rbac};
use sidegate_xds::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;

use super::Place;
use super::rule::{self, Around};
use crate::model::access::{Action, AuthorizationPolicy, DRY_RUN};

use super::super::canonical;
use super::super::verdict::name_of;

/// The filters of requests.
pub(super) fn http(
    policies: &[&AuthorizationPolicy],
    trust_domain: &str,
    place: Place<'_>,
) -> Vec<HttpFilter> {
    let filters = ORDER.iter().filter_map(|(action, word)| {
        let Sets { rules, shadow_rules } = sets(policies, *action, trust_domain, place, true)?;
        let config = HttpRbac {
            rules,
            shadow_rules,
            shadow_rules_stat_prefix: DRY_RUN_PREFIX.to_owned(),
            ..HttpRbac::default()
        };
        // rules.policies, shadow_rules.policies
        let config = canonical::any(&config, &[&[1, 2], &[2, 2]]);
        Some(HttpFilter {
            name: format!("envoy.filters.http.rbac.{word}"),
            config_type: Some(http_filter::ConfigType::TypedConfig(config)),
            ..HttpFilter::default()
        })
    });
    filters.collect()
}

/// The filters of connections.
pub(super) fn network(
    policies: &[&AuthorizationPolicy],
    trust_domain: &str,
    place: Place<'_>,
) -> Vec<Filter> {
    let filters = ORDER.iter().filter_map(|(action, word)| {
        let Sets { rules, shadow_rules } = sets(policies, *action, trust_domain, place, false)?;
        let config = NetworkRbac {
            rules,
            shadow_rules,
            stat_prefix: format!("{}.", *word),
            shadow_rules_stat_prefix: DRY_RUN_PREFIX.to_owned(),
            ..NetworkRbac::default()
        };
        // rules.policies, shadow_rules.policies
        let config = canonical::any(&config, &[&[1, 2], &[2, 2]]);
        Some(Filter {
            name: format!("envoy.filters.network.rbac.{word}"),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        })
    });
    filters.collect()
}

const ORDER: [(Action, &str); 3] =
    [(Action::Audit, "audit"), (Action::Deny, "deny"), (Action::Allow, "allow")];

const DRY_RUN_PREFIX: &str = "dry_run.";

/// What is enforced, and what is only evaluated.
struct Sets {
    rules: Option<Rbac>,
    shadow_rules: Option<Rbac>,
}

/// The rules of all policies with this action; `None` when there is nothing to say.
fn sets(
    policies: &[&AuthorizationPolicy],
    action: Action,
    trust_domain: &str,
    place: Place<'_>,
    http: bool,
) -> Option<Sets> {
    let of = |dry: bool| {
        let chosen: Vec<_> =
            policies.iter().filter(|policy| policy.spec.action == action && is_dry(policy) == dry).collect();
        if chosen.is_empty() {
            return None;
        }
        let mut found = HashMap::new();
        for policy in chosen {
            let name = name_of(&policy.metadata);
            let around = Around { namespace: &name.namespace, trust_domain, place, action, http };
            for (index, each) in policy.spec.rules.iter().enumerate() {
                found.extend(
                    rule::compile(each, around)
                        .map(|compiled: Policy| (format!("{name}/rule/{index}"), compiled)),
                );
            }
        }
        // Without a rule, "allow" allows nothing; the others do nothing.
        let says = action == Action::Allow || !found.is_empty();
        says.then(|| Rbac { action: wire_action(action).into(), policies: found, ..Rbac::default() })
    };
    let sets = Sets { rules: of(false), shadow_rules: of(true) };
    (sets.rules.is_some() || sets.shadow_rules.is_some()).then_some(sets)
}

fn is_dry(policy: &AuthorizationPolicy) -> bool {
    let annotations = policy.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DRY_RUN)).is_some_and(|text| text.trim() == "true")
}

fn wire_action(action: Action) -> rbac::Action {
    match action {
        Action::Allow => rbac::Action::Allow,
        Action::Deny => rbac::Action::Deny,
        Action::Audit => rbac::Action::Log,
    }
}
