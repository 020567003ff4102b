//! Which RateLimitPolicy and which BackendPolicy applies where.
//!
//! Of two policies that claim the same target the older wins, then the lower name (both stand in the target's namespace);
//! a more specific target beats a wider one, and then stands alone: policies are not merged.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sidegate_xds::envoy::config::core::v3::RuntimeFractionalPercent;
use sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as WireLimit;
use sidegate_xds::envoy::r#type::v3::TokenBucket;

use super::normal::{self, GATEWAY_GROUP, RouteKind};
use super::verdict::{ACCEPTED, Problem, Subject, Verdicts, name_of};
use super::wire;
use crate::model::policy::{BackendSpec, Limits, LoadBalancing, LocalRateLimit, TargetRef};
use crate::model::{Name, View};

/// The HTTP filter that limits requests.
pub(super) const RATE_LIMIT_FILTER: &str = "envoy.filters.http.local_ratelimit";

/// Envoy refuses buckets that fill more often than this.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

/// What a policy targets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    kind: &'static str,
    name: Name,
    section: Option<String>,
}

/// All policies of a view, by target.
#[derive(Debug, Default)]
pub(super) struct Policies<'a> {
    limits: BTreeMap<Target, Limit>,
    backends: BTreeMap<Target, &'a BackendSpec>,
}

impl<'a> Policies<'a> {
    /// Attaches every policy of the view to its targets, and says what became of each.
    pub(super) fn new(view: &'a View, verdicts: &mut Verdicts) -> Self {
        let mut policies = Self::default();
        let mut by_age: Vec<_> = view.rate_limit_policies.values().collect();
        by_age.sort_by_key(|policy| seniority(&policy.metadata));
        for policy in by_age {
            let subject = Subject::new("RateLimitPolicy", &policy.metadata);
            let name = name_of(&policy.metadata);
            match Limit::new(&name, &policy.spec.local) {
                Ok(limit) => {
                    let kinds = ["Gateway", "HTTPRoute", "GRPCRoute", "Service"];
                    let claim = Claim { view, name: &name, subject: &subject, kinds: &kinds };
                    claim.attach(&policy.spec.target_refs, &mut policies.limits, &limit, verdicts);
                }
                Err(problem) => verdicts.note(&subject, ACCEPTED, problem),
            }
            verdicts.conclude(&subject, &[(ACCEPTED, Problem::new("Accepted", "in force"))]);
        }
        let mut by_age: Vec<_> = view.backend_policies.values().collect();
        by_age.sort_by_key(|policy| seniority(&policy.metadata));
        for policy in by_age {
            let subject = Subject::new("BackendPolicy", &policy.metadata);
            let name = name_of(&policy.metadata);
            match BackendSettings::new(&policy.spec) {
                Ok(_) => {
                    let claim = Claim { view, name: &name, subject: &subject, kinds: &["Service"] };
                    claim.attach(&policy.spec.target_refs, &mut policies.backends, &&policy.spec, verdicts);
                }
                Err(problem) => verdicts.note(&subject, ACCEPTED, problem),
            }
            verdicts.conclude(&subject, &[(ACCEPTED, Problem::new("Accepted", "in force"))]);
        }
        policies
    }

    /// The limit on a route's rule: of the rule itself, else of the whole route.
    pub(super) fn rule_limit(&self, kind: RouteKind, name: &Name, rule: Option<&str>) -> Option<&Limit> {
        find(&self.limits, kind.name(), name, rule)
    }

    /// The limit on what goes to a Service's port.
    pub(super) fn service_limit(&self, name: &Name, port: Option<&str>) -> Option<&Limit> {
        find(&self.limits, "Service", name, port)
    }

    /// The limit on a Gateway's listener.
    pub(super) fn gateway_limit(&self, name: &Name, listener: &str) -> Option<&Limit> {
        find(&self.limits, "Gateway", name, Some(listener))
    }

