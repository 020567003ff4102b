//! `JwtAuthentication` → `filter::jwt::Jwt`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sidegate_xds::bounds::{self, MOST_PROVIDERS};
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::core::v3::http_uri::HttpUpstreamType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use wire::jwt_provider::JwksSourceSpecifier;
use wire::jwt_requirement::RequiresType;

use super::decode;
use super::filter::Buckets;
use super::header;
use super::problem::{At, Problem, fail, unsupported};
use super::route::matcher;
use super::value;
use crate::filter::Predicate;
use crate::filter::jwt::{
    ClaimHeader, Forwarding, Jwt, JwtRoute, KeySet, Keys, LONGEST_JWKS, Lifetime, Locations, Place, Provider,
    Remote, Requirement, Rule,
};
use crate::message::Scheme;

/// Checks the filter. Keys that were fetched for the same URL are taken over.
pub(crate) fn compile(any: &Any, buckets: &mut Buckets) -> Result<Jwt, Problem> {
    let wire: wire::JwtAuthentication = decode(any)?;
    unsupported(&[("filter_state_rules", wire.filter_state_rules.is_some())])?;
    let mut names: Vec<&str> = wire.providers.keys().map(String::as_str).collect();
    names.sort_unstable();
    if names.len() > MOST_PROVIDERS {
        return fail(format!("has more than {MOST_PROVIDERS}")).at("providers");
    }
    let providers = names.iter().map(|name| {
        let provider = wire.providers.get(*name).ok_or_else(|| Problem::new("is required"))?;
        self::provider(name, provider, buckets).at(format_args!("providers[{name}]"))
    });
    let providers = providers.collect::<Result<Vec<_>, _>>()?;
    let scope = Scope { names: &names, named: &wire.requirement_map };
    let mut named = Vec::with_capacity(wire.requirement_map.len());
    for (name, requirement) in &wire.requirement_map {
        let requirement = scope.requirement(requirement).at(format_args!("requirement_map[{name}]"))?;
        named.push((name.as_str().into(), requirement));
    }
    let rules = wire.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| scope.rule(rule).at(format_args!("rules[{index}]")));
    Ok(Jwt {
        rules: rules.collect::<Result<_, _>>()?,
        own_headers: own_headers(&providers),
        providers,
        named,
        bypass_preflight: wire.bypass_cors_preflight,
        strip_failure: wire.strip_failure_response,
    })
}

/// `PerRouteConfig`.
pub(crate) fn per_route(any: &Any) -> Result<JwtRoute, Problem> {
    use wire::per_route_config::RequirementSpecifier;
    let wire: wire::PerRouteConfig = decode(any)?;
    match wire.requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Ok(JwtRoute::Disabled),
        Some(RequirementSpecifier::Disabled(false)) => fail("must be true").at("disabled"),
        Some(RequirementSpecifier::RequirementName(name)) if !name.is_empty() => {
            Ok(JwtRoute::Named(name.as_str().into()))
        }
        _ => fail("says neither disabled nor requirement_name"),
    }
}

