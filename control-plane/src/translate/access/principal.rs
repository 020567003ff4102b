//! Who asks: `from`, and the conditions on the caller and its token.

use sidegate_xds::envoy::config::core::v3::CidrRange;
use sidegate_xds::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set};
use sidegate_xds::envoy::config::rbac::v3::{MetadataSource, Principal, SourcedMetadata};
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
    string_matcher::MatchPattern, value_matcher,
};

use super::Place;
use super::rule::{Around, terms, terms_of};
use super::token::{CLAIMS, FILTER};
use super::{super::wire, text};
use crate::model::access::{Action, Attribute, Condition, Source};
use crate::model::block::Block;

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
                all.extend(of_clients(&source.remote_ip_blocks, &source.not_remote_ip_blocks, around));
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
    if *attribute == Attribute::RemoteIp {
        return of_clients(&condition.values, &condition.not_values, around);
    }
    let make = |value: &str| match attribute {
        Attribute::Header(name) => header(name, value),
        Attribute::SourceIp => direct_address(value),
        Attribute::RemoteIp => never(),
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
    let domain = around.mesh.trust_domain;
    if !value.contains('*') {
        return authenticated(text::matcher(&format!("{domain}/ns/{value}/sa/*"), SCHEME));
    }
    let namespace: Vec<String> = value.split('*').map(text::escaped).collect();
    let pattern = format!("spiffe://{}/ns/{}/sa/[^/]+", text::escaped(domain), namespace.join("[^/]*"));
    authenticated(wire::matching(&pattern))
}

fn of_account(value: &str, around: Around<'_>) -> Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((around.namespace, value));
    authenticated(wire::exactly(&format!("{SCHEME}{}/ns/{namespace}/sa/{account}", around.mesh.trust_domain)))
}

fn authenticated(name: StringMatcher) -> Principal {
    id(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

fn direct_address(value: &str) -> Principal {
    range(value).map_or_else(never, |range| id(Identifier::DirectRemoteIp(range)))
}

/// The terms of clients' addresses. Anybody can write `x-forwarded-for`: at a sidecar only Gateways are believed. What another says denies,
/// and it allows nothing by itself.
fn of_clients(values: &[String], not_values: &[String], around: Around<'_>) -> Vec<Principal> {
    let denies = around.action != Action::Allow;
    let mut all = Vec::new();
    if !values.is_empty() {
        all.push(client_in(values, around, denies));
    }
    if !not_values.is_empty() {
        all.push(not(client_in(not_values, around, !denies)));
    }
    all
}

/// Whether the client is in one of the blocks; `easily`: one of two that say so will do, where it is not certain who is right.
fn client_in(blocks: &[String], around: Around<'_>, easily: bool) -> Principal {
    let one_of = |make: fn(CidrRange) -> Identifier| {
        any(blocks.iter().map(|block| range(block).map_or_else(never, |range| id(make(range)))).collect())
    };
    let told = one_of(Identifier::RemoteIp);
    if matches!(around.place, Place::Gateway { .. }) {
        return told;
    }
    // Where peers cannot prove who they are, nobody has proven to be a Gateway.
    let gateways = around.mesh.gateways.unwrap_or_default();
    let believed = || any(gateways.iter().map(|gateway| authenticated(wire::exactly(gateway))).collect());
    let itself = one_of(Identifier::DirectRemoteIp);
    let both = |ids| id(Identifier::AndIds(Set { ids }));
    match (gateways.is_empty(), easily) {
        (true, true) => any(vec![told, itself]),
        (true, false) => both(vec![told, itself]),
        (false, true) => any(vec![told, both(vec![itself, not(believed())])]),
        (false, false) => both(vec![told, any(vec![itself, believed()])]),
    }
}

/// An address or a block of addresses.
pub(super) fn range(value: &str) -> Option<CidrRange> {
    let Block { address, length } = value.parse().ok()?;
    Some(CidrRange { address_prefix: address.to_string(), prefix_len: wire::number(length.into()) })
}

fn header(name: &str, value: &str) -> Principal {
    let specifier = match text::is_anything(value) {
        true => HeaderMatchSpecifier::PresentMatch(true),
        false => HeaderMatchSpecifier::StringMatch(text::matcher(value, "")),
    };
    id(Identifier::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }))
}

