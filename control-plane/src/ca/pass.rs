//! The proof that a command on the admin port comes from somebody who may read the authority's folder.
//!
//! The admin port is on the loopback, where every user of the machine is; what moves trust needs more than being there.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, read_text};
use super::error::CaError;
use super::pem;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    exp: u64,
    nbf: u64,
}

/// The secret that both ends know.
#[derive(Clone)]
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// The folder's secret, made on first use.
    pub(super) fn keep(directory: &Directory) -> Result<Self, CaError> {
        if let Some(text) = directory.read(NAME)? {
            return Self::parse(&text, &directory.file(NAME));
        }
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| CaError::Refused("the system gives no random numbers".to_owned()))?;
        let text = pem::hex(&bytes);
        directory.write(NAME, &format!("{text}\n"))?;
        Ok(Self(text))
    }

    fn parse(text: &str, path: &Path) -> Result<Self, CaError> {
        let text = text.trim();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(CaError::content(path, "it is not a secret of 64 hex digits: remove it, and a new one is made"))
    }

    /// Whether a bearer token was made with the secret, within the last minute.
    pub(super) fn accepts(&self, token: &str) -> bool {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["aud", "exp", "nbf"]);
        validation.validate_nbf = true;
        validation.leeway = 5;
        let Ok(key) = DecodingKey::from_secret(self.0.as_bytes()) else { return false };
        jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .is_ok_and(|data| data.claims.exp.saturating_sub(data.claims.nbf) <= LIFE)
    }
}

/// A bearer token for the admin port of the control plane that uses a folder.
///
/// # Errors
/// When the folder's secret cannot be read.
pub fn pass(directory: &Path) -> Result<String, CaError> {
    let path = directory.join(NAME);
    let secret = Secret::parse(&read_text(&path)?, &path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims { aud: AUDIENCE.to_owned(), exp: now + LIFE, nbf: now };
    EncodingKey::from_secret(secret.0.as_bytes())
        .and_then(|key| jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key))
        .map_err(|error| CaError::Refused(format!("cannot make a token: {error}")))
}

const NAME: &str = "admin.secret";
const AUDIENCE: &str = "sidegate-admin";

/// How long a token is good, in seconds.
const LIFE: u64 = 60;
