//! JWTPolicy → the filter that verifies tokens.

use std::collections::HashMap;

use sidegate_xds::envoy::config::core::v3::{DataSource, data_source};
use sidegate_xds::envoy::config::route::v3::RouteMatch;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, RequirementRule,
};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use sidegate_xds::google::protobuf::Empty;

use super::super::canonical;
use super::super::verdict::{ACCEPTED, Problem, Subject, Verdicts, name_of};
use crate::model::View;
use crate::model::access::{JwtPolicy, JwtRule};

/// The filter's name, which is also the name of its dynamic metadata.
pub(super) const FILTER: &str = "envoy.filters.http.jwt_authn";

/// Where the claims are in the filter's metadata.
pub(super) const CLAIMS: &str = "payload";

/// What is known while nothing is: a set without keys, by which no token is valid.
const NO_KEYS: &str = r#"{"keys":[]}"#;

/// The filter of a place; none when no policy holds there.
pub(super) fn filter(view: &View, policies: &[&JwtPolicy]) -> Option<HttpFilter> {
    let mut providers = HashMap::new();
    let mut all_of = Vec::new();
    for policy in policies {
        let mut one_of = Vec::new();
        for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
            let name = format!("{}/{index}", name_of(&policy.metadata));
            providers.insert(name.clone(), provider(view, rule));
            one_of.push(RequiresType::ProviderName(name));
        }
        if !policy.spec.required {
            one_of.push(RequiresType::AllowMissing(Empty::default()));
        }
        all_of.push(requirement(one_of, |requirements| {
            RequiresType::RequiresAny(JwtRequirementOrList { requirements })
        }));
    }
    if all_of.is_empty() {
        return None;
    }
    let requires =
        requirement(all_of.into_iter().filter_map(|each| each.requires_type).collect(), |requirements| {
            RequiresType::RequiresAll(JwtRequirementAndList { requirements })
        });
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

/// One requirement as it is, several as a list.
fn requirement(
    mut parts: Vec<RequiresType>,
    list: impl Fn(Vec<JwtRequirement>) -> RequiresType,
) -> JwtRequirement {
    let wrap = |part| JwtRequirement { requires_type: Some(part) };
    match (parts.pop(), parts.len()) {
        (Some(only), 0) => wrap(only),
        (last, _) => {
            parts.extend(last);
            wrap(list(parts.into_iter().map(wrap).collect()))
        }
    }
}

fn provider(view: &View, rule: &JwtRule) -> JwtProvider {
    let fetched = rule.jwks_uri.as_ref().and_then(|uri| view.key_sets.get(uri)).map(|keys| keys.to_string());
    let keys = rule.jwks.clone().or(fetched).unwrap_or_else(|| NO_KEYS.to_owned());
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
        forward: rule.forward_original_token,
        from_headers: rule.from_headers.iter().map(header).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward_payload_header: rule.output_payload_to_header.clone().unwrap_or_default(),
        payload_in_metadata: CLAIMS.to_owned(),
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
        let Some(uri) = &rule.jwks_uri else { continue };
        if !view.key_sets.contains_key(uri) {
            let text = format!(
                "spec.jwtRules[{index}].jwksUri: no keys have come from {uri}; no token of this issuer is valid until they have"
            );
            verdicts.note(subject, ACCEPTED, Problem::new("Pending", text));
        }
    }
}
