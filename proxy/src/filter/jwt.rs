//! `envoy.filters.http.jwt_authn`: requests must carry tokens that an issuer has signed.
//!
//! A request is judged without being touched; only what has passed is taken out, forwarded and noted, at the end. Keys that are not
//! there yet are asked for: then the whole judgement is made again. Nothing that a token says counts before its signature is verified.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::{Context, Predicate, Question, Reply, Verdict};
use crate::error::Reason;
use crate::message::RequestHead;
use crate::telemetry::FilterEvent;

mod forward;
mod keys;
mod location;
mod remote;
mod token;

pub(crate) use forward::{ClaimHeader, Forwarding};
pub(crate) use keys::{KeySet, LONGEST as LONGEST_JWKS};
pub(crate) use location::Locations;
pub(crate) use remote::{Fetching, Place, Remote};
pub(crate) use token::Lifetime;

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
            context.head.headers.remove(name);
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
        let mut judge = Judge {
            jwt: self,
            head: context.head,
            now: Instant::now(),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            asked: &asked,
            passed: Vec::new(),
            failed: None,
            checked: 0,
            remembered: 0,
        };
        let outcome = judge.check(requirement);
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
            Self::Requirement => "the route names a requirement that the filter has not",
        };
        text.to_owned()
    }

    /// Says as much as that no token was meant for here.
    fn is_absence(self) -> bool {
        matches!(self, Self::Missing | Self::UnknownIssuer)
    }
}

/// Why a requirement is not met yet.
enum Miss {
    Failed(Failure),
    /// Keys must be there first.
    Keys(Arc<Remote>),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// One request being judged.
struct Judge<'a> {
    jwt: &'a Jwt,
    head: &'a RequestHead,
    now: Instant,
    /// Since the epoch.
    wall: Duration,
    /// Keys that were waited for.
    asked: &'a [Arc<Remote>],
    /// Good tokens, and whose they are.
    passed: Vec<(usize, Arc<Token>)>,
    /// Whose token was not good.
    failed: Option<usize>,
    /// Signatures that were checked, and those that need not be.
    checked: u32,
    remembered: u32,
}

