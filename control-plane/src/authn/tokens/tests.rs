//! Every token that is not exactly what `mint` makes is refused, for the right reason.

use std::os::unix::fs::PermissionsExt as _;

use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn web() -> Subject {
    Subject { namespace: "shop".to_owned(), account: "web".to_owned(), pod: None }
}

fn key() -> (tempfile::TempDir, TokenKey) {
    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::open(folder.path()).unwrap();
    (folder, key)
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "system:serviceaccount:shop:web", "iat": NOW, "nbf": NOW, "exp": NOW + 600,
        "jti": "1",
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

fn sign(key: &TokenKey, header: &Header, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, &key.signing).unwrap()
}

fn reason(key: &TokenKey, token: &str) -> Reason {
    let refusal = key.verify(token, at(NOW)).unwrap_err();
    assert!(!refusal.text.contains(token), "a refusal must not repeat the token");
    refusal.reason
}

#[test]
fn what_is_minted_is_believed_until_it_ends() {
    let (folder, key) = key();
    let token = key.mint(&web(), Duration::from_secs(600), at(NOW)).unwrap();
    let proven = key.verify(&token, at(NOW + 1)).unwrap();
    assert_eq!((proven.subject, proven.expires), (web(), at(NOW + 600)));
    assert!(key.verify(&token, at(NOW + 600 + LEEWAY.as_secs() - 1)).is_ok());
    let over = key.verify(&token, at(NOW + 600 + LEEWAY.as_secs())).unwrap_err();
    assert_eq!(over.reason, Reason::TokenExpired);
    assert!(key.verify(&token, at(NOW - LEEWAY.as_secs())).is_ok());
    let early = key.verify(&token, at(NOW - LEEWAY.as_secs() - 1)).unwrap_err();
    assert_eq!(early.reason, Reason::TokenTooEarly);
    let bound = Subject { pod: Some("web-1".to_owned()), ..web() };
    let token = key.mint(&bound, Duration::from_secs(1), at(NOW)).unwrap();
    assert_eq!(key.verify(&token, at(NOW)).unwrap().subject, bound);
    assert_ne!(
        token,
        key.mint(&bound, Duration::from_secs(1), at(NOW)).unwrap(),
        "each has an id of its own"
    );
    // The next process has the same key.
    assert!(TokenKey::open(folder.path()).unwrap().verify(&token, at(NOW)).is_ok());
}

#[test]
fn a_token_is_short_lived() {
    let (_folder, key) = key();
    assert!(key.mint(&web(), LONGEST_TTL, at(NOW)).is_ok());
    for ttl in [Duration::ZERO, LONGEST_TTL + Duration::from_secs(1)] {
        assert!(matches!(key.mint(&web(), ttl, at(NOW)), Err(MintError::Life)));
    }
    // Nor does a longer one count that somebody else made with the key.
    let long = sign(&key, &key.header(), &with("exp", json!(NOW + LONGEST_TTL.as_secs() + 1)));
    assert_eq!(reason(&key, &long), Reason::TokenMalformed);
}

#[test]
fn g5_claims_of_another_token_are_refused() {
    let (_folder, key) = key();
    assert!(key.verify(&sign(&key, &key.header(), &claims()), at(NOW)).is_ok());
    assert!(key.verify(&sign(&key, &key.header(), &with("aud", json!([AUDIENCE]))), at(NOW)).is_ok());
    for (field, value, expected) in [
        ("aud", json!("istio-ca"), Reason::TokenAudience),
        ("aud", json!([AUDIENCE, "vault"]), Reason::TokenAudience),
        ("aud", json!([]), Reason::TokenAudience),
        ("aud", json!("SIDEGATE"), Reason::TokenAudience),
        ("aud", Value::Null, Reason::TokenMalformed),
        ("iss", json!("kubernetes"), Reason::TokenMalformed),
        ("exp", json!(NOW - LEEWAY.as_secs()), Reason::TokenExpired),
        ("exp", json!("never"), Reason::TokenMalformed),
        ("exp", Value::Null, Reason::TokenMalformed),
        ("nbf", json!(NOW + 60), Reason::TokenTooEarly),
        ("iat", json!(NOW + 60), Reason::TokenTooEarly),
        ("sub", json!("admin"), Reason::TokenSubject),
        ("sub", json!("system:serviceaccount:shop/x:web"), Reason::TokenSubject),
        ("sub", Value::Null, Reason::TokenMalformed),
        ("jti", Value::Null, Reason::TokenMalformed),
    ] {
        let token = sign(&key, &key.header(), &with(field, value.clone()));
        assert_eq!(reason(&key, &token), expected, "{field}: {value}");
    }
}

