//! JWTPolicy → the filter that verifies tokens.

use std::collections::HashMap;

use sidegate_xds::envoy::config::core::v3::{DataSource, data_source};
use sidegate_xds::envoy::config::listener::v3::{Filter, filter};
use sidegate_xds::envoy::config::rbac::v3::Rbac;
use sidegate_xds::envoy::config::route::v3::RouteMatch;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList,
    RequirementRule,
};
use sidegate_xds::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use sidegate_xds::google::protobuf::Empty;
use sidegate_xds::resource::to_any;

use super::super::canonical;
use super::super::verdict::{ACCEPTED, Problem, Subject, Verdicts, name_of};
use crate::model::View;
use crate::model::access::bounds::MOST_PROVIDERS;
use crate::model::access::{JwtPolicy, JwtRule, LISTS, key_set};

/// The kind, in verdicts.
pub(super) const KIND: &str = "JWTPolicy";

/// The filter's name, which is also the name of its dynamic metadata.
pub(super) const FILTER: &str = "envoy.filters.http.jwt_authn";

/// Where the claims are in the filter's metadata.
pub(super) const CLAIMS: &str = "payload";

/// What is known while nothing is: a set without keys, by which no token is valid.
const NO_KEYS: &str = r#"{"keys":[]}"#;

/// The filter of a place; none when no policy holds there. All policies are one: a request carries a token of one of the issuers, and it must
/// carry one where any policy requires it.
pub(super) fn filter(view: &View, policies: &[&JwtPolicy], verdicts: &mut Verdicts) -> Option<HttpFilter> {
    let mut providers = HashMap::new();
    let mut one_of = Vec::new();
    for policy in policies {
        for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
            let name = format!("{}/{index}", name_of(&policy.metadata));
            providers.insert(name.clone(), provider(view, rule));
            one_of.push(RequiresType::ProviderName(name));
        }
    }
    if policies.is_empty() {
        return None;
    }
    if providers.len() > MOST_PROVIDERS {
        for policy in policies {
            let text = format!(
                "{} issuers are named at one place by all policies, more than {MOST_PROVIDERS}: nothing passes there",
                providers.len()
            );
            verdicts.note(&Subject::new(KIND, &policy.metadata), ACCEPTED, Problem::new("NotSent", text));
        }
        return Some(nothing_passes());
    }
    if !policies.iter().any(|policy| policy.spec.required) {
        one_of.push(RequiresType::AllowMissing(Empty::default()));
    }
    let requires = requirement(one_of);
    let everything =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() };
    let config = JwtAuthentication {
        providers,
        rules: vec![RequirementRule {
            r#match: Some(everything),
            requirement_type: Some(RequirementType::Requires(requires)),
        }],
        ..JwtAuthentication::default()
    };
    Some(HttpFilter {
        name: FILTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(canonical::any(&config, &[&[1]]))),
        ..HttpFilter::default()
    })
}

/// Bytes that are no requests carry no token: nothing passes where one is required.
pub(super) fn network(policies: &[&JwtPolicy]) -> Option<Filter> {
    policies.iter().any(|policy| policy.spec.required).then(|| Filter {
        name: "envoy.filters.network.rbac.jwt".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(to_any(&NetworkRbac {
            // An `ALLOW` without policies.
            rules: Some(Rbac::default()),
            stat_prefix: "jwt.".to_owned(),
            ..NetworkRbac::default()
        }))),
    })
}

/// In place of a filter that a proxy would not take.
fn nothing_passes() -> HttpFilter {
    let config = HttpRbac { rules: Some(Rbac::default()), ..HttpRbac::default() };
    HttpFilter {
        name: "envoy.filters.http.rbac.jwt".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(to_any(&config))),
        ..HttpFilter::default()
    }
}

/// One requirement as it is, several as a list of which one must hold.
fn requirement(mut parts: Vec<RequiresType>) -> JwtRequirement {
    let wrap = |part| JwtRequirement { requires_type: Some(part) };
    match (parts.pop(), parts.len()) {
        (Some(only), 0) => wrap(only),
        (last, _) => {
            parts.extend(last);
            let requirements = parts.into_iter().map(wrap).collect();
            wrap(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
        }
    }
}

fn provider(view: &View, rule: &JwtRule) -> JwtProvider {
    let fetched = rule.jwks_uri.as_ref().and_then(|uri| view.key_sets.get(uri)).map(|keys| keys.to_string());
    let given = rule.jwks.clone().filter(|keys| key_set(keys).is_ok());
    let keys = given.or(fetched).unwrap_or_else(|| NO_KEYS.to_owned());
    let header = |header: &crate::model::access::TokenHeader| JwtHeader {
        name: header.name.clone(),
        value_prefix: header.prefix.clone(),
    };
    let claim = |output: &crate::model::access::ClaimHeader| JwtClaimToHeader {
        header_name: output.header.clone(),
        claim_name: output.claim.clone(),
        ..JwtClaimToHeader::default()
    };
    JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        // A token that never expires can never be taken back.
        require_expiration: true,
        forward: rule.forward_original_token,
        from_headers: rule.from_headers.iter().map(header).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward_payload_header: rule.output_payload_to_header.clone().unwrap_or_default(),
        payload_in_metadata: CLAIMS.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: LISTS.map(str::to_owned).to_vec(),
        }),
        claim_to_headers: rule.output_claim_to_headers.iter().map(claim).collect(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(keys)),
            ..DataSource::default()
        })),
        ..JwtProvider::default()
    }
}

/// Notes issuers whose keys are not there: until they are, no token of theirs is valid.
pub(super) fn examine(view: &View, subject: &Subject, policy: &JwtPolicy, verdicts: &mut Verdicts) {
    for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
        if let Some(Err(why)) = rule.jwks.as_deref().map(key_set) {
            let text = format!("spec.jwtRules[{index}].jwks {why}; no token of this issuer is valid");
            verdicts.note(subject, ACCEPTED, Problem::new("NotSent", text));
        }
        let Some(uri) = &rule.jwks_uri else { continue };
        if !view.key_sets.contains_key(uri) {
            let text = format!(
                "spec.jwtRules[{index}].jwksUri: no keys have come from {uri}; no token of this issuer is valid until they have"
            );
            verdicts.note(subject, ACCEPTED, Problem::new("Pending", text));
        }
    }
}
