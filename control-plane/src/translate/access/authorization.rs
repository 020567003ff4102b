//! The RBAC filters of a place: one for each action, in the order audit, deny, allow.

use std::collections::HashMap;

use sidegate_xds::envoy::config::listener::v3::{Filter, filter};
use sidegate_xds::envoy::config::rbac::v3::{Policy, Rbac, rbac};
use sidegate_xds::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;

use super::super::canonical;
use super::super::verdict::{ACCEPTED, PARTIALLY_INVALID, Problem, Subject, Verdicts, name_of};
use super::budget::Budget;
use super::rule::{self, Around};
use super::{Mesh, Place};
use crate::model::access::bounds::MOST_POLICIES;
use crate::model::access::{Action, AuthorizationPolicy, DRY_RUN};

/// The kind, in verdicts.
pub(super) const KIND: &str = "AuthorizationPolicy";

/// The filters of requests.
pub(super) fn http(
    policies: &[&AuthorizationPolicy],
    mesh: Mesh<'_>,
    place: Place<'_>,
    verdicts: &mut Verdicts,
) -> Vec<HttpFilter> {
    let filters = ORDER.iter().filter_map(|(action, word)| {
        let around = Around { namespace: "", mesh, place, action: *action, http: true };
        let Sets { rules, shadow_rules } = sets(policies, around, verdicts)?;
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
    mesh: Mesh<'_>,
    place: Place<'_>,
    verdicts: &mut Verdicts,
) -> Vec<Filter> {
    let filters = ORDER.iter().filter_map(|(action, word)| {
        let around = Around { namespace: "", mesh, place, action: *action, http: false };
        let Sets { rules, shadow_rules } = sets(policies, around, verdicts)?;
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
fn sets(policies: &[&AuthorizationPolicy], around: Around<'_>, verdicts: &mut Verdicts) -> Option<Sets> {
    // One filter has both.
    let mut budget = Budget::new();
    let rules = set(policies, around, false, &mut budget, verdicts);
    let shadow_rules = set(policies, around, true, &mut budget, verdicts);
    (rules.is_some() || shadow_rules.is_some()).then_some(Sets { rules, shadow_rules })
}

fn set(
    policies: &[&AuthorizationPolicy],
    around: Around<'_>,
    dry: bool,
    budget: &mut Budget,
    verdicts: &mut Verdicts,
) -> Option<Rbac> {
    let action = around.action;
    let chosen: Vec<_> =
        policies.iter().filter(|policy| policy.spec.action == action && is_dry(policy) == dry).collect();
    if chosen.is_empty() {
        return None;
    }
    let mut found: HashMap<String, Policy> = HashMap::new();
    // A rule that cannot be sent allows nothing; one that denies, denies everything.
    let mut closed = None;
    for policy in chosen {
        note_unproven(policy, around, verdicts);
        let name = name_of(&policy.metadata);
        for (index, each) in policy.spec.rules.iter().enumerate() {
            let compiled = rule::compile(each, Around { namespace: &name.namespace, ..around });
            let compiled = compiled.and_then(|compiled| {
                let Some(compiled) = compiled else { return Ok(None) };
                // One place is for what stands in for those that find none.
                if found.len() + 1 >= MOST_POLICIES {
                    return Err(format!("there are {MOST_POLICIES} rules or more at one place"));
                }
                budget.take(&compiled).map(|()| Some(compiled))
            });
            let name = format!("{name}/rule/{index}");
            match compiled {
                Ok(compiled) => found.extend(compiled.map(|compiled| (name, compiled))),
                Err(why) => {
                    not_sent(policy, index, &why, dry, verdicts);
                    if action == Action::Deny && !dry {
                        closed.get_or_insert(name);
                    }
                }
            }
        }
    }
    found.extend(closed.map(|name| (name, rule::everything())));
    // Without a rule, "allow" allows nothing; the others do nothing.
    let says = action == Action::Allow || !found.is_empty();
    says.then(|| Rbac { action: wire_action(action).into(), policies: found, ..Rbac::default() })
}

fn not_sent(policy: &AuthorizationPolicy, index: usize, why: &str, dry: bool, verdicts: &mut Verdicts) {
    let instead = match policy.spec.action {
        _ if dry => "it is not evaluated",
        Action::Allow => "it allows nothing",
        Action::Deny => "everything is denied there",
        Action::Audit => "it audits nothing",
    };
    let text = format!("spec.rules[{index}] cannot be sent: {why}; {instead}");
    verdicts.note(&Subject::new(KIND, &policy.metadata), ACCEPTED, Problem::new("NotSent", text));
}

/// Says so when a policy asks where clients are, at a sidecar where nobody can prove to be the Gateway that says it.
fn note_unproven(policy: &AuthorizationPolicy, around: Around<'_>, verdicts: &mut Verdicts) {
    let Place::Pod { pod, .. } = around.place else { return };
    if !around.http || around.mesh.gateways.is_some() || !policy.asks_for_clients() {
        return;
    }
    let text = format!(
        "the sidecar of Pod {} has not proven who it is (port 15010), so that no caller can prove to it that it is a Gateway: remoteIpBlocks and          remote.ip allow nothing there unless the connection's other end is in a block, too, and deny as soon as one of both is. Let it connect          by TLS (`sidegate bootstrap` without --plaintext)",
        name_of(&pod.metadata)
    );
    let problem = Problem::new("ClientNotProven", text);
    verdicts.note(&Subject::new(KIND, &policy.metadata), PARTIALLY_INVALID, problem);
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
