//! The rules of a route → Envoy routes, one for each match, with their place in the order of precedence.

use std::collections::HashMap;
use std::time::Duration;

use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use sidegate_xds::envoy::config::route::v3::{
    DirectResponseAction, RetryPolicy, Route as WireRoute, RouteAction, RouteMatch, WeightedCluster,
};
use sidegate_xds::resource::to_any;

use super::backend::{self, Destination, Services};
use super::context::Build;
use super::filter::{self, PathChange, Plan};
use super::normal::{self, Match, Route, RouteKind, Rule};
use super::policy::{Limit, RATE_LIMIT_FILTER};
use super::route_match::{self, Rank};
use super::verdict::{ACCEPTED, PARTIALLY_INVALID, Problem};
use super::{listener, retry, wire};

/// How long a request may take when its HTTPRoute does not say: as Envoy's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// One match of one rule.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) rank: Rank,
    pub(super) rule: usize,
    pub(super) position: usize,
    pub(super) route: WireRoute,
}

/// Compiles every match of every rule. What is wrong with a rule is noted: a match that cannot be expressed leaves its rule
/// out, a filter that is not supported makes the rule answer with an error.
pub(super) fn compile(build: &mut Build<'_>, route: &Route<'_>, listener_port: Option<u16>) -> Vec<Compiled> {
    let mut compiled = Vec::new();
    let mut left_out = 0;
    for (index, rule) in route.rules.iter().enumerate() {
        match matches(rule, index) {
            Ok(matches) => compiled.extend(compile_rule(build, route, index, matches, listener_port)),
            Err(problem) => {
                build.verdicts.note(&route.subject, PARTIALLY_INVALID, problem);
                left_out += 1;
            }
        }
    }
    if left_out > 0 && left_out == route.rules.len() {
        let text = "no rule of the route can be used; see PartiallyInvalid";
        build.verdicts.note(&route.subject, ACCEPTED, Problem::new("UnsupportedValue", text));
    }
    compiled
}

/// Notes what is wrong with a route that is in force nowhere.
pub(super) fn examine(build: &mut Build<'_>, route: &Route<'_>) {
    let clusters = build.clusters.clone();
    compile(build, route, None);
    build.clusters = clusters;
}

fn matches(rule: &Rule<'_>, index: usize) -> Result<Vec<(RouteMatch, Rank)>, Problem> {
    let translated = rule.matches.iter().enumerate().map(|(position, given)| {
        route_match::route_match(given).map_err(|problem| {
            let message =
                format!("spec.rules[{index}].matches[{position}].{}; the rule is left out", problem.message);
            Problem { message, ..problem }
        })
    });
    translated.collect()
}

fn compile_rule(
    build: &mut Build<'_>,
    route: &Route<'_>,
    index: usize,
    matches: Vec<(RouteMatch, Rank)>,
    listener_port: Option<u16>,
) -> Vec<Compiled> {
    let rule = &route.rules[index];
    let outcome = outcome(build, route, index).map_err(|problem| {
        let message =
            format!("spec.rules[{index}].{}; its requests are answered with an error", problem.message);
        build.verdicts.note(&route.subject, ACCEPTED, Problem { message, ..problem });
    });
    let rule_name = rule.name.map_or_else(|| index.to_string(), str::to_owned);
    let pairs = matches.into_iter().zip(&rule.matches).enumerate();
    let compiled = pairs.map(|(position, ((route_match, rank), given))| {
        let mut wire_route = WireRoute {
            name: format!("{}/{}/{rule_name}/{position}", route.kind.name(), route.name),
            r#match: Some(route_match),
            metadata: wire::metadata([
                ("kind", route.kind.name().to_owned()),
                ("namespace", route.name.namespace.clone()),
                ("name", route.name.name.clone()),
                ("rule", rule_name.clone()),
                ("generation", route.generation.to_string()),
            ]),
            ..WireRoute::default()
        };
        match &outcome {
            Ok(outcome) => outcome.apply(&mut wire_route, given, listener_port, route.kind),
            Err(()) => wire_route.action = Some(refusal(route.kind)),
        }
        Compiled { rank, rule: index, position, route: wire_route }
    });
    compiled.collect()
}

/// The answer where no backend can be asked: 500, or gRPC's UNAVAILABLE (which a proxy makes of 503).
fn refusal(kind: RouteKind) -> Action {
    let status = match kind {
        RouteKind::Http => 500,
        RouteKind::Grpc => 503,
    };
    Action::DirectResponse(DirectResponseAction { status, ..DirectResponseAction::default() })
}

/// What a rule does with a request, the same for all its matches.
struct Outcome<'r> {
    plan: Plan<'r>,
    destination: Destination,
    timeout: Duration,
    retry: Option<RetryPolicy>,
    limit: Option<sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit>,
}

