//! Filters of a rule → changes of headers, mirrors, a redirect or a rewrite.

use sidegate_xds::envoy::config::core::v3::HeaderValueOption;
use sidegate_xds::envoy::config::route::v3::RedirectAction;
use sidegate_xds::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use sidegate_xds::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use sidegate_xds::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::context::Build;
use super::normal::{Filter, Match, Mirror, PathMatch, Redirect, Rewrite, RewritePath, Route};
use super::verdict::{Problem, RESOLVED_REFS};
use super::{backend, header, route_match, service, wire};

/// What the filters of a rule do.
#[derive(Debug, Default)]
pub(super) struct Plan<'r> {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    pub(super) mirrors: Vec<RequestMirrorPolicy>,
    pub(super) redirect: Option<&'r Redirect<'r>>,
    pub(super) rewrite: Option<&'r Rewrite<'r>>,
}

/// Reads the filters of a rule; the problem's text starts with the field below the rule.
pub(super) fn plan<'r>(
    build: &mut Build<'_>,
    route: &'r Route<'r>,
    index: usize,
) -> Result<Plan<'r>, Problem> {
    let mut plan = Plan::default();
    let rule = &route.rules[index];
    for (position, filter) in rule.filters.iter().enumerate() {
        let at = |text: String| Problem::new("UnsupportedValue", format!("filters[{position}]: {text}"));
        match filter {
            Filter::RequestHeaders(ops) => {
                header::check(ops).map_err(at)?;
                plan.request_add.extend(header::to_add(ops));
                plan.request_remove.extend(header::to_remove(ops));
            }
            Filter::ResponseHeaders(ops) => {
                header::check(ops).map_err(at)?;
                plan.response_add.extend(header::to_add(ops));
                plan.response_remove.extend(header::to_remove(ops));
            }
            Filter::Mirror(given) => {
                let share = mirror_share(given).map_err(at)?;
                let field = format!("spec.rules[{index}].filters[{position}].requestMirror.backendRef");
                plan.mirrors.extend(mirror(build, route, given, share, &field));
            }
            Filter::Redirect(given) => {
                check_redirect(given, &rule.matches).map_err(at)?;
                plan.redirect = Some(given);
            }
            Filter::Rewrite(given) => {
                check_host(given.hostname)
                    .and_then(|()| check_change(given.path, &rule.matches))
                    .map_err(at)?;
                plan.rewrite = Some(given);
            }
            Filter::Unsupported(name) => {
                return Err(at(format!("{name} is not supported, or its settings are missing")));
            }
        }
    }
    if plan.redirect.is_some() && (plan.rewrite.is_some() || !rule.backends.is_empty()) {
        let text = "filters: a RequestRedirect cannot stand beside a URLRewrite or backendRefs";
        return Err(Problem::new("IncompatibleFilters", text));
    }
    Ok(plan)
}

// ---- mirrors

/// The share to copy, in millionths.
fn mirror_share(given: &Mirror<'_>) -> Result<u32, String> {
    let whole = 1_000_000_i64;
    let share = match (given.percent, given.fraction) {
        (Some(_), Some(_)) => return Err("percent and fraction exclude each other".to_owned()),
        (Some(percent), None) => i64::from(percent) * (whole / 100),
        (None, Some((_, denominator))) if denominator <= 0 => {
            return Err("fraction.denominator must be positive".to_owned());
        }
        (None, Some((numerator, denominator))) => i64::from(numerator) * whole / i64::from(denominator),
        (None, None) => whole,
    };
    u32::try_from(share)
        .ok()
        .filter(|share| *share <= 1_000_000)
        .ok_or("more than all requests, or less than none".to_owned())
}

fn mirror(
    build: &mut Build<'_>,
    route: &Route<'_>,
    given: &Mirror<'_>,
    share: u32,
    field: &str,
) -> Option<RequestMirrorPolicy> {
    match backend::resolve(build, route, &given.reference) {
        Ok((name, port, _)) => Some(RequestMirrorPolicy {
            cluster: service::cluster_name(&name, port),
            runtime_fraction: wire::millionths(share),
            ..RequestMirrorPolicy::default()
        }),
        // A copy that goes nowhere is no copy; the request itself is not concerned.
        Err(problem) => {
            let message = format!("{field}: {}", problem.message);
            build.verdicts.note(&route.subject, RESOLVED_REFS, Problem { message, ..problem });
            None
        }
    }
}

// ---- redirects and rewrites

/// How a path changes, in Envoy's three forms.
#[derive(Debug, PartialEq)]
pub(super) enum PathChange {
    Prefix(String),
    Regex(RegexMatchAndSubstitute),
    Full(String),
}

