//! An issuer of tokens, and its keys as a JWKS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Who signs with ES256.
pub struct Issuer {
    key: EcdsaKeyPair,
    id: String,
}

impl Issuer {
    /// With a new key of this id.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn new(id: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
        Self { key: EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("the key"), id: id.to_owned() }
    }

    /// The public key.
    pub fn jwks(&self) -> String {
        let public = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&public[1..33]), URL_SAFE_NO_PAD.encode(&public[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": self.id, "x": x, "y": y}]}).to_string()
    }

    /// A token of these claims.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of `https://issuer.test` for `ada`, to be shown to `shop` within the next minutes.
    pub fn token(&self) -> String {
        self.sign(&usual())
    }
}

/// The claims of a usual token.
pub fn usual() -> Value {
    json!({"iss": "https://issuer.test", "sub": "ada", "aud": "shop", "exp": now() + 300})
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