/// What clients must not write themselves.
fn own_headers(providers: &[Provider]) -> Vec<Arc<str>> {
    let names = providers.iter().flat_map(|provider| provider.forwarding.headers());
    let mut names: Vec<Arc<str>> = names.map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn provider(name: &str, wire: &wire::JwtProvider, buckets: &mut Buckets) -> Result<Provider, Problem> {
    unsupported(&[
        ("header_in_metadata", !wire.header_in_metadata.is_empty()),
        ("failed_status_in_metadata", !wire.failed_status_in_metadata.is_empty()),
    ])?;
    let subjects = wire.subjects.as_ref().map(value::string_match).transpose().at("subjects")?;
    // Envoy's default is 60 seconds, and zero is that too.
    let skew = if wire.clock_skew_seconds == 0 { 60 } else { wire.clock_skew_seconds };
    let longest = wire.max_lifetime.as_ref().map(value::duration).transpose().at("max_lifetime")?;
    Ok(Provider {
        name: name.into(),
        issuer: (!wire.issuer.is_empty()).then(|| wire.issuer.as_str().into()),
        audiences: boxed(&wire.audiences),
        subjects: subjects.map(|test| Predicate::new(move |text: &[u8]| test.matches(text))),
        lifetime: Lifetime {
            skew: Duration::from_secs(skew.into()),
            required: wire.require_expiration,
            longest,
        },
        locations: locations(wire)?,
        keys: keys(wire.jwks_source_specifier.as_ref(), buckets)?,
        forwarding: forwarding(wire)?,
    })
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

fn locations(wire: &wire::JwtProvider) -> Result<Locations, Problem> {
    if wire.from_headers.is_empty() && wire.from_params.is_empty() && wire.from_cookies.is_empty() {
        return Ok(Locations::usual());
    }
    let headers = wire.from_headers.iter().enumerate().map(|(index, header)| {
        let name = header::name(&header.name).at(format_args!("from_headers[{index}].name"))?;
        Ok((name.as_str().into(), header.value_prefix.as_str().into()))
    });
    let empty = |texts: &[String]| texts.iter().any(String::is_empty);
    if empty(&wire.from_params) || empty(&wire.from_cookies) {
        return fail("has an empty name").at("from_params, from_cookies");
    }
    Ok(Locations {
        headers: headers.collect::<Result<_, Problem>>()?,
        parameters: boxed(&wire.from_params),
        cookies: boxed(&wire.from_cookies),
    })
}

fn forwarding(wire: &wire::JwtProvider) -> Result<Forwarding, Problem> {
    let payload_header = match wire.forward_payload_header.as_str() {
        "" => None,
        name => Some(header::name(name).at("forward_payload_header")?),
    };
    let claims = wire.claim_to_headers.iter().enumerate();
    let claims =
        claims.map(|(index, claim)| claim_header(claim).at(format_args!("claim_to_headers[{index}]")));
    let lists = wire.normalize_payload_in_metadata.as_ref().map(|rule| boxed(&rule.space_delimited_claims));
    Ok(Forwarding {
        keep_token: wire.forward,
        payload_header,
        pad: wire.pad_forward_payload_header,
        claims: claims.collect::<Result<_, _>>()?,
        metadata: value::text(&wire.payload_in_metadata),
        lists: lists.unwrap_or_default(),
        reroute: wire.clear_route_cache,
    })
}

fn claim_header(wire: &wire::JwtClaimToHeader) -> Result<ClaimHeader, Problem> {
    let name = header::name(&wire.header_name).at("header_name")?;
    let path: Vec<Box<str>> = match (wire.claim_name.as_str(), wire.claim_path.as_slice()) {
        ("", []) => return fail("is required").at("claim_name"),
        (_, []) => wire.claim_name.split('.').map(Into::into).collect(),
        ("", path) => path.iter().map(|segment| segment.key.as_str().into()).collect(),
        _ => return fail("claim_name and claim_path exclude each other"),
    };
    Ok(ClaimHeader { name, path })
}

fn keys(wire: Option<&JwksSourceSpecifier>, buckets: &mut Buckets) -> Result<Keys, Problem> {
    match wire {
        // No keys of our own stand in for those that are not given.
        None => fail("local_jwks or remote_jwks is required"),
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let text = bytes_of(source).at("local_jwks")?;
            let keys = KeySet::local(&text).map_err(Problem::new).at("local_jwks")?;
            Ok(Keys::Local(Arc::new(keys)))
        }
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
            let made = self::remote(remote).at("remote_jwks")?;
            Ok(Keys::Remote(buckets.remote(remote.encode_to_vec(), made)))
        }
    }
}

fn bytes_of(source: &core::DataSource) -> Result<Vec<u8>, Problem> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| Problem::new(format!("the variable {name} is not set"))),
        Some(Specifier::Filename(name)) => {
            let failed = |error: std::io::Error| Problem::new(format!("cannot read {name}: {error}"));
            // A length that is known before: what never ends is not read.
            let length = std::fs::metadata(name).map_err(failed)?.len();
            if length > LONGEST_JWKS as u64 {
                return fail(format!("{name} is longer than {LONGEST_JWKS} bytes"));
            }
            std::fs::read(name).map_err(failed)
        }
        None => fail("says not where the keys are"),
    }
}

/// `retry_policy` and `async_fetch.fast_listener` are accepted without effect: keys are always fetched ahead, and again when that failed.
fn remote(wire: &wire::RemoteJwks) -> Result<Remote, Problem> {
    let uri = wire.http_uri.as_ref().ok_or_else(|| Problem::new("is required").at("http_uri"))?;
    let place = place(uri).at("http_uri")?;
    let timeout = value::interval(uri.timeout.as_ref(), Duration::from_secs(5)).at("http_uri.timeout")?;
    let cache = value::interval(wire.cache_duration.as_ref(), CACHE).at("cache_duration")?;
    let again = wire.async_fetch.as_ref().and_then(|fetch| fetch.failed_refetch_duration.as_ref());
    let again = value::interval(again, Duration::from_secs(1));
    let again = again.at("async_fetch.failed_refetch_duration")?;
    let bounded = |value: Duration| value.clamp(SHORTEST, LONGEST);
    Ok(Remote::new(place, timeout.min(LONGEST_FETCH), bounded(cache), bounded(again)))
}