    /// How a Service's port is to be talked to.
    pub(super) fn backend(&self, name: &Name, number: u16, port: Option<&str>) -> BackendSettings {
        let number = number.to_string();
        let spec = port
            .and_then(|port| exactly(&self.backends, "Service", name, Some(port)))
            .or_else(|| find(&self.backends, "Service", name, Some(&number)));
        // A spec that does not parse was never attached.
        spec.and_then(|spec| BackendSettings::new(spec).ok()).unwrap_or_default()
    }
}

fn exactly<'m, T>(
    map: &'m BTreeMap<Target, T>,
    kind: &'static str,
    name: &Name,
    section: Option<&str>,
) -> Option<&'m T> {
    if map.is_empty() {
        return None;
    }
    map.get(&Target { kind, name: name.clone(), section: section.map(str::to_owned) })
}

fn find<'m, T>(
    map: &'m BTreeMap<Target, T>,
    kind: &'static str,
    name: &Name,
    section: Option<&str>,
) -> Option<&'m T> {
    section
        .and_then(|section| exactly(map, kind, name, Some(section)))
        .or_else(|| exactly(map, kind, name, None))
}

/// The older first, then by name; one without a creation time counts as the youngest.
pub(super) fn seniority(
    metadata: &ObjectMeta,
) -> (bool, Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, Name) {
    (metadata.creation_timestamp.is_none(), metadata.creation_timestamp.clone(), name_of(metadata))
}

/// A policy that claims its targets.
struct Claim<'c> {
    view: &'c View,
    name: &'c Name,
    subject: &'c Subject,
    /// What it may target.
    kinds: &'c [&'static str],
}

impl Claim<'_> {
    fn attach<T: Clone>(
        &self,
        references: &[TargetRef],
        taken: &mut BTreeMap<Target, T>,
        value: &T,
        verdicts: &mut Verdicts,
    ) {
        for (index, reference) in references.iter().enumerate() {
            let claimed = self.target(reference).and_then(|target| {
                if taken.contains_key(&target) {
                    return Err(Problem::new(
                        "Conflicted",
                        "an older policy, or one of a lower name, has this target",
                    ));
                }
                taken.insert(target, value.clone());
                Ok(())
            });
            if let Err(problem) = claimed {
                let message = format!("spec.targetRefs[{index}]: {}", problem.message);
                verdicts.note(self.subject, ACCEPTED, Problem { message, ..problem });
            }
        }
    }

    fn target(&self, reference: &TargetRef) -> Result<Target, Problem> {
        let kind = self.kinds.iter().find(|kind| **kind == reference.kind).copied();
        let group = if kind == Some("Service") { "" } else { GATEWAY_GROUP };
        let Some(kind) = kind.filter(|_| reference.group == group) else {
            let text = format!("cannot target kind {:?} of group {:?}", reference.kind, reference.group);
            return Err(Problem::new("Invalid", format!("{text}; it can target {}", self.kinds.join(", "))));
        };
        let name = Name::new(self.name.namespace.as_str(), reference.name.as_str());
        let section = reference.section_name.clone();
        match self.sections(kind, &name) {
            None => Err(Problem::new("TargetNotFound", format!("{kind} {name} does not exist"))),
            Some(sections) if section.as_ref().is_some_and(|section| !sections.contains(section)) => {
                let text = format!("{kind} {name} has no section {:?}", section.unwrap_or_default());
                Err(Problem::new("TargetNotFound", text))
            }
            Some(_) => Ok(Target { kind, name, section }),
        }
    }

    /// The sections that the target has: listeners, rules, ports. `None` when there is no such object.
    fn sections(&self, kind: &str, name: &Name) -> Option<Vec<String>> {
        match kind {
            "Gateway" => {
                self.view.gateways.get(name).map(|gateway| {
                    gateway.spec.listeners.iter().map(|listener| listener.name.clone()).collect()
                })
            }
            "HTTPRoute" => self.view.http_routes.get(name).map(|route| {
                route.spec.rules.iter().flatten().filter_map(|rule| rule.name.clone()).collect()
            }),
            "GRPCRoute" => self.view.grpc_routes.get(name).map(|route| {
                route.spec.rules.iter().flatten().filter_map(|rule| rule.name.clone()).collect()
            }),
            _ => self.view.services.get(name).map(|service| {
                let ports = super::service::ports(service);
                ports
                    .flat_map(|(number, port)| [Some(number.to_string()), port.name.clone()])
                    .flatten()
                    .collect()
            }),
        }
    }
}

