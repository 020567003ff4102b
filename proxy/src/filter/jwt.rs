//! `envoy.filters.http.jwt_authn`: requests must carry tokens that an issuer has signed.
//!
//! A request is judged without being touched; only what has passed is taken out, forwarded and noted, at the end. Keys that are not
//! there yet are asked for: then the whole judgement is made again. Nothing that a token says counts before its signature is verified.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::{Context, Predicate, Question, Reply, Verdict};
use crate::error::Reason;
use crate::message::RequestHead;
use crate::telemetry::FilterEvent;

mod forward;
mod judge;
mod keys;
mod location;
mod remote;
mod token;

pub(crate) use forward::{ClaimHeader, Forwarding};
pub(crate) use keys::{KeySet, LONGEST as LONGEST_JWKS};
pub(crate) use location::Locations;
pub(crate) use remote::{Fetching, Place, Remote};
pub(crate) use token::Lifetime;

use judge::{Judge, Miss};
use token::Token;

/// The filter.
#[derive(Debug)]
pub(crate) struct Jwt {
    /// `providers`.
    pub(crate) providers: Vec<Provider>,
    /// `rules`: the first that matches decides.
    pub(crate) rules: Vec<Rule>,
    /// `requirement_map`.
    pub(crate) named: Vec<(Arc<str>, Requirement)>,
    /// `bypass_cors_preflight`.
    pub(crate) bypass_preflight: bool,
    /// `strip_failure_response`.
    pub(crate) strip_failure: bool,
    /// Headers that only this filter writes: what a client sends under these names is taken off.
    pub(crate) own_headers: Vec<Arc<str>>,
}

/// Who issues tokens, where they are, and what becomes of them.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// `issuer`; `None` is any.
    pub(crate) issuer: Option<Box<str>>,
    /// `audiences`; none is any.
    pub(crate) audiences: Vec<Box<str>>,
    /// `subjects`.
    pub(crate) subjects: Option<Predicate<[u8]>>,
    /// What is demanded of a token's time.
    pub(crate) lifetime: Lifetime,
    /// `from_headers`, `from_params`, `from_cookies`.
    pub(crate) locations: Locations,
    /// `local_jwks`, `remote_jwks`.
    pub(crate) keys: Keys,
    /// What the next hop and later filters get.
    pub(crate) forwarding: Forwarding,
}

/// Where a provider's keys are.
#[derive(Debug)]
pub(crate) enum Keys {
    /// Here.
    Local(Arc<KeySet>),
    /// At a URL.
    Remote(Arc<Remote>),
}

/// `RequirementRule`.
#[derive(Debug)]
pub(crate) struct Rule {
    /// `match`.
    pub(crate) matches: Predicate<RequestHead>,
    /// What is required; `None` is nothing.
    pub(crate) requires: Option<Requirement>,
}

/// `JwtRequirement`.
#[derive(Debug)]
pub(crate) enum Requirement {
    /// Tokens of the provider at this place in the list.
    Provider(usize),
    /// The same, for these audiences instead of the provider's.
    ProviderFor(usize, Vec<Box<str>>),
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// Tokens need not be there; those that are must be good.
    AllowMissing,
    /// Tokens need be neither there nor good: those that are good are used.
    AllowMissingOrFailed,
    /// The requirement of this name is not there.
    Unknown,
}

/// `PerRouteConfig`.
#[derive(Clone, Debug)]
pub(crate) enum JwtRoute {
    /// Nothing is required.
    Disabled,
    /// This requirement holds instead of the rules.
    Named(Arc<str>),
}

/// Why a requirement is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No token.
    Missing,
    /// What is wrong with its form.
    Malformed(&'static str),
    /// `alg` is none that is verified here.
    Algorithm,
    /// `iss` is nobody's whose tokens count here.
    UnknownIssuer,
    /// `sub` is none that is allowed.
    Subject,
    /// `nbf` has not come.
    NotYetValid,
    /// `exp` has passed.
    Expired,
    /// It has no `exp`, or one too far away.
    Lifetime,
    /// `aud` names nobody here.
    Audience,
    /// There are no keys.
    NoKeys,
    /// None of the keys is meant.
    NoKey,
    /// The signature is not by the key.
    Signature,
    /// Two good tokens that say different things where only one can be believed.
    Ambiguous,
    /// The configuration names a requirement that is not there.
    Requirement,
}

/// A judgement that waits for keys.
#[derive(Debug)]
pub(crate) struct Waiting {
    jwt: Arc<Jwt>,
    route: Option<JwtRoute>,
    /// Those that were waited for already, the last one being waited for now.
    asked: Vec<Arc<Remote>>,
}

impl Waiting {
    /// The keys that are waited for.
    pub(crate) fn remote(&self) -> Option<&Arc<Remote>> {
        self.asked.last()
    }

    /// They are there, or will not be.
    pub(crate) fn resume(self, context: &mut Context<'_>) -> Verdict {
        self.jwt.judge(self.route.as_ref(), self.asked, context)
    }
}

impl Jwt {
    /// Judges a request.
    pub(crate) fn on_request(
        self: &Arc<Self>,
        route: Option<&JwtRoute>,
        context: &mut Context<'_>,
    ) -> Verdict {
        for name in &self.own_headers {
            context.head.headers.remove_alike(name);
        }
        if self.bypass_preflight && is_preflight(context.head) {
            context.attributes.note(FilterEvent::JwtPreflight);
            return Verdict::Continue;
        }
        self.judge(route, Vec::new(), context)
    }

