//! One request against one requirement: which tokens there are, whose they are, whether they are good.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{self, KeySet};
use super::remote::Remote;
use super::token::{self, Token};
use super::{Failure, Jwt, Keys, Provider, Requirement};
use crate::message::RequestHead;

/// Why a requirement is not met yet.
pub(super) enum Miss {
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
pub(super) struct Judge<'a> {
    jwt: &'a Jwt,
    head: &'a RequestHead,
    now: Instant,
    /// Since the epoch.
    wall: Duration,
    /// Keys that were waited for.
    asked: &'a [Arc<Remote>],
    /// Good tokens, and whose they are.
    pub(super) passed: Vec<(usize, Arc<Token>)>,
    /// The texts of them.
    texts: Vec<String>,
    /// Whose token was not good.
    pub(super) failed: Option<usize>,
    /// Signatures that were checked, and those that need not be.
    pub(super) checked: u32,
    pub(super) remembered: u32,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        jwt: &'a Jwt,
        head: &'a RequestHead,
        now: Instant,
        wall: Duration,
        asked: &'a [Arc<Remote>],
    ) -> Self {
        let (passed, texts, failed, checked, remembered) = (Vec::new(), Vec::new(), None, 0, 0);
        Self { jwt, head, now, wall, asked, passed, texts, failed, checked, remembered }
    }

    /// Whether the requirement is met. Nothing of the request changes.
    pub(super) fn check(&mut self, requirement: &Requirement) -> Result<(), Miss> {
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
        let missing = any.iter().any(|one| matches!(one, Requirement::AllowMissing));
        let failing = any.iter().any(|one| matches!(one, Requirement::AllowMissingOrFailed));
        for requirement in any {
            match requirement {
                Requirement::AllowMissing | Requirement::AllowMissingOrFailed => {}
                requirement => match self.check(requirement) {
                    Ok(()) if failing => return Ok(()),
                    Ok(()) => return self.beside(any),
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

    /// One holds. What stands at the places of the others must be good all the same, for one of them: the application behind may look there,
    /// and policies may be about whom it names.
    fn beside(&mut self, any: &[Requirement]) -> Result<(), Miss> {
        let mut providers = Vec::new();
        any.iter().for_each(|requirement| requirement.providers(&mut providers));
        let mut seen = 0;
        for (index, _) in &providers {
            let Some(place) = self.jwt.providers.get(*index) else { continue };
            for text in place.locations.find(self.head) {
                if self.texts.contains(&text) {
                    continue;
                }
                seen += 1;
                if seen > MOST_TOKENS {
                    return Err(Failure::Malformed("is one of too many").into());
                }
                self.one_of(&providers, text)?;
            }
        }
        Ok(())
    }

    /// A token must be good for one of these providers whose tokens stand where it does.
    fn one_of(&mut self, providers: &[(usize, Option<&[Box<str>]>)], text: String) -> Result<(), Miss> {
        let mut last = Failure::UnknownIssuer;
        for (index, audiences) in providers {
            let Some(provider) = self.jwt.providers.get(*index) else { continue };
            if !provider.locations.find(self.head).contains(&text) {
                continue;
            }
            match self.verify(*index, provider, &text, *audiences) {
                Ok(token) => {
                    self.pass(*index, token, text);
                    return Ok(());
                }
                Err(Miss::Keys(remote)) => return Err(Miss::Keys(remote)),
                Err(Miss::Failed(Failure::UnknownIssuer)) => {}
                Err(Miss::Failed(failure)) => {
                    last = failure;
                    self.failed = Some(*index);
                }
            }
        }
        Err(last.into())
    }

    fn pass(&mut self, index: usize, token: Arc<Token>, text: String) {
        self.passed.push((index, token));
        self.texts.push(text);
    }

    /// Whether one caller is left when all is said: of two good tokens that say different things in one place, policies would see the one
    /// and the application, perhaps, the other.
    pub(super) fn agree(&mut self) -> Result<(), Miss> {
        for (number, (first, token)) in self.passed.iter().enumerate() {
            for (second, other) in &self.passed[..number] {
                let of = |index: usize| self.jwt.providers.get(index).map(|provider| &provider.forwarding);
                let clash = first == second
                    || of(*first).zip(of(*second)).is_some_and(|(first, second)| first.clashes(second));
                if clash && token.payload != other.payload {
                    self.failed = Some(*first);
                    return Err(Failure::Ambiguous.into());
                }
            }
        }
        Ok(())
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
        for text in texts {
            let verified = self.verify(index, provider, &text, audiences);
            let token = verified.inspect_err(|_| self.failed = Some(index))?;
            self.pass(index, token, text);
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
                    Ok((index, token)) => self.pass(index, token, text.clone()),
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

impl Requirement {
    /// The providers in it, with the audiences that it asks for instead of theirs.
    fn providers<'a>(&'a self, into: &mut Vec<(usize, Option<&'a [Box<str>]>)>) {
        match self {
            Self::Provider(index) => into.push((*index, None)),
            Self::ProviderFor(index, audiences) => into.push((*index, Some(audiences))),
            Self::Any(list) | Self::All(list) => list.iter().for_each(|one| one.providers(into)),
            Self::AllowMissing | Self::AllowMissingOrFailed | Self::Unknown => {}
        }
    }
}

/// Tokens of one request that are looked at.
const MOST_TOKENS: usize = 8;
