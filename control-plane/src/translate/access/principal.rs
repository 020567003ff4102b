//! Who asks: `from`, and the conditions on the caller and its token.

use std::net::IpAddr;

use sidegate_xds::envoy::config::core::v3::CidrRange;
use sidegate_xds::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set};
use sidegate_xds::envoy::config::rbac::v3::{MetadataSource, Principal, SourcedMetadata};
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
    value_matcher,
};

use super::rule::{Around, terms, terms_of};
use super::token::{CLAIMS, FILTER};
use super::{super::wire, text};
use crate::model::access::{Attribute, Condition, Source};

/// The terms of one `from`; `None` when it can never match here.
pub(super) fn source(source: &Source, around: Around<'_>) -> Option<Vec<Principal>> {
    let of_requests = [
        &source.request_principals,
        &source.not_request_principals,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
    ];
    let mut all = Vec::new();
    if of_requests.iter().any(|values| !values.is_empty()) {
        match around.unseen() {
            None => {
                all.extend(terms(
                    &source.request_principals,
                    &source.not_request_principals,
                    request_principal,
                    any,
                    not,
                ));
                all.extend(terms(
                    &source.remote_ip_blocks,
                    &source.not_remote_ip_blocks,
                    remote_address,
                    any,
                    not,
                ));
            }
            Some(true) => {}
            Some(false) => return None,
        }
    }
    all.extend(terms(&source.principals, &source.not_principals, peer, any, not));
    let namespace = |value: &str| of_namespace(value, around);
    all.extend(terms(&source.namespaces, &source.not_namespaces, namespace, any, not));
    let account = |value: &str| of_account(value, around);
    all.extend(terms(&source.service_accounts, &source.not_service_accounts, account, any, not));
    all.extend(terms(&source.ip_blocks, &source.not_ip_blocks, direct_address, any, not));
    Some(all)
}

/// The terms of a condition on the caller.
pub(super) fn condition(attribute: &Attribute, condition: &Condition, around: Around<'_>) -> Vec<Principal> {
    let make = |value: &str| match attribute {
        Attribute::Header(name) => header(name, value),
        Attribute::SourceIp => direct_address(value),
        Attribute::RemoteIp => remote_address(value),
        Attribute::SourceNamespace => of_namespace(value, around),
        Attribute::SourcePrincipal => peer(value),
        Attribute::SourceServiceAccount => of_account(value, around),
        Attribute::RequestPrincipal => request_principal(value),
        Attribute::Audiences => claim(&["aud".to_owned()], value),
        Attribute::Presenter => claim(&["azp".to_owned()], value),
        Attribute::Claim(path) => claim(path, value),
        Attribute::DestinationIp | Attribute::DestinationPort | Attribute::Sni => never(),
    };
    terms_of(condition, make, any, not)
}

/// A peer by its SPIFFE id; `*` is whoever has shown a certificate.
fn peer(value: &str) -> Principal {
    if value == "*" {
        return id(Identifier::Authenticated(Authenticated::default()));
    }
    let value = value.strip_prefix(SCHEME).unwrap_or(value);
    authenticated(text::matcher(value, SCHEME))
}

const SCHEME: &str = "spiffe://";

/// A namespace of the mesh's own trust domain: a namespace of the same name elsewhere is another one.
fn of_namespace(value: &str, around: Around<'_>) -> Principal {
    let domain = around.trust_domain;
    if !value.contains('*') {
        return authenticated(text::matcher(&format!("{domain}/ns/{value}/sa/*"), SCHEME));
    }
    let namespace: Vec<String> = value.split('*').map(text::escaped).collect();
    let pattern = format!("spiffe://{}/ns/{}/sa/[^/]+", text::escaped(domain), namespace.join("[^/]*"));
    authenticated(wire::matching(&pattern))
}

fn of_account(value: &str, around: Around<'_>) -> Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((around.namespace, value));
    authenticated(wire::exactly(&format!("{SCHEME}{}/ns/{namespace}/sa/{account}", around.trust_domain)))
}

fn authenticated(name: StringMatcher) -> Principal {
    id(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

fn direct_address(value: &str) -> Principal {
    range(value).map_or_else(never, |range| id(Identifier::DirectRemoteIp(range)))
}

fn remote_address(value: &str) -> Principal {
    range(value).map_or_else(never, |range| id(Identifier::RemoteIp(range)))
}

/// An address or a block of addresses.
pub(super) fn range(value: &str) -> Option<CidrRange> {
    let (address, length) =
        value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    let parsed: IpAddr = address.parse().ok()?;
    let whole = if parsed.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(whole), |length| length.parse().ok())?;
    Some(CidrRange { address_prefix: parsed.to_string(), prefix_len: wire::number(length) })
}

fn header(name: &str, value: &str) -> Principal {
    id(Identifier::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text::matcher(value, ""))),
        ..HeaderMatcher::default()
    }))
}

/// `<issuer>/<subject>`; an issuer may have slashes, a subject has none here.
fn request_principal(value: &str) -> Principal {
    let part = |name: &str, value: &str| claim(&[name.to_owned()], value);
    match value.rsplit_once('/') {
        Some((issuer, subject)) => {
            id(Identifier::AndIds(Set { ids: vec![part("iss", issuer), part("sub", subject)] }))
        }
        // `*`, `abc*` and `*abc` without a slash say something of one end only.
        None if value.starts_with('*') && value.len() > 1 => part("sub", value),
        None => id(Identifier::AndIds(Set { ids: vec![part("iss", value), part("sub", "*")] })),
    }
}

/// A claim of a valid token: a text, or a list with such a text in it.
fn claim(path: &[String], value: &str) -> Principal {
    let segment = |key: &str| metadata_matcher::PathSegment {
        segment: Some(metadata_matcher::path_segment::Segment::Key(key.to_owned())),
    };
    let matches = |pattern| ValueMatcher { match_pattern: Some(pattern) };
    let text = matches(value_matcher::MatchPattern::StringMatch(text::matcher(value, "")));
    let listed = matches(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(text.clone()))),
    })));
    let either = value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: vec![text, listed] });
    let path = std::iter::once(CLAIMS).chain(path.iter().map(String::as_str)).map(segment).collect();
    id(Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: FILTER.to_owned(),
            path,
            value: Some(matches(either)),
            invert: false,
        }),
        metadata_source: MetadataSource::Dynamic.into(),
    }))
}

fn id(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

/// Nobody.
fn never() -> Principal {
    not(id(Identifier::Any(true)))
}

fn any(mut ids: Vec<Principal>) -> Principal {
    match (ids.pop(), ids.len()) {
        (Some(only), 0) => only,
        (last, _) => {
            ids.extend(last);
            id(Identifier::OrIds(Set { ids }))
        }
    }
}

fn not(negated: Principal) -> Principal {
    id(Identifier::NotId(Box::new(negated)))
}