    /// Keys that are fetched.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.providers.iter().filter_map(|provider| match &provider.keys {
            Keys::Local(_) => None,
            Keys::Remote(remote) => Some(remote),
        })
    }

    fn judge(
        self: &Arc<Self>,
        route: Option<&JwtRoute>,
        asked: Vec<Arc<Remote>>,
        context: &mut Context<'_>,
    ) -> Verdict {
        let requirement = match route {
            Some(JwtRoute::Disabled) => None,
            Some(JwtRoute::Named(name)) => {
                let named = self.named.iter().find(|(known, _)| known == name);
                Some(named.map_or(&Requirement::Unknown, |(_, requirement)| requirement))
            }
            None => {
                let rule = self.rules.iter().find(|rule| rule.matches.holds(context.head));
                rule.and_then(|rule| rule.requires.as_ref())
            }
        };
        let Some(requirement) = requirement else {
            context.attributes.note(FilterEvent::JwtAllowed);
            return Verdict::Continue;
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut judge = Judge::new(self, context.head, Instant::now(), wall, &asked);
        let outcome = judge.check(requirement).and_then(|()| judge.agree());
        let Judge { passed, failed, checked, remembered, .. } = judge;
        context.attributes.note_if(checked > 0, FilterEvent::JwtCacheMiss);
        context.attributes.note_if(remembered > 0, FilterEvent::JwtCacheHit);
        match outcome {
            Ok(()) => {
                context.attributes.note(FilterEvent::JwtAllowed);
                self.pass(&passed, context)
            }
            Err(Miss::Keys(remote)) => {
                let mut asked = asked;
                asked.push(remote);
                Verdict::Ask(Box::new(Question::Keys(Waiting {
                    jwt: self.clone(),
                    route: route.cloned(),
                    asked,
                })))
            }
            Err(Miss::Failed(failure)) => {
                context.attributes.note(FilterEvent::JwtDenied);
                Verdict::Reply(self.refusal(failure, failed, context.head))
            }
        }
    }

    /// What a good token changes. Whether the route is chosen again: a header or a claim may decide about it.
    fn pass(&self, passed: &[(usize, Arc<Token>)], context: &mut Context<'_>) -> Verdict {
        let mut said = serde_json::Map::new();
        let mut reroute = false;
        for (index, token) in passed {
            let Some(provider) = self.providers.get(*index) else { continue };
            if !provider.forwarding.keep_token {
                provider.locations.remove(context.head);
            }
            let wrote = provider.forwarding.write(token, &mut context.head.headers, &mut said);
            reroute |= wrote && provider.forwarding.reroute;
        }
        if !said.is_empty() {
            context.attributes.merge(METADATA, said);
        }
        if reroute { Verdict::Reroute } else { Verdict::Continue }
    }

    fn refusal(&self, failure: Failure, failed: Option<usize>, head: &RequestHead) -> Reply {
        let provider = failed.and_then(|index| self.providers.get(index));
        let detail = match provider {
            Some(provider) => format!("{} (provider {})", failure.text(), provider.name),
            None => failure.text(),
        };
        let mut headers = Vec::new();
        let status = match failure {
            Failure::Audience | Failure::Requirement => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        if !self.strip_failure
            && status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge(failure, head)
        {
            headers.push((HeaderName::from_static("www-authenticate"), challenge));
        }
        Reply { reason: Reason::Unauthenticated, status, headers, detail: Some(detail) }
    }
}

impl Failure {
    /// In Envoy's words, for the operator.
    fn text(self) -> String {
        let text = match self {
            Self::Missing => "Jwt is missing",
            Self::Malformed(what) => {
                return format!("Jwt is not in the form of Header.Payload.Signature: it {what}");
            }
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::Subject => "Jwt subject is not allowed",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::Lifetime => "Jwt has no expiration, or one that is too far away",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
            Self::Ambiguous => "Jwts of different callers are in one request",
            Self::Requirement => "the route names a requirement that the filter has not",
        };
        text.to_owned()
    }

    /// Says as much as that no token was meant for here.
    fn is_absence(self) -> bool {
        matches!(self, Self::Missing | Self::UnknownIssuer)
    }
}

/// A CORS preflight (Fetch, "CORS-preflight request"): browsers send no credentials with it.
fn is_preflight(head: &RequestHead) -> bool {
    head.method == Method::OPTIONS
        && head.headers.get("origin").is_some_and(|origin| !origin.is_empty())
        && head.headers.get("access-control-request-method").is_some_and(|method| !method.is_empty())
}

/// `www-authenticate` (RFC 6750 §3), as Envoy writes it. The query is left out: it may hold a token.
fn challenge(failure: Failure, head: &RequestHead) -> Option<HeaderValue> {
    let host = head.authority.as_ref().map_or("", |authority| authority.as_str());
    let mut realm = format!("{}://{host}{}", head.scheme.as_str(), head.path.path());
    if realm.len() > LONGEST_REALM || realm.contains(['"', '\\']) {
        realm = format!("{}://{host}", head.scheme.as_str());
    }
    let error = if failure == Failure::Missing { "" } else { ", error=\"invalid_token\"" };
    HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"{error}")).ok()
}

/// The name under which later filters find what the tokens say.
const METADATA: &str = "envoy.filters.http.jwt_authn";
const LONGEST_REALM: usize = 256;

#[cfg(test)]
mod tests;
