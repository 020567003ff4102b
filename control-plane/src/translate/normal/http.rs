//! HTTPRoute → [`Route`].

use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteRules, HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType as BackendType, HttpRouteRulesFilters,
    HttpRouteRulesFiltersRequestRedirect as RequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType as RedirectPathType,
    HttpRouteRulesFiltersRequestRedirectScheme as Scheme, HttpRouteRulesFiltersType as RuleType,
    HttpRouteRulesFiltersUrlRewrite as UrlRewrite,
    HttpRouteRulesFiltersUrlRewritePathType as RewritePathType, HttpRouteRulesMatches,
    HttpRouteRulesMatchesHeadersType as HeaderType, HttpRouteRulesMatchesMethod as Method,
    HttpRouteRulesMatchesPath as Path, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteRulesMatchesQueryParamsType as QueryType,
};

use super::parts::{backends, headers, mirror, parents, reference};
use super::{
    Backend, Filter, GATEWAY_GROUP, HeaderOps, Match, Mirror, Parent, PathMatch, Redirect, Reference, Retry,
    Rewrite, RewritePath, Route, RouteKind, Rule, ValueMatch, hostnames,
};
use crate::model::Name;
use crate::translate::verdict::{Subject, name_of};

impl<'a> From<&'a HttpRoute> for Route<'a> {
    fn from(object: &'a HttpRoute) -> Self {
        let name = name_of(&object.metadata);
        let (hostnames, bad_hostnames) = hostnames(object.spec.hostnames.as_ref());
        Self {
            kind: RouteKind::Http,
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref(),
            subject: Subject::new(RouteKind::Http.name(), &object.metadata),
            hostnames,
            bad_hostnames,
            parents: parents!(object.spec.parent_refs, &name.namespace),
            rules: object.spec.rules.iter().flatten().map(rule).collect(),
            name,
        }
    }
}

fn rule(rule: &HttpRouteRules) -> Rule<'_> {
    let mut matches: Vec<Match<'_>> = rule.matches.iter().flatten().map(one_match).collect();
    if matches.is_empty() {
        matches.push(Match::default());
    }
    let timeouts = rule.timeouts.as_ref();
    Rule {
        name: rule.name.as_deref(),
        matches,
        filters: rule.filters.iter().flatten().map(filter).collect(),
        backends: backends!(rule.backend_refs, backend_filter),
        request_timeout: timeouts.and_then(|timeouts| timeouts.request.as_deref()),
        backend_timeout: timeouts.and_then(|timeouts| timeouts.backend_request.as_deref()),
        retry: rule.retry.as_ref().map(|retry| Retry {
            attempts: retry.attempts,
            backoff: retry.backoff.as_deref(),
            codes: retry.codes.clone().unwrap_or_default(),
        }),
        session_persistence: rule.session_persistence.is_some(),
    }
}

fn one_match(given: &HttpRouteRulesMatches) -> Match<'_> {
    let headers = given.headers.iter().flatten().map(|header| ValueMatch {
        name: &header.name,
        value: &header.value,
        regex: header.r#type == Some(HeaderType::RegularExpression),
    });
    let query = given.query_params.iter().flatten().map(|parameter| ValueMatch {
        name: &parameter.name,
        value: &parameter.value,
        regex: parameter.r#type == Some(QueryType::RegularExpression),
    });
    Match {
        path: given.path.as_ref().map(path).unwrap_or_default(),
        method: given.method.as_ref().map(method),
        headers: headers.collect(),
        query: query.collect(),
    }
}

fn path(given: &Path) -> PathMatch<'_> {
    let value = given.value.as_deref().unwrap_or("/");
    match given.r#type {
        Some(PathType::Exact) => PathMatch::Exact(value),
        Some(PathType::RegularExpression) => PathMatch::Regex(value),
        Some(PathType::PathPrefix) | None => PathMatch::Prefix(value),
    }
}

fn method(given: &Method) -> &'static str {
    match given {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}

fn filter(given: &HttpRouteRulesFilters) -> Filter<'_> {
    let (read, name) = match given.r#type {
        RuleType::RequestHeaderModifier => {
            (headers!(given.request_header_modifier, RequestHeaders), "RequestHeaderModifier")
        }
        RuleType::ResponseHeaderModifier => {
            (headers!(given.response_header_modifier, ResponseHeaders), "ResponseHeaderModifier")
        }
        RuleType::RequestMirror => (mirror!(given.request_mirror), "RequestMirror"),
        RuleType::RequestRedirect => (given.request_redirect.as_ref().map(redirect), "RequestRedirect"),
        RuleType::UrlRewrite => (given.url_rewrite.as_ref().map(rewrite), "URLRewrite"),
        RuleType::ExtensionRef => (None, "ExtensionRef"),
        RuleType::Cors => (None, "CORS"),
        RuleType::ExternalAuth => (None, "ExternalAuth"),
    };
    read.unwrap_or(Filter::Unsupported(name))
}

fn redirect(given: &RequestRedirect) -> Filter<'_> {
    let path = given.path.as_ref().map(|path| match path.r#type {
        RedirectPathType::ReplaceFullPath => {
            RewritePath::Full(path.replace_full_path.as_deref().unwrap_or("/"))
        }
        RedirectPathType::ReplacePrefixMatch => {
            RewritePath::Prefix(path.replace_prefix_match.as_deref().unwrap_or("/"))
        }
    });
    Filter::Redirect(Redirect {
        scheme: given.scheme.as_ref().map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }),
        hostname: given.hostname.as_deref(),
        port: given.port,
        path,
        status: given.status_code.unwrap_or(302),
    })
}

fn rewrite(given: &UrlRewrite) -> Filter<'_> {
    let path = given.path.as_ref().map(|path| match path.r#type {
        RewritePathType::ReplaceFullPath => {
            RewritePath::Full(path.replace_full_path.as_deref().unwrap_or("/"))
        }
        RewritePathType::ReplacePrefixMatch => {
            RewritePath::Prefix(path.replace_prefix_match.as_deref().unwrap_or("/"))
        }
    });
    Filter::Rewrite(Rewrite { hostname: given.hostname.as_deref(), path })
}

/// A backendRef's filter: only changes of headers are supported there.
fn backend_filter(given: &HttpRouteRulesBackendRefsFilters) -> Filter<'_> {
    let (read, name) = match given.r#type {
        BackendType::RequestHeaderModifier => {
            (headers!(given.request_header_modifier, RequestHeaders), "RequestHeaderModifier")
        }
        BackendType::ResponseHeaderModifier => {
            (headers!(given.response_header_modifier, ResponseHeaders), "ResponseHeaderModifier")
        }
        BackendType::RequestMirror => (None, "RequestMirror"),
        BackendType::RequestRedirect => (None, "RequestRedirect"),
        BackendType::UrlRewrite => (None, "URLRewrite"),
        BackendType::ExtensionRef => (None, "ExtensionRef"),
        BackendType::Cors => (None, "CORS"),
        BackendType::ExternalAuth => (None, "ExternalAuth"),
    };
    read.unwrap_or(Filter::Unsupported(name))
}
