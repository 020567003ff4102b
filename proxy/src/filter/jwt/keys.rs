//! A provider's public keys (JWKS, RFC 7517), and the tokens that they have verified lately.

use std::fmt;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::token::{Token, algorithm};

/// The keys of one JWKS, at one moment. A renewed set begins with no token remembered.
pub(crate) struct KeySet {
    keys: Vec<Key>,
    verified: Mutex<Verified>,
}

struct Key {
    id: Option<Box<str>>,
    /// What the key's own kind allows: a token cannot choose otherwise.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// Tokens whose signatures were good, in two generations: when the young one is full it becomes the old one.
#[derive(Default)]
struct Verified {
    young: FxHashMap<Digest, Arc<Token>>,
    old: FxHashMap<Digest, Arc<Token>>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWKS. Keys that are for something else, or of a kind that is not used here, are left out.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn read(text: &[u8]) -> Result<Self, String> {
        let set = Self::local(text)?;
        if set.keys.is_empty() {
            return Err("the JWKS has no key that can verify RS, PS, ES or EdDSA signatures".to_owned());
        }
        Ok(set)
    }

    /// As [`Self::read`], of a set that is configured and not fetched: it may be without keys, by which no token is valid. A
    /// control plane says so while it has not got them, and the rest of the listener must not be refused for that.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn local(text: &[u8]) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("the JWKS is longer than {LONGEST} bytes"));
        }
        let document: Document =
            serde_json::from_slice(text).map_err(|error| format!("the JWKS cannot be read: {error}"))?;
        if document.keys.len() > MOST_KEYS {
            return Err(format!("the JWKS has more than {MOST_KEYS} keys"));
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(key).collect();
        Ok(Self { keys, verified: Mutex::default() })
    }

    /// The token, if these keys have verified it lately.
    pub(super) fn remembered(&self, digest: &Digest) -> Option<Arc<Token>> {
        // Nobody waits for another worker: then the signature is looked at again.
        let mut verified = self.verified.try_lock().ok()?;
        if let Some(token) = verified.young.get(digest) {
            return Some(token.clone());
        }
        let token = verified.old.remove(digest)?;
        verified.keep(*digest, token.clone());
        Some(token)
    }

    /// Remembers a token that was verified.
    pub(super) fn remember(&self, digest: Digest, token: &Arc<Token>, length: usize) {
        if length > LONGEST_KEPT {
            return;
        }
        if let Ok(mut verified) = self.verified.try_lock() {
            verified.keep(digest, token.clone());
        }
    }

    /// Whether one of the keys that the token may mean has signed it.
    pub(super) fn verify(&self, token: &Token, text: &str) -> Result<(), Failure> {
        let Some((signed, signature)) = text.rsplit_once('.') else {
            return Err(Failure::Malformed("has not three parts"));
        };
        let named = |key: &&Key| match (&key.id, &token.key_id) {
            (Some(own), Some(wanted)) => own == wanted,
            _ => true,
        };
        let fits = |key: &&Key| key.algorithms.contains(&token.algorithm);
        let mut candidates = self.keys.iter().filter(named).filter(fits).take(MOST_TRIES).peekable();
        if candidates.peek().is_none() {
            return Err(Failure::NoKey);
        }
        let good =
            |key: &Key| jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key.key, token.algorithm);
        if candidates.any(|key| good(key).unwrap_or(false)) { Ok(()) } else { Err(Failure::Signature) }
    }
}

impl Verified {
    fn keep(&mut self, digest: Digest, token: Arc<Token>) {
        if self.young.len() >= MOST_KEPT / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, token);
    }
}

/// What tokens are remembered by.
pub(super) fn digest_of(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

/// A key, if it is one that verifies signatures here.
fn key(member: Value) -> Option<Key> {
    let member: Member = serde_json::from_value(member).ok()?;
    if member.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if member.key_ops.as_ref().is_some_and(|uses| !uses.iter().any(|one| one == "verify")) {
        return None;
    }
    let (mut algorithms, key) = match (member.kty.as_str(), member.crv.as_deref()) {
        ("RSA", _) => {
            let key = DecodingKey::from_rsa_components(member.n.as_deref()?, member.e.as_deref()?);
            (RSA.to_vec(), key.ok()?)
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let key = DecodingKey::from_ec_components(member.x.as_deref()?, member.y.as_deref()?);
            let algorithm = if curve == "P-256" { Algorithm::ES256 } else { Algorithm::ES384 };
            (vec![algorithm], key.ok()?)
        }
        ("OKP", Some("Ed25519")) => {
            let key = DecodingKey::from_ed_components(member.x.as_deref()?);
            (vec![Algorithm::EdDSA], key.ok()?)
        }
        _ => return None,
    };
    if let Some(name) = &member.alg {
        let only = algorithm(name)?;
        algorithms.retain(|one| *one == only);
    }
    (!algorithms.is_empty()).then(|| Key { id: member.kid.map(Into::into), algorithms, key })
}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeySet({})", self.keys.len())
    }
}

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Bytes of a JWKS.
pub(crate) const LONGEST: usize = 256 * 1024;
const MOST_KEYS: usize = 100;
/// Keys that are tried for one token: each try costs a signature check, and strangers send tokens.
const MOST_TRIES: usize = 16;
/// Tokens that are remembered, and how long one may be.
const MOST_KEPT: usize = 512;
const LONGEST_KEPT: usize = 4 * 1024;

#[cfg(test)]
impl KeySet {
    /// How many tokens are remembered.
    pub(super) fn remembered_count(&self) -> usize {
        self.verified.lock().map(|verified| verified.young.len() + verified.old.len()).unwrap_or_default()
    }
}