impl Judge<'_> {
    fn check(&mut self, requirement: &Requirement) -> Result<(), Miss> {
        match requirement {
            Requirement::Provider(index) => self.provider(*index, None),
            Requirement::ProviderFor(index, audiences) => self.provider(*index, Some(audiences)),
            Requirement::All(all) => all.iter().try_for_each(|one| self.check(one)),
            Requirement::Any(any) => self.any(any),
            Requirement::AllowMissing => self.whatever_is_there(false),
            Requirement::AllowMissingOrFailed => self.whatever_is_there(true),
            Requirement::Unknown => Err(Failure::Requirement.into()),
        }
    }

    /// One must hold. That none may be there, or none need be good, holds when all others do not.
    fn any(&mut self, any: &[Requirement]) -> Result<(), Miss> {
        let mut last = None;
        let (mut missing, mut failing) = (false, false);
        for requirement in any {
            match requirement {
                Requirement::AllowMissing => missing = true,
                Requirement::AllowMissingOrFailed => failing = true,
                requirement => match self.check(requirement) {
                    Ok(()) => return Ok(()),
                    Err(Miss::Keys(remote)) => return Err(Miss::Keys(remote)),
                    Err(Miss::Failed(failure)) => {
                        if last.is_none_or(Failure::is_absence) || !failure.is_absence() {
                            last = Some(failure);
                        }
                    }
                },
            }
        }
        match last {
            None if missing || failing => self.whatever_is_there(failing),
            Some(_) if failing => Ok(()),
            Some(Failure::Missing) if missing => Ok(()),
            last => Err(last.unwrap_or(Failure::Missing).into()),
        }
    }

    /// Every token where this provider's are must be one of it, and good: an application behind may look at any of them.
    fn provider(&mut self, index: usize, audiences: Option<&[Box<str>]>) -> Result<(), Miss> {
        let Some(provider) = self.jwt.providers.get(index) else { return Err(Failure::Requirement.into()) };
        let texts = provider.locations.find(self.head);
        if texts.is_empty() {
            return Err(Failure::Missing.into());
        }
        if texts.len() > MOST_TOKENS {
            return Err(Failure::Malformed("is one of too many").into());
        }
        for text in &texts {
            let verified = self.verify(index, provider, text, audiences);
            let token = verified.inspect_err(|_| self.failed = Some(index))?;
            self.passed.push((index, token));
        }
        Ok(())
    }

    /// Every token at any provider's places must be somebody's, and good; `forgiving`: those that are not are as good as not there.
    fn whatever_is_there(&mut self, forgiving: bool) -> Result<(), Miss> {
        let mut seen: Vec<String> = Vec::new();
        for place in &self.jwt.providers {
            for text in place.locations.find(self.head) {
                if seen.contains(&text) {
                    continue;
                }
                if seen.len() >= MOST_TOKENS {
                    return if forgiving {
                        Ok(())
                    } else {
                        Err(Failure::Malformed("is one of too many").into())
                    };
                }
                match self.somebodys(&text) {
                    Ok(passed) => self.passed.push(passed),
                    Err(Miss::Failed(_)) if forgiving => {}
                    Err(miss) => return Err(miss),
                }
                seen.push(text);
            }
        }
        Ok(())
    }

    fn somebodys(&mut self, text: &str) -> Result<(usize, Arc<Token>), Miss> {
        let token = Token::read(text)?;
        let providers = || self.jwt.providers.iter().enumerate();
        let found = providers()
            .find(|(_, provider)| provider.issuer.is_some() && provider.issuer == token.issuer)
            .or_else(|| providers().find(|(_, provider)| provider.issuer.is_none()));
        let Some((index, provider)) = found else { return Err(Failure::UnknownIssuer.into()) };
        // A token where its issuer's are not to be is nobody's.
        if !provider.locations.find(self.head).iter().any(|one| one == text) {
            return Err(Failure::UnknownIssuer.into());
        }
        let verified = self.verify(index, provider, text, None);
        Ok((index, verified.inspect_err(|_| self.failed = Some(index))?))
    }

    fn verify(
        &mut self,
        index: usize,
        provider: &Provider,
        text: &str,
        audiences: Option<&[Box<str>]>,
    ) -> Result<Arc<Token>, Miss> {
        // Another requirement has verified it, for this provider, in this judgement or an earlier request.
        let digest = keys::digest_of(text);
        let keys = self.keys(provider);
        let known = keys.as_ref().and_then(|keys| keys.remembered(&digest));
        let verified = known.is_some();
        let token = match known {
            Some(token) => token,
            None => Arc::new(Token::read(text)?),
        };
        if provider.issuer.is_some() && provider.issuer != token.issuer {
            return Err(Failure::UnknownIssuer.into());
        }
        token.check_time(self.wall, &provider.lifetime)?;
        let subject = token.subject.as_deref().unwrap_or_default();
        if provider.subjects.as_ref().is_some_and(|subjects| !subjects.holds(subject.as_bytes())) {
            return Err(Failure::Subject.into());
        }
        if !token::has_audience(&token, audiences.unwrap_or(&provider.audiences)) {
            return Err(Failure::Audience.into());
        }
        let Some(keys) = keys else { return Err(self.wait_for(index)) };
        if verified {
            self.remembered += 1;
            return Ok(token);
        }
        self.checked += 1;
        let result = keys.verify(&token, text);
        if let (Err(Failure::NoKey), Keys::Remote(remote)) = (&result, &provider.keys) {
            remote.hasten(self.now);
        }
        result?;
        keys.remember(digest, &token, text.len());
        Ok(token)
    }

    fn keys(&self, provider: &Provider) -> Option<Arc<KeySet>> {
        match &provider.keys {
            Keys::Local(keys) => Some(keys.clone()),
            Keys::Remote(remote) => remote.current(self.now),
        }
    }

    fn wait_for(&self, index: usize) -> Miss {
        match self.jwt.providers.get(index).map(|provider| &provider.keys) {
            Some(Keys::Remote(remote)) if !self.asked.iter().any(|asked| Arc::ptr_eq(asked, remote)) => {
                Miss::Keys(remote.clone())
            }
            _ => Failure::NoKeys.into(),
        }
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
/// Tokens of one request that are looked at.
const MOST_TOKENS: usize = 8;

#[cfg(test)]
mod tests;