fn outcome<'r>(build: &mut Build<'_>, route: &'r Route<'r>, index: usize) -> Result<Outcome<'r>, Problem> {
    let rule = &route.rules[index];
    if rule.session_persistence {
        let text = format!("spec.rules[{index}].sessionPersistence: not supported yet; it is ignored");
        build.verdicts.note(&route.subject, PARTIALLY_INVALID, Problem::new("UnsupportedValue", text));
    }
    // The backends first: what is wrong with them is worth saying even when a filter makes them unreachable.
    let (destination, services) = backend::destination(build, route, index);
    let plan = filter::plan(build, route, index)?;
    let attempt =
        timeout("timeouts.backendRequest", rule.backend_timeout)?.filter(|timeout| !timeout.is_zero());
    let whole = timeout("timeouts.request", rule.request_timeout)?;
    if let (Some(attempt), Some(whole)) = (attempt, whole)
        && !whole.is_zero()
        && attempt > whole
    {
        let text = "timeouts.backendRequest: must not be longer than timeouts.request";
        return Err(Problem::new("UnsupportedValue", text));
    }
    let default = match (route.kind, attempt) {
        // Attempts that are bounded one by one, and in number, need no bound on their sum.
        (RouteKind::Grpc, _) | (RouteKind::Http, Some(_)) => Duration::ZERO,
        (RouteKind::Http, None) => DEFAULT_TIMEOUT,
    };
    let retry = retry::policy(build.foreign, rule.retry.as_ref(), attempt)?;
    let limit = limit(build, route, rule, &services).map(|limit| {
        limit.to_wire(&format!("{}/{}/{index}", route.kind.name(), route.name), route.kind == RouteKind::Grpc)
    });
    Ok(Outcome { plan, destination, timeout: whole.unwrap_or(default), retry, limit })
}

fn timeout(field: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let read = text.map(normal::duration).transpose();
    read.map_err(|problem| Problem { message: format!("{field}: {}", problem.message), ..problem })
}

/// The limit on a rule: its own, its route's, or the one of the Service when it sends to one Service only.
fn limit<'b>(
    build: &'b Build<'_>,
    route: &Route<'_>,
    rule: &Rule<'_>,
    services: &Services,
) -> Option<&'b Limit> {
    let policies = &build.world.policies;
    policies.rule_limit(route.kind, &route.name, rule.name).or_else(|| {
        let (name, port) = services.first()?;
        let alone = services.iter().all(|(other, _)| other == name);
        if alone { policies.service_limit(name, port.as_deref()) } else { None }
    })
}

impl Outcome<'_> {
    fn apply(&self, route: &mut WireRoute, given: &Match<'_>, listener_port: Option<u16>, kind: RouteKind) {
        route.request_headers_to_add = self.plan.request_add.clone();
        route.request_headers_to_remove = self.plan.request_remove.clone();
        route.response_headers_to_add = self.plan.response_add.clone();
        route.response_headers_to_remove = self.plan.response_remove.clone();
        if let Some(limit) = &self.limit {
            route.typed_per_filter_config = HashMap::from([(RATE_LIMIT_FILTER.to_owned(), to_any(limit))]);
        }
        route.action = Some(match (self.plan.redirect, &self.destination) {
            (Some(redirect), _) => Action::Redirect(filter::redirect_action(redirect, given, listener_port)),
            (None, Destination::Nowhere) => refusal(kind),
            (None, Destination::Clusters(_)) => Action::Route(self.route_action(given, kind)),
        });
    }

    fn route_action(&self, given: &Match<'_>, kind: RouteKind) -> RouteAction {
        let not_found = match kind {
            RouteKind::Http => ClusterNotFoundResponseCode::InternalServerError,
            RouteKind::Grpc => ClusterNotFoundResponseCode::ServiceUnavailable,
        };
        let mut action = RouteAction {
            cluster_not_found_response_code: not_found.into(),
            // A stream may be quiet for long without being dead.
            idle_timeout: (kind == RouteKind::Grpc).then(|| wire::duration(listener::QUIET_STREAM)),
            timeout: Some(wire::duration(self.timeout)),
            retry_policy: self.retry.clone(),
            request_mirror_policies: self.plan.mirrors.clone(),
            cluster_specifier: self.destination.specifier(),
            ..RouteAction::default()
        };
        if let Some(rewrite) = self.plan.rewrite {
            match filter::path_change(rewrite.path, given.path) {
                Some(PathChange::Prefix(prefix)) => action.prefix_rewrite = prefix,
                Some(PathChange::Regex(regex)) => action.regex_rewrite = Some(regex),
                Some(PathChange::Full(path)) => action.regex_rewrite = Some(filter::whole_path(&path)),
                None => {}
            }
            action.host_rewrite_specifier =
                rewrite.hostname.map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()));
        }
        action
    }
}

impl Destination {
    fn specifier(&self) -> Option<ClusterSpecifier> {
        let Self::Clusters(clusters) = self else { return None };
        match clusters.as_slice() {
            [only]
                if only.request_headers_to_add.is_empty()
                    && only.request_headers_to_remove.is_empty()
                    && only.response_headers_to_add.is_empty()
                    && only.response_headers_to_remove.is_empty() =>
            {
                Some(ClusterSpecifier::Cluster(only.name.clone()))
            }
            several => Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: several.to_vec(),
                ..WeightedCluster::default()
            })),
        }
    }
}