/// A URL that is fetched by way of a cluster. Nothing but HTTP: no file, no other host than the cluster's.
pub(crate) fn place(wire: &core::HttpUri) -> Result<Place, Problem> {
    let cluster = match &wire.http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => name.as_str().into(),
        _ => return fail("is required").at("cluster"),
    };
    let wrong = |what: &str| Problem::new(format!("{:?} {what}", wire.uri)).at("uri");
    let uri: http::Uri = wire.uri.parse().map_err(|_| wrong("is neither an http nor an https URL"))?;
    let parts = uri.into_parts();
    let scheme = match parts.scheme.as_ref().map(http::uri::Scheme::as_str) {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return Err(wrong("is neither an http nor an https URL")),
    };
    let authority = parts.authority.ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("holds credentials, which would be sent to nobody"));
    }
    let path = parts.path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    Ok(Place { cluster, scheme, authority, path })
}

/// What requirements refer to.
struct Scope<'a> {
    names: &'a [&'a str],
    named: &'a HashMap<String, wire::JwtRequirement>,
}

impl Scope<'_> {
    fn rule(&self, wire: &wire::RequirementRule) -> Result<Rule, Problem> {
        use wire::requirement_rule::RequirementType;
        let matching = wire.r#match.as_ref().ok_or_else(|| Problem::new("is required").at("match"))?;
        let matcher = matcher::compile(matching).at("match")?;
        if matcher.fraction.is_some() {
            return fail("a requirement for a part of the requests is none").at("match.runtime_fraction");
        }
        let requires = match &wire.requirement_type {
            None => None,
            Some(RequirementType::Requires(requirement)) => {
                // An empty one requires nothing, as in Envoy.
                let set = requirement.requires_type.is_some();
                set.then(|| self.requirement(requirement)).transpose().at("requires")?
            }
            Some(RequirementType::RequirementName(name)) => match self.named.get(name) {
                Some(requirement) => Some(self.requirement(requirement).at("requirement_name")?),
                None => {
                    return fail(format!("{name} is not in requirement_map")).at("requirement_name");
                }
            },
        };
        Ok(Rule { matches: Predicate::new(move |head| matcher.mismatch(head, 0).is_none()), requires })
    }

    fn requirement(&self, wire: &wire::JwtRequirement) -> Result<Requirement, Problem> {
        let all = |list: &[wire::JwtRequirement], field: &str| {
            if list.is_empty() {
                return fail("is empty").at(field);
            }
            let list = list.iter().enumerate();
            list.map(|(index, one)| self.requirement(one).at(format_args!("{field}[{index}]"))).collect()
        };
        Ok(match &wire.requires_type {
            None => return fail("requires nothing that this proxy knows"),
            Some(RequiresType::ProviderName(name)) => Requirement::Provider(self.index(name)?),
            Some(RequiresType::ProviderAndAudiences(both)) => {
                let index = self.index(&both.provider_name)?;
                if both.audiences.is_empty() {
                    Requirement::Provider(index)
                } else {
                    Requirement::ProviderFor(index, boxed(&both.audiences))
                }
            }
            Some(RequiresType::RequiresAny(any)) => Requirement::Any(all(&any.requirements, "requires_any")?),
            Some(RequiresType::RequiresAll(list)) => {
                Requirement::All(all(&list.requirements, "requires_all")?)
            }
            Some(RequiresType::AllowMissing(_)) => Requirement::AllowMissing,
            Some(RequiresType::AllowMissingOrFailed(_)) => Requirement::AllowMissingOrFailed,
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
                return fail("is not supported: claims that nobody has verified are no claims")
                    .at("extract_only_without_validation");
            }
        })
    }

    fn index(&self, name: &str) -> Result<usize, Problem> {
        let found = self.names.iter().position(|known| *known == name);
        found.ok_or_else(|| Problem::new(format!("{name:?} is not among the providers")).at("provider_name"))
    }
}

const _: () = assert!(LONGEST_JWKS == bounds::LONGEST_JWKS);

/// How long keys are good when nothing is said (Envoy's default), and the bounds of what may be said.
const CACHE: Duration = Duration::from_secs(600);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_FETCH: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
