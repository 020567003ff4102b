//! Tokens that the control plane itself signs, for manifests without a Kubernetes API server behind them.
//!
//! ES256 with one key of our own and nothing else: the header must be, field by field, the one that we write.

mod file;
mod key;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

use super::refusal::{Reason, Refusal};
use super::subject::Subject;
pub use file::{WriteError, write};
pub use key::KeyError;

/// Who signs, and whom the tokens are for.
pub const ISSUER: &str = "sidegate";

/// The one audience that a token must have, ours or Kubernetes'.
pub const AUDIENCE: &str = "sidegate";

/// The longest life of a token.
pub const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);

/// The key with which tokens are signed and checked.
pub struct TokenKey {
    signing: EncodingKey,
    checking: DecodingKey,
    /// The key's thumbprint (RFC 7638): a token of another key is told apart without a look at its signature.
    id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a token was found to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// In whose name.
    pub subject: Subject,
    /// Until when.
    pub expires: SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    /// The Pod that the token is bound to, where Kubernetes has it.
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Bound {
    pod: Named,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// A token for us and somebody else could be used on us by that somebody.
    fn is_ours_alone(&self) -> bool {
        match self {
            Self::One(name) => name == AUDIENCE,
            Self::Several(names) => names.as_slice() == [AUDIENCE],
        }
    }
}

impl TokenKey {
    /// The key of this folder; made at first use.
    ///
    /// # Errors
    /// When it can neither be read nor made, or others may read it.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        key::open(folder)
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the life is longer than [`LONGEST_TTL`] or the system has no randomness.
    pub fn mint(&self, subject: &Subject, ttl: Duration, now: SystemTime) -> Result<String, MintError> {
        if ttl < Duration::from_secs(1) || ttl > LONGEST_TTL {
            return Err(MintError::Life);
        }
        let mut random = [0; 16];
        OsRng.try_fill_bytes(&mut random).map_err(|error| MintError::Failed(error.to_string()))?;
        let issued = seconds(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: Audience::One(AUDIENCE.to_owned()),
            sub: subject.to_string(),
            iat: issued,
            nbf: issued,
            exp: issued + ttl.as_secs(),
            jti: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            bound: subject.pod.clone().map(|name| Bound { pod: Named { name } }),
        };
        jsonwebtoken::encode(&self.header(), &claims, &self.signing)
            .map_err(|error| MintError::Failed(error.to_string()))
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Proven, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| malformed())?;
        if header != self.header() {
            return Err(Refusal::new(
                Reason::TokenSignature,
                "the token was not signed by this control plane: make one with `sidegate token` and its --ca-dir",
            ));
        }
        // Times and audience are checked below, by the clock that was given and without exceptions.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checking, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => {
                    Refusal::new(Reason::TokenSignature, "the token's signature does not fit it")
                }
                _ => malformed(),
            })?
            .claims;
        self.judge(claims, now)
    }

    fn judge(&self, claims: Claims, now: SystemTime) -> Result<Proven, Refusal> {
        if claims.iss != ISSUER {
            return Err(malformed());
        }
        if !claims.aud.is_ours_alone() {
            return Err(wrong_audience());
        }
        let now = seconds(now);
        let leeway = LEEWAY.as_secs();
        if now >= claims.exp.saturating_add(leeway) {
            return Err(expired());
        }
        if claims.nbf > now + leeway || claims.iat > now + leeway {
            return Err(Refusal::new(
                Reason::TokenTooEarly,
                "the token is not valid yet: compare the clocks of the two machines",
            ));
        }
        // Nobody gets a token that lives longer by another way than the command.
        if claims.exp.saturating_sub(claims.iat) > LONGEST_TTL.as_secs() {
            return Err(malformed());
        }
        let subject = Subject::parse(&claims.sub, claims.bound.map(|bound| bound.pod.name))?;
        Ok(Proven { subject, expires: UNIX_EPOCH + Duration::from_secs(claims.exp) })
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The refusal of what is no token.
pub(super) fn malformed() -> Refusal {
    Refusal::new(
        Reason::TokenMalformed,
        "what the authorization header carries is not a token: give the whole text of the token file",
    )
}

/// The refusal of a token for somebody else.
pub(super) fn wrong_audience() -> Refusal {
    Refusal::new(
        Reason::TokenAudience,
        format!("the token is not for this control plane alone: ask for one with the audience {AUDIENCE:?}"),
    )
}

/// The refusal of a token that is over.
pub(super) fn expired() -> Refusal {
    Refusal::new(
        Reason::TokenExpired,
        "the token has expired: give a fresh one (`sidegate token`, or a projected token that Kubernetes renews)",
    )
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// Too long or too short a life.
    #[error("a token lives at least 1 second and at most {} hours", LONGEST_TTL.as_secs() / 3600)]
    Life,
    /// The library or the system.
    #[error("the token cannot be signed: {0}")]
    Failed(String),
}

#[cfg(test)]
mod tests;
