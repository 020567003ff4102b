//! What is asked for: `to`, and the conditions on the destination.

use sidegate_xds::envoy::config::core::v3::TypedExtensionConfig;
use sidegate_xds::envoy::config::rbac::v3::Permission;
use sidegate_xds::envoy::config::rbac::v3::permission::{Rule, Set};
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use sidegate_xds::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher};
use sidegate_xds::resource::to_any;

use super::rule::{Around, terms, terms_of};
use super::{principal, text};
use crate::model::access::{Attribute, Condition, Operation, sent_template};

/// The terms of one `to`; `None` when it can never match here.
pub(super) fn operation(operation: &Operation, around: Around<'_>) -> Option<Vec<Permission>> {
    if !port_fits(&operation.ports, &operation.not_ports, around) {
        return None;
    }
    let of_requests = [
        &operation.hosts,
        &operation.not_hosts,
        &operation.methods,
        &operation.not_methods,
        &operation.paths,
        &operation.not_paths,
    ];
    if of_requests.iter().any(|values| !values.is_empty())
        && let Some(unseen) = around.unseen()
    {
        return unseen.then(Vec::new);
    }
    let mut all = terms(
        &operation.hosts,
        &operation.not_hosts,
        |host| {
            if text::is_anything(host) {
                return present(":authority");
            }
            any(text::host(host).into_iter().map(|matcher| header(":authority", matcher)).collect())
        },
        any,
        not,
    );
    let method = |method: &str| match text::is_anything(method) {
        true => present(":method"),
        false => header(":method", text::matcher(method, "")),
    };
    all.extend(terms(&operation.methods, &operation.not_methods, method, any, not));
    all.extend(terms(&operation.paths, &operation.not_paths, path, any, not));
    Some(all)
}

/// The terms of a condition on the destination; `None` when it can never hold here.
pub(super) fn condition(
    attribute: &Attribute,
    condition: &Condition,
    around: Around<'_>,
) -> Option<Vec<Permission>> {
    match attribute {
        Attribute::DestinationPort => {
            port_fits(&condition.values, &condition.not_values, around).then(Vec::new)
        }
        Attribute::DestinationIp => {
            let address = |value: &str| rule(principal::range(value).map_or(never(), Rule::DestinationIp));
            Some(terms_of(condition, address, any, not))
        }
        _ => {
            let name = |value: &str| rule(Rule::RequestedServerName(text::matcher(value, "")));
            Some(terms_of(condition, name, any, not))
        }
    }
}

/// Ports are the workload's own, and a place is one of them: what stands on the wire may be the sidecar's.
fn port_fits(ports: &[String], not_ports: &[String], around: Around<'_>) -> bool {
    let here = |port: &String| port.parse() == Ok(around.place.port());
    (ports.is_empty() || ports.iter().any(here)) && !not_ports.iter().any(here)
}

fn path(value: &str) -> Permission {
    if text::is_anything(value) {
        return present(":path");
    }
    if value.contains(['{', '}']) {
        let template = sent_template(value);
        return rule(Rule::UriTemplate(TypedExtensionConfig {
            name: "envoy.path.match.uri_template.uri_template_matcher".to_owned(),
            typed_config: Some(to_any(&UriTemplateMatchConfig { path_template: template })),
        }));
    }
    rule(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text::matcher(value, ""))) }))
}

fn present(name: &str) -> Permission {
    rule(Rule::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }))
}

fn header(name: &str, matcher: StringMatcher) -> Permission {
    rule(Rule::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }))
}

fn rule(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

/// Nothing.
fn never() -> Rule {
    Rule::NotRule(Box::new(rule(Rule::Any(true))))
}

fn any(mut rules: Vec<Permission>) -> Permission {
    match (rules.pop(), rules.len()) {
        (Some(only), 0) => only,
        (last, _) => {
            rules.extend(last);
            rule(Rule::OrRules(Set { rules }))
        }
    }
}

fn not(negated: Permission) -> Permission {
    rule(Rule::NotRule(Box::new(negated)))
}
