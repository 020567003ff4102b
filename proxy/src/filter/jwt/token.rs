//! A token's three parts (RFC 7519 in the compact form of RFC 7515), and what its claims must say. Nothing here is verified by a key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Failure;

/// A token that was read.
#[derive(Debug)]
pub(crate) struct Token {
    /// `alg`.
    pub(super) algorithm: Algorithm,
    /// `kid`.
    pub(super) key_id: Option<Box<str>>,
    /// `iss`.
    pub(super) issuer: Option<Box<str>>,
    /// `sub`.
    pub(super) subject: Option<Box<str>>,
    /// `aud`, one or several.
    pub(super) audiences: Vec<Box<str>>,
    /// Seconds since the epoch.
    expires: Option<f64>,
    not_before: Option<f64>,
    /// Every claim.
    pub(crate) claims: Map<String, Value>,
    /// The middle part, as it came.
    pub(super) payload: Box<str>,
}

/// The members of a header that matter. What must be understood and is not ends it.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

impl Token {
    /// Reads a token. JSON is read to a depth of 128 at most.
    pub(super) fn read(text: &str) -> Result<Self, Failure> {
        if text.len() > LONGEST {
            return Err(Failure::Malformed("is longer than 16 KiB"));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::Malformed("has not three parts"));
        };
        let header: Header = serde_json::from_slice(&decoded(header)?)
            .map_err(|_| Failure::Malformed("has a header that cannot be read"))?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(Failure::Malformed("wants extensions to be understood (`crit`, `b64`)"));
        }
        let claims: Map<String, Value> = serde_json::from_slice(&decoded(payload)?)
            .map_err(|_| Failure::Malformed("has claims that cannot be read"))?;
        Ok(Self {
            algorithm: algorithm(&header.alg).ok_or(Failure::Algorithm)?,
            key_id: header.kid.map(Into::into),
            issuer: text_claim(&claims, "iss")?,
            subject: text_claim(&claims, "sub")?,
            audiences: audiences(&claims)?,
            expires: time_claim(&claims, "exp")?,
            not_before: time_claim(&claims, "nbf")?,
            claims,
            payload: payload.into(),
        })
    }

    /// Whether now is within the token's time.
    pub(super) fn check_time(&self, now: Duration, rule: &Lifetime) -> Result<(), Failure> {
        let (now, skew) = (now.as_secs_f64(), rule.skew.as_secs_f64());
        if self.not_before.is_some_and(|from| now + skew < from) {
            return Err(Failure::NotYetValid);
        }
        let Some(expires) = self.expires else {
            let needed = rule.required || rule.longest.is_some();
            return if needed { Err(Failure::Lifetime) } else { Ok(()) };
        };
        if now > expires + skew {
            return Err(Failure::Expired);
        }
        match rule.longest {
            Some(longest) if expires - now > longest.as_secs_f64() => Err(Failure::Lifetime),
            _ => Ok(()),
        }
    }
}

/// What is demanded of a token's time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifetime {
    /// `clock_skew_seconds`.
    pub(crate) skew: Duration,
    /// `require_expiration`.
    pub(crate) required: bool,
    /// `max_lifetime`: from now on.
    pub(crate) longest: Option<Duration>,
}

/// By name. What has no key that anybody may know, `none` and the symmetric ones, has no place here.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

fn decoded(part: &str) -> Result<Vec<u8>, Failure> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Failure::Malformed("is not base64url"))
}

fn text_claim(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Box<str>>, Failure> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(Failure::Malformed("has an `iss` or `sub` that is no text")),
    }
}

fn time_claim(claims: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, Failure> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(Failure::Malformed("has an `exp` or `nbf` that is no time")),
        },
    }
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Failure> {
    let wrong = Failure::Malformed("has an `aud` that is neither text nor a list of texts");
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.as_str().into()]),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<Box<str>>> = list.iter().map(|one| one.as_str().map(Into::into)).collect();
            texts.ok_or(wrong)
        }
        Some(_) => Err(wrong),
    }
}

/// Whether one of the token's audiences is one of the wanted ones; the scheme and a last slash do not count, as in Envoy.
pub(super) fn has_audience(token: &Token, wanted: &[Box<str>]) -> bool {
    wanted.is_empty()
        || token.audiences.iter().any(|own| wanted.iter().any(|wanted| plain(own) == plain(wanted)))
}

fn plain(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// Bytes of a token.
const LONGEST: usize = 16 * 1024;
