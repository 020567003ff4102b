//! `envoy.extensions.filters.{http,network}.rbac.v3.RBAC` → `filter::authz`.
//!
//! What is not understood refuses the resource: a rule that is left out would allow what it was to deny, or the other way round.

use sidegate_xds::bounds::{self, MOST_REGEXES, MOST_RULES};
use sidegate_xds::envoy::config::rbac::v3 as wire;
use sidegate_xds::envoy::config::rbac::v3::rbac::audit_logging_options::AuditCondition;
use sidegate_xds::envoy::extensions::filters::http::rbac::v3 as http;
use sidegate_xds::envoy::extensions::filters::network::rbac::v3 as network;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::filter::authz::{Action, Keeper, MOST_POLICIES, Policies, Policy, Rbac};

mod rule;
mod text;

/// The HTTP filter's configuration.
pub(crate) const HTTP: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";

/// The HTTP filter's configuration for a route.
pub(crate) const PER_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";

/// The network filter's configuration.
pub(crate) const NETWORK: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

/// Bounds of one set of rules.
#[derive(Debug)]
struct Budget {
    /// Requests can be asked about, not only connections.
    http: bool,
    /// Rules that may still come.
    rules: usize,
    /// Regular expressions that may still come.
    regexes: usize,
}

// The index has room for as many as control planes are told of.
const _: () = assert!(MOST_POLICIES == bounds::MOST_POLICIES);

/// Rules within rules.
const MOST_DEPTH: usize = 32;

/// The HTTP filter.
pub(crate) fn http(any: &Any) -> Result<Rbac, Problem> {
    http_filter(&decode(any)?)
}

/// The HTTP filter on a route; `None` when the route disables it.
pub(crate) fn per_route(any: &Any) -> Result<Option<Rbac>, Problem> {
    let route: http::RbacPerRoute = decode(any)?;
    route.rbac.as_ref().map(|rbac| http_filter(rbac).at("rbac")).transpose()
}

fn http_filter(filter: &http::Rbac) -> Result<Rbac, Problem> {
    unsupported(&[
        ("matcher", filter.matcher.is_some()),
        ("shadow_matcher", filter.shadow_matcher.is_some()),
    ])?;
    let mut budget = Budget::new(true);
    Ok(Rbac {
        rules: policies(filter.rules.as_ref(), &mut budget).at("rules")?,
        shadow: policies(filter.shadow_rules.as_ref(), &mut budget).at("shadow_rules")?,
        prefix: filter.rules_stat_prefix.as_str().into(),
        shadow_prefix: filter.shadow_rules_stat_prefix.as_str().into(),
    })
}

/// The network filter of that name.
pub(crate) fn network(name: &str, any: &Any) -> Result<Keeper, Problem> {
    let filter: network::Rbac = decode(any)?;
    unsupported(&[
        ("matcher", filter.matcher.is_some()),
        ("shadow_matcher", filter.shadow_matcher.is_some()),
        ("delay_deny", filter.delay_deny.is_some()),
    ])?;
    if filter.stat_prefix.is_empty() {
        return fail("is required").at("stat_prefix");
    }
    match value::choice(filter.enforcement_type).at("enforcement_type")? {
        network::rbac::EnforcementType::OneTimeOnFirstByte => {}
        // Nothing that comes later changes the verdict here: no decoder of payloads tells anything.
        network::rbac::EnforcementType::Continuous => {
            return fail("CONTINUOUS is not supported yet").at("enforcement_type");
        }
    }
    let mut budget = Budget::new(false);
    let rbac = Rbac {
        rules: policies(filter.rules.as_ref(), &mut budget).at("rules")?,
        shadow: policies(filter.shadow_rules.as_ref(), &mut budget).at("shadow_rules")?,
        prefix: "".into(),
        shadow_prefix: filter.shadow_rules_stat_prefix.as_str().into(),
    };
    Ok(Keeper { name: name.into(), stat_prefix: filter.stat_prefix.as_str().into(), rbac })
}

fn decode<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M, Problem> {
    from_any(any).map_err(|error| Problem::new(error.to_string()))
}

impl Budget {
    fn new(http: bool) -> Self {
        Self { http, rules: MOST_RULES, regexes: MOST_REGEXES }
    }

    fn take_rule(&mut self) -> Result<(), Problem> {
        let left = self.rules.checked_sub(1);
        self.rules =
            left.ok_or_else(|| Problem::new(format!("more than {MOST_RULES} rules in one filter")))?;
        Ok(())
    }

    fn take_regex(&mut self) -> Result<(), Problem> {
        let left = self.regexes.checked_sub(1);
        let problem = || Problem::new(format!("more than {MOST_REGEXES} regular expressions in one filter"));
        self.regexes = left.ok_or_else(problem)?;
        Ok(())
    }
}

fn policies(wire: Option<&wire::Rbac>, budget: &mut Budget) -> Result<Option<Policies>, Problem> {
    let Some(wire) = wire else { return Ok(None) };
    let action = match value::choice(wire.action).at("action")? {
        wire::rbac::Action::Allow => Action::Allow,
        wire::rbac::Action::Deny => Action::Deny,
        wire::rbac::Action::Log => Action::Log,
    };
    audit(wire.audit_logging_options.as_ref()).at("audit_logging_options")?;
    if wire.policies.len() > MOST_POLICIES {
        return fail(format!("{} are more than {MOST_POLICIES}", wire.policies.len())).at("policies");
    }
    let mut names: Vec<_> = wire.policies.iter().collect();
    names.sort_unstable_by_key(|(name, _)| name.as_str());
    let mut policies = Vec::with_capacity(names.len());
    for (name, wire) in names {
        policies.push(policy(name, wire, budget).at(format_args!("policies[{name}]"))?);
    }
    Ok(Some(Policies::new(action, policies)))
}

fn policy(name: &str, wire: &wire::Policy, budget: &mut Budget) -> Result<Policy, Problem> {
    unsupported(&[
        ("condition", wire.condition.is_some()),
        ("checked_condition", wire.checked_condition.is_some()),
        ("cel_config", wire.cel_config.is_some()),
    ])?;
    Ok(Policy {
        name: name.into(),
        permission: rule::permissions(&wire.permissions, budget, 0)?,
        principal: rule::principals(&wire.principals, budget, 0)?,
    })
}

/// An audit log that is asked for and not written would be missed when it is needed.
fn audit(wire: Option<&wire::rbac::AuditLoggingOptions>) -> Result<(), Problem> {
    let Some(wire) = wire else { return Ok(()) };
    let condition: AuditCondition = value::choice(wire.audit_condition).at("audit_condition")?;
    if condition == AuditCondition::None {
        return Ok(());
    }
    match wire.logger_configs.iter().position(|logger| !logger.is_optional) {
        None => Ok(()),
        Some(index) => {
            let name = wire.logger_configs[index].audit_logger.as_ref().map(|logger| logger.name.as_str());
            let text = format!(
                "{} is not supported yet: the access log's %RESPONSE_CODE_DETAILS% names the policy",
                name.unwrap_or("a logger without a name")
            );
            fail(text).at(format_args!("logger_configs[{index}]"))
        }
    }
}

#[cfg(test)]
mod tests;