/// `<issuer>/<subject>` as one text. Claims are two, and both may have slashes: so it is one of the ways to part the text at a slash.
fn request_principal(value: &str) -> Principal {
    let is = |name: &str, pattern: MatchPattern| said(&[name.to_owned()], exactly_this(pattern));
    let all = |ids: Vec<Principal>| id(Identifier::AndIds(Set { ids }));
    let parted = || value.match_indices('/').map(|(at, _)| (&value[..at], &value[at + 1..]));
    // A token has an issuer, whatever else it has.
    if text::is_anything(value) {
        return said(&["iss".to_owned()], present());
    }
    let mut ways = Vec::new();
    if let Some(end) = value.strip_prefix('*') {
        ways.push(is("sub", MatchPattern::Suffix(end.to_owned())));
        for (issuer, subject) in parted() {
            let mut both = vec![subject_is(subject)];
            // Of any issuer, when nothing stands before the slash.
            if let Some(end) = issuer.strip_prefix('*').filter(|end| !end.is_empty()) {
                both.push(is("iss", MatchPattern::Suffix(end.to_owned())));
            }
            ways.push(if both.len() == 1 { both.remove(0) } else { all(both) });
        }
    } else if let Some(start) = value.strip_suffix('*') {
        ways.push(is("iss", MatchPattern::Prefix(start.to_owned())));
        for (issuer, subject) in parted() {
            let issuer = is("iss", MatchPattern::Exact(issuer.to_owned()));
            let subject = subject.trim_end_matches('*');
            ways.push(match subject {
                // Whoever it is, and if it is nobody.
                "" => issuer,
                _ => all(vec![issuer, is("sub", MatchPattern::Prefix(subject.to_owned()))]),
            });
        }
    } else {
        for (issuer, subject) in parted() {
            ways.push(all(vec![is("iss", MatchPattern::Exact(issuer.to_owned())), subject_is(subject)]));
        }
    }
    if ways.is_empty() { never() } else { any(ways) }
}

/// A token without a subject is as one whose subject is empty.
fn subject_is(subject: &str) -> Principal {
    let path = ["sub".to_owned()];
    let same = said(&path, exactly_this(MatchPattern::Exact(subject.to_owned())));
    if subject.is_empty() { any(vec![same, not(said(&path, present()))]) } else { same }
}

/// A claim of a valid token: a text, or a list with such a text in it; `*` is whatever it is.
fn claim(path: &[String], value: &str) -> Principal {
    let one = match text::is_anything(value) {
        true => present(),
        false => matches(value_matcher::MatchPattern::StringMatch(text::matcher(value, ""))),
    };
    let listed = matches(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(one.clone()))),
    })));
    said(path, matches(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: vec![one, listed] })))
}

fn exactly_this(pattern: MatchPattern) -> ValueMatcher {
    let text = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
    matches(value_matcher::MatchPattern::StringMatch(text))
}

fn present() -> ValueMatcher {
    matches(value_matcher::MatchPattern::PresentMatch(true))
}

fn matches(pattern: value_matcher::MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

/// What a valid token says at a place.
fn said(path: &[String], value: ValueMatcher) -> Principal {
    let segment = |key: &str| metadata_matcher::PathSegment {
        segment: Some(metadata_matcher::path_segment::Segment::Key(key.to_owned())),
    };
    let path = std::iter::once(CLAIMS).chain(path.iter().map(String::as_str)).map(segment).collect();
    id(Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: FILTER.to_owned(),
            path,
            value: Some(value),
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