/// A token bucket that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    policy: Name,
    max_tokens: u32,
    tokens_per_fill: u32,
    fill_interval: Duration,
}

impl Limit {
    fn new(policy: &Name, local: &LocalRateLimit) -> Result<Self, Problem> {
        let at = |field: &str, text: &str| Problem::new("Invalid", format!("spec.local.{field}: {text}"));
        let mut fill_interval = match local.per.as_deref() {
            Some(text) => normal::duration(text).map_err(|problem| at("per", &problem.message))?,
            None => Duration::from_secs(1),
        };
        if local.requests == 0 || local.burst == Some(0) {
            return Err(at("requests", "requests and burst must be at least 1"));
        }
        if fill_interval.is_zero() {
            return Err(at("per", "must be longer than 0s"));
        }
        let mut tokens_per_fill = local.requests;
        if fill_interval < SHORTEST_FILL {
            // The same rate in steps that Envoy accepts.
            let steps = u32::try_from(SHORTEST_FILL.as_micros().div_ceil(fill_interval.as_micros().max(1)))
                .unwrap_or(1);
            fill_interval *= steps;
            tokens_per_fill = tokens_per_fill.saturating_mul(steps);
        }
        let max_tokens = local.burst.unwrap_or(tokens_per_fill).max(1);
        Ok(Self { policy: policy.clone(), max_tokens, tokens_per_fill, fill_interval })
    }

    /// The filter's configuration. The prefix names the policy and the place where it applies. A rule with several matches, or
    /// with several hosts, is several routes on the wire with equal configurations; Envoy gives each a bucket of its own.
    pub(super) fn to_wire(&self, place: &str, grpc: bool) -> WireLimit {
        let always: Option<RuntimeFractionalPercent> = wire::always();
        WireLimit {
            stat_prefix: format!("ratelimit/{}/{place}", self.policy),
            token_bucket: Some(TokenBucket {
                max_tokens: self.max_tokens,
                tokens_per_fill: wire::number(self.tokens_per_fill),
                fill_interval: Some(wire::duration(self.fill_interval)),
            }),
            filter_enabled: always.clone(),
            filter_enforced: always,
            rate_limited_as_resource_exhausted: grpc,
            ..WireLimit::default()
        }
    }
}

/// How a Service's port is to be talked to, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendSettings {
    pub(super) load_balancing: LoadBalancing,
    pub(super) limits: Limits,
    pub(super) retry_percent: u32,
    pub(super) min_retry_concurrency: u32,
    pub(super) connect_timeout: Duration,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self {
            load_balancing: LoadBalancing::LeastRequest,
            limits: Limits::default(),
            retry_percent: 20,
            min_retry_concurrency: 3,
            connect_timeout: Duration::from_secs(2),
        }
    }
}

impl BackendSettings {
    fn new(spec: &BackendSpec) -> Result<Self, Problem> {
        let default = Self::default();
        let at = |field: &str, text: &str| Problem::new("Invalid", format!("spec.{field}: {text}"));
        let connect = spec.timeouts.as_ref().and_then(|timeouts| timeouts.connect.as_deref());
        let connect_timeout = match connect {
            Some(text) => {
                normal::duration(text).map_err(|problem| at("timeouts.connect", &problem.message))?
            }
            None => default.connect_timeout,
        };
        if connect_timeout.is_zero() {
            return Err(at("timeouts.connect", "must be longer than 0s"));
        }
        let budget = spec.retry_budget.clone().unwrap_or_default();
        let retry_percent = budget.percent.unwrap_or(default.retry_percent);
        if retry_percent > 100 {
            return Err(at("retryBudget.percent", "must be at most 100"));
        }
        Ok(Self {
            load_balancing: spec.load_balancing.unwrap_or(default.load_balancing),
            limits: spec.limits.clone().unwrap_or_default(),
            retry_percent,
            min_retry_concurrency: budget.min_concurrent.unwrap_or(default.min_retry_concurrency),
            connect_timeout,
        })
    }
}