#[test]
fn g5_signatures_of_others_are_refused() {
    let (_folder, key) = key();
    let (_other_folder, other) = self::key();
    let good = sign(&key, &key.header(), &claims());
    // Another authority's key, under its own id and under ours.
    assert_eq!(reason(&key, &sign(&other, &other.header(), &claims())), Reason::TokenSignature);
    assert_eq!(reason(&key, &sign(&other, &key.header(), &claims())), Reason::TokenSignature);
    // HMAC under what everybody may know: the public key in its forms.
    let public = Jwk::from_encoding_key(&key.signing, Algorithm::ES256).unwrap();
    let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
    for secret in [serde_json::to_vec(&public).unwrap(), key.checking.try_get_as_bytes().unwrap().to_vec()] {
        let hmac =
            jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret).unwrap()).unwrap();
        assert_eq!(reason(&key, &hmac), Reason::TokenSignature);
    }
    // No algorithm at all: {"alg":"none","typ":"JWT"}, with our signature and without any.
    let payload = good.split('.').nth(1).unwrap();
    let signature = good.split('.').nth(2).unwrap();
    for none in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOb25lIn0"] {
        assert_eq!(reason(&key, &format!("{none}.{payload}.")), Reason::TokenMalformed);
        assert_eq!(reason(&key, &format!("{none}.{payload}.{signature}")), Reason::TokenMalformed);
    }
    // The claims of one token under the signature of another.
    let other_claims = sign(&other, &key.header(), &with("sub", json!("system:serviceaccount:shop:db")));
    let swapped: Vec<&str> = other_claims.split('.').take(2).chain([signature]).collect();
    assert_eq!(reason(&key, &swapped.join(".")), Reason::TokenSignature);
    let cut = &good[..good.len() - 2];
    assert!(matches!(reason(&key, cut), Reason::TokenSignature | Reason::TokenMalformed));
}

#[test]
fn g5_a_header_that_wants_more_is_refused() {
    let (_folder, key) = key();
    let (_other_folder, other) = self::key();
    let ours = key.header();
    let its_own_key = Jwk::from_encoding_key(&other.signing, Algorithm::ES256).unwrap();
    for header in [
        Header { kid: None, ..ours.clone() },
        Header { kid: Some("../../etc/passwd".to_owned()), ..ours.clone() },
        Header { typ: None, ..ours.clone() },
        Header { typ: Some("at+jwt".to_owned()), ..ours.clone() },
        Header { jku: Some("https://evil.example/keys".to_owned()), ..ours.clone() },
        Header { x5u: Some("https://evil.example/keys".to_owned()), ..ours.clone() },
        Header { cty: Some("JWT".to_owned()), ..ours.clone() },
    ] {
        assert_eq!(reason(&key, &sign(&key, &header, &claims())), Reason::TokenSignature, "{header:?}");
    }
    let header = Header { jwk: Some(its_own_key), ..ours.clone() };
    assert_eq!(reason(&key, &sign(&other, &header, &claims())), Reason::TokenSignature);
    let header = Header { crit: Some(vec!["exp".to_owned()]), ..ours };
    assert!(matches!(
        reason(&key, &sign(&key, &header, &claims())),
        Reason::TokenSignature | Reason::TokenMalformed
    ));
}

#[test]
fn a_key_that_others_could_read_is_not_used() {
    let (folder, _key) = key();
    let path = folder.path().join("token-key.pem");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = TokenKey::open(folder.path()).unwrap_err();
    assert!(matches!(error, KeyError::Open { mode: 0o640, .. }), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(
        &path,
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem(),
    )
    .unwrap();
    assert!(matches!(TokenKey::open(folder.path()).unwrap_err(), KeyError::Form { .. }));
    std::fs::write(&path, "not a key").unwrap();
    let error = TokenKey::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("token-key.pem") && error.contains("remove it"), "{error}");
}

#[test]
fn a_new_folder_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("ca");
    TokenKey::open(&inner).unwrap();
    assert_eq!(std::fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn a_key_is_shown_by_its_thumbprint_alone() {
    let (folder, key) = key();
    assert_eq!(format!("{key:?}"), format!("TokenKey {{ id: {:?}, .. }}", key.id));
    assert_eq!(TokenKey::open(folder.path()).unwrap().id, key.id, "the same key, the same name");
}
