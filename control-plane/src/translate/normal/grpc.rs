//! GRPCRoute → [`Route`].

use gateway_api::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRules, GrpcRouteRulesBackendRefsFilters,
    GrpcRouteRulesBackendRefsFiltersType as BackendType, GrpcRouteRulesFilters,
    GrpcRouteRulesFiltersType as RuleType, GrpcRouteRulesMatches,
    GrpcRouteRulesMatchesHeadersType as HeaderType, GrpcRouteRulesMatchesMethodType as MethodType,
};

use super::parts::{backends, headers, mirror, parents, reference};
use super::{
    Backend, Filter, GATEWAY_GROUP, HeaderOps, Match, Mirror, Parent, PathMatch, Reference, Route, RouteKind,
    Rule, ValueMatch, hostnames,
};
use crate::model::Name;
use crate::translate::verdict::{Subject, name_of};

impl<'a> From<&'a GrpcRoute> for Route<'a> {
    fn from(object: &'a GrpcRoute) -> Self {
        let name = name_of(&object.metadata);
        let (hostnames, bad_hostnames) = hostnames(object.spec.hostnames.as_ref());
        Self {
            kind: RouteKind::Grpc,
            generation: object.metadata.generation.unwrap_or(0),
            created: object.metadata.creation_timestamp.as_ref(),
            subject: Subject::new(RouteKind::Grpc.name(), &object.metadata),
            hostnames,
            bad_hostnames,
            parents: parents!(object.spec.parent_refs, &name.namespace),
            rules: object.spec.rules.iter().flatten().map(rule).collect(),
            name,
        }
    }
}

fn rule(rule: &GrpcRouteRules) -> Rule<'_> {
    let mut matches: Vec<Match<'_>> = rule.matches.iter().flatten().map(one_match).collect();
    if matches.is_empty() {
        matches.push(Match { path: every_method(), ..Match::default() });
    }
    Rule {
        name: rule.name.as_deref(),
        matches,
        filters: rule.filters.iter().flatten().map(filter).collect(),
        backends: backends!(rule.backend_refs, backend_filter),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        session_persistence: rule.session_persistence.is_some(),
    }
}

fn every_method<'a>() -> PathMatch<'a> {
    PathMatch::Grpc { service: None, method: None, regex: false }
}

fn one_match(given: &GrpcRouteRulesMatches) -> Match<'_> {
    let headers = given.headers.iter().flatten().map(|header| ValueMatch {
        name: &header.name,
        value: &header.value,
        regex: header.r#type == Some(HeaderType::RegularExpression),
    });
    let path = given.method.as_ref().map(|method| PathMatch::Grpc {
        service: method.service.as_deref().filter(|service| !service.is_empty()),
        method: method.method.as_deref().filter(|method| !method.is_empty()),
        regex: method.r#type == Some(MethodType::RegularExpression),
    });
    Match { path: path.unwrap_or_else(every_method), headers: headers.collect(), ..Match::default() }
}

fn filter(given: &GrpcRouteRulesFilters) -> Filter<'_> {
    let (read, name) = match given.r#type {
        RuleType::RequestHeaderModifier => {
            (headers!(given.request_header_modifier, RequestHeaders), "RequestHeaderModifier")
        }
        RuleType::ResponseHeaderModifier => {
            (headers!(given.response_header_modifier, ResponseHeaders), "ResponseHeaderModifier")
        }
        RuleType::RequestMirror => (mirror!(given.request_mirror), "RequestMirror"),
        RuleType::ExtensionRef => (None, "ExtensionRef"),
    };
    read.unwrap_or(Filter::Unsupported(name))
}

/// A backendRef's filter: only changes of headers are supported there.
fn backend_filter(given: &GrpcRouteRulesBackendRefsFilters) -> Filter<'_> {
    let (read, name) = match given.r#type {
        BackendType::RequestHeaderModifier => {
            (headers!(given.request_header_modifier, RequestHeaders), "RequestHeaderModifier")
        }
        BackendType::ResponseHeaderModifier => {
            (headers!(given.response_header_modifier, ResponseHeaders), "ResponseHeaderModifier")
        }
        BackendType::RequestMirror => (None, "RequestMirror"),
        BackendType::ExtensionRef => (None, "ExtensionRef"),
    };
    read.unwrap_or(Filter::Unsupported(name))
}