/// The change of the path for requests of this match; `None` when it stays.
pub(super) fn path_change(change: Option<RewritePath<'_>>, matched: PathMatch<'_>) -> Option<PathChange> {
    match (change?, matched) {
        (RewritePath::Full(path), _) => Some(PathChange::Full(path.to_owned())),
        (RewritePath::Prefix(replacement), PathMatch::Prefix(value)) => {
            prefix_change(route_match::prefix(value), replacement.trim_end_matches('/'))
        }
        // Refused by `check_change`.
        (RewritePath::Prefix(_), _) => None,
    }
}

/// Slashes are neither lost nor doubled at the seam: `/a` → `/` makes `/b` of `/a/b`, and `/` → `/x` makes `/x/b` of `/b`.
fn prefix_change(prefix: &str, replacement: &str) -> Option<PathChange> {
    match (prefix, replacement) {
        ("/", "") => None,
        ("/", replacement) => Some(PathChange::Prefix(format!("{replacement}/"))),
        (prefix, "") => Some(PathChange::Regex(RegexMatchAndSubstitute {
            pattern: Some(wire::regex(format!("^{}/*", regex::escape(prefix)))),
            substitution: "/".to_owned(),
        })),
        (_, replacement) => Some(PathChange::Prefix(replacement.to_owned())),
    }
}

/// A change of the whole path, for routes: Envoy's route action has no such field, but replaces by regular expression.
pub(super) fn whole_path(path: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(wire::regex("^/.*$")),
        // A backslash would refer to a group.
        substitution: path.replace('\\', "\\\\"),
    }
}

/// The redirect for requests of this match. `listener_port` is the port on which they came, where that is known.
pub(super) fn redirect_action(
    given: &Redirect<'_>,
    matched: &Match<'_>,
    listener_port: Option<u16>,
) -> RedirectAction {
    let path = path_change(given.path, matched.path).map(|change| match change {
        PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
        PathChange::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
        PathChange::Full(path) => PathRewriteSpecifier::PathRedirect(path),
    });
    RedirectAction {
        host_redirect: given.hostname.unwrap_or_default().to_owned(),
        port_redirect: redirect_port(given, listener_port),
        response_code: redirect_code(given.status).unwrap_or(RedirectResponseCode::Found).into(),
        scheme_rewrite_specifier: given
            .scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

/// The Gateway API: the given port; else the scheme's, when a scheme is given; else the listener's. Left out (0) where it is
/// the scheme's own and the host cannot bring another one along.
fn redirect_port(given: &Redirect<'_>, listener_port: Option<u16>) -> u32 {
    let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let explicit = given.port.and_then(service::port_number);
    let Some(port) = explicit.or_else(|| given.scheme.map(well_known)).or(listener_port) else { return 0 };
    let is_default = port == well_known(given.scheme.unwrap_or("http"));
    let host_has_no_port =
        given.hostname.is_some() || listener_port.is_none_or(|port| port == 80 || port == 443);
    if is_default && host_has_no_port { 0 } else { port.into() }
}

fn redirect_code(status: i64) -> Option<RedirectResponseCode> {
    match status {
        301 => Some(RedirectResponseCode::MovedPermanently),
        302 => Some(RedirectResponseCode::Found),
        303 => Some(RedirectResponseCode::SeeOther),
        307 => Some(RedirectResponseCode::TemporaryRedirect),
        308 => Some(RedirectResponseCode::PermanentRedirect),
        _ => None,
    }
}

fn check_redirect(given: &Redirect<'_>, matches: &[Match<'_>]) -> Result<(), String> {
    if redirect_code(given.status).is_none() {
        return Err(format!("statusCode {} is not one of 301, 302, 303, 307, 308", given.status));
    }
    if given.port.is_some_and(|port| service::port_number(port).is_none()) {
        return Err("port must be 1 to 65535".to_owned());
    }
    check_host(given.hostname)?;
    check_change(given.path, matches)
}

fn check_host(host: Option<&str>) -> Result<(), String> {
    let valid = |host: &str| !host.starts_with('*') && super::hostname::is_valid(&host.to_ascii_lowercase());
    match host {
        Some(host) if !valid(host) => Err(format!("hostname {host:?} is not a hostname")),
        _ => Ok(()),
    }
}

fn check_change(change: Option<RewritePath<'_>>, matches: &[Match<'_>]) -> Result<(), String> {
    let value = match change {
        None => return Ok(()),
        Some(RewritePath::Full(path)) => path,
        Some(RewritePath::Prefix(replacement)) => {
            if matches.iter().any(|each| !matches!(each.path, PathMatch::Prefix(_))) {
                return Err("ReplacePrefixMatch needs a PathPrefix in every match of the rule".to_owned());
            }
            if replacement.is_empty() { "/" } else { replacement }
        }
    };
    let plain =
        value.starts_with('/') && value.bytes().all(|byte| byte > b' ' && byte < 0x7f && byte != b'#');
    if plain { Ok(()) } else { Err(format!("{value:?} is not a path")) }
}
