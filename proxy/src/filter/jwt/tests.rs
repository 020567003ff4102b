use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::filter::fixture::{in_context, request};
use crate::filter::{Answer, Attributes, Kind, resume};
use crate::message::Scheme;

mod callers;
mod edges;

/// Keys of every kind, and their JWKS.
struct Issuer {
    ec: EcdsaKeyPair,
    ec384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: &'static RsaKeyPair,
}

/// One for all issuers: to make one takes longer than all else that these tests do.
static RSA_KEY: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap());

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ec = |algorithm| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap()
        };
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            ec: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            ec384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            rsa: &RSA_KEY,
        }
    }

    fn jwks(&self) -> Value {
        let point = |pair: &EcdsaKeyPair, length: usize| {
            let public = pair.public_key().as_ref().to_vec();
            (b64(&public[1..=length]), b64(&public[1 + length..]))
        };
        let ((x, y), (x384, y384)) = (point(&self.ec, 32), point(&self.ec384, 48));
        let rsa = self.rsa.public_key();
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": x, "y": y, "use": "sig"},
            {"kty": "EC", "crv": "P-384", "kid": "ec384", "x": x384, "y": y384},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(self.ed.public_key())},
            {"kty": "RSA", "kid": "rsa", "n": b64(rsa.modulus().big_endian_without_leading_zero()),
             "e": b64(rsa.exponent().big_endian_without_leading_zero())},
            {"kty": "oct", "kid": "secret", "k": b64("a secret that everybody knows by now!")},
            {"kty": "unheard-of", "kid": "new"},
        ]})
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::new(KeySet::read(self.jwks().to_string().as_bytes()).unwrap())
    }

    fn sign_as(&self, signer: &str, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims));
        let (random, message) = (SystemRandom::new(), signed.as_bytes());
        let rsa = |padding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        let signature = match signer {
            "ES256" => self.ec.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.ec384.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            _ => Vec::new(),
        };
        format!("{signed}.{}", b64(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign_as("ES256", &json!({"alg": "ES256", "kid": "ec"}), &claims.to_string())
    }
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://issuer.test", "sub": "ada", "aud": "shop", "exp": now() + 300})
}

fn provider(keys: Keys) -> Provider {
    Provider {
        name: "p".into(),
        issuer: Some("https://issuer.test".into()),
        audiences: vec!["shop".into()],
        subjects: None,
        lifetime: Lifetime { skew: Duration::from_secs(60), ..Lifetime::default() },
        locations: Locations::usual(),
        keys,
        forwarding: Forwarding::default(),
    }
}

fn filter(provider: Provider, requirement: Requirement) -> Arc<Jwt> {
    let matches = Predicate::new(|head: &RequestHead| head.path.path() != "/open");
    Arc::new(Jwt {
        own_headers: vec!["x-payload".into(), "x-sub".into()],
        providers: vec![provider],
        rules: vec![Rule { matches, requires: Some(requirement) }],
        named: vec![("none".into(), Requirement::AllowMissingOrFailed)],
        bypass_preflight: true,
        strip_failure: false,
    })
}

/// What the filter says of a request, and the status and words of a refusal.
fn judge(
    jwt: &Arc<Jwt>,
    route: Option<&JwtRoute>,
    head: &mut RequestHead,
    attributes: &mut Attributes,
) -> (Verdict, Option<(u16, String)>) {
    let verdict = in_context(head, attributes, |context| jwt.on_request(route, context));
    let refusal = match &verdict {
        Verdict::Reply(reply) => Some((reply.status.as_u16(), reply.detail.clone().unwrap_or_default())),
        _ => None,
    };
    (verdict, refusal)
}

/// `None` is let go on; else the status and the words.
fn refusal(jwt: &Arc<Jwt>, head: &mut RequestHead) -> Option<(u16, String)> {
    judge(jwt, None, head, &mut Attributes::default()).1
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn verdict_on(jwt: &Arc<Jwt>, token: &str) -> Option<String> {
    refusal(jwt, &mut request("/", &[("authorization", &bearer(token))])).map(|(_, text)| text)
}

fn usual(issuer: &Issuer) -> Arc<Jwt> {
    filter(provider(Keys::Local(issuer.keys())), Requirement::Provider(0))
}

#[tokio::test]
async fn every_algorithm_by_its_own_kind_of_key() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    for (algorithm, kid) in
        [("ES256", "ec"), ("ES384", "ec384"), ("EdDSA", "ed"), ("RS256", "rsa"), ("PS384", "rsa")]
    {
        let text = claims().to_string();
        let token = issuer.sign_as(algorithm, &json!({"alg": algorithm, "kid": kid}), &text);
        assert_eq!(verdict_on(&jwt, &token), None, "{algorithm}");
        let without_kid = issuer.sign_as(algorithm, &json!({"alg": algorithm}), &text);
        assert_eq!(verdict_on(&jwt, &without_kid), None, "{algorithm} without kid");
        // The same signature under another payload.
        let (head, signature) = (token.split('.').next().unwrap(), token.rsplit('.').next().unwrap());
        let forged = format!("{head}.{}.{signature}", b64(claims().to_string().replace("ada", "eve")));
        assert!(verdict_on(&jwt, &forged).unwrap().contains("verification fails"), "{algorithm}");
    }
}

#[tokio::test]
async fn i6_the_algorithm_is_the_keys_not_the_tokens() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let text = claims().to_string();
    // The RSA key's own public form as an HMAC secret, the classic; and no signature at all.
    let rsa = issuer.rsa.public_key().as_ref().to_vec();
    let modulus = issuer.jwks()["keys"][3]["n"].as_str().unwrap().as_bytes().to_vec();
    for secret in [rsa, modulus, b"a secret that everybody knows by now!".to_vec()] {
        for (algorithm, kid) in [("HS256", "rsa"), ("HS256", "secret"), ("hs256", "rsa")] {
            let signed = format!("{}.{}", b64(json!({"alg": algorithm, "kid": kid}).to_string()), b64(&text));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
            let verdict = verdict_on(&jwt, &format!("{signed}.{}", b64(tag)));
            assert!(verdict.unwrap().contains("[alg] is not supported"));
        }
    }
    for algorithm in ["none", "None", "NONE", "nOnE", "", "ES512", "RS1"] {
        let token = issuer.sign_as("", &json!({"alg": algorithm}), &text);
        assert!(verdict_on(&jwt, &token).unwrap().contains("[alg] is not supported"), "{algorithm}");
    }
    // Another kind's key, another curve's, and a signature that is not there.
    for (signer, algorithm, kid, wanted) in [
        ("ES256", "RS256", "ec", "doesn't have key"),
        ("RS256", "ES256", "rsa", "doesn't have key"),
        ("ES256", "ES384", "ec", "doesn't have key"),
        ("RS256", "PS256", "rsa", "verification fails"),
        ("", "ES256", "ec", "verification fails"),
        ("EdDSA", "ES256", "ec", "verification fails"),
    ] {
        let token = issuer.sign_as(signer, &json!({"alg": algorithm, "kid": kid}), &text);
        let verdict = verdict_on(&jwt, &token).unwrap();
        assert!(verdict.contains(wanted), "{signer} as {algorithm} by {kid}: {verdict}");
    }
}

#[tokio::test]
async fn i6_key_ids_are_names_and_nothing_else() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let text = claims().to_string();
    for kid in
        ["../../../../dev/null", "/etc/passwd", "' or 1=1 --", "http://evil.test/jwks", "", "EC", "ec\u{0}"]
    {
        let token = issuer.sign_as("ES256", &json!({"alg": "ES256", "kid": kid}), &text);
        assert!(verdict_on(&jwt, &token).unwrap().contains("doesn't have key"), "{kid}");
    }
    // A key that the token brings itself is not looked at.
    let evil = Issuer::new();
    let key = evil.jwks()["keys"][0].clone();
    for header in [
        json!({"alg": "ES256", "kid": "ec", "jwk": key}),
        json!({"alg": "ES256", "kid": "ec", "jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/"}),
    ] {
        let token = evil.sign_as("ES256", &header, &text);
        assert!(verdict_on(&jwt, &token).unwrap().contains("verification fails"));
    }
    let token = issuer.sign_as("ES256", &json!({"alg": "ES256", "kid": "ec", "crit": ["exp"]}), &text);
    assert!(verdict_on(&jwt, &token).unwrap().contains("extensions"));
    let token = issuer.sign_as("ES256", &json!({"alg": "ES256", "kid": {"a": 1}}), &text);
    assert!(verdict_on(&jwt, &token).unwrap().contains("header that cannot be read"));
}

#[tokio::test]
async fn i6_malformed_huge_and_deep_tokens() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let header = json!({"alg": "ES256", "kid": "ec"});
    let deep = |depth: usize| format!("{{\"iss\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    // As much depth as fits, and more than fits: 100,000 is longer than any token.
    for depth in [200, 5_000, 100_000] {
        let token = issuer.sign_as("ES256", &header, &deep(depth));
        assert!(verdict_on(&jwt, &token).is_some(), "{depth}");
    }
    let deep_header = format!("{}.{}.AA", b64(deep(5_000)), b64("{}"));
    assert!(verdict_on(&jwt, &deep_header).unwrap().contains("header that cannot be read"));
    let huge = issuer.token(&json!({"iss": "https://issuer.test", "x": "a".repeat(20_000)}));
    assert!(verdict_on(&jwt, &huge).unwrap().contains("longer than 16 KiB"));
    let good = issuer.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    for (token, wanted) in [
        (String::new(), "three parts"),
        ("a.b".to_owned(), "three parts"),
        (format!("{good}.x"), "three parts"),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), "base64url"),
        (format!("{}.{}+.{}", parts[0], parts[1], parts[2]), "base64url"),
        (format!("{}.{}.{}", b64("{}"), parts[1], parts[2]), "header that cannot be read"),
        (format!("{}.{}.{}", b64("[]"), parts[1], parts[2]), "header that cannot be read"),
        (format!("{}.{}.{}", parts[0], b64("[1]"), parts[2]), "claims that cannot be read"),
        (format!("{}.{}.{}", parts[0], b64("\u{0}"), parts[2]), "claims that cannot be read"),
        (format!("{}.{}.{}", parts[0], parts[1], ""), "verification fails"),
        (format!("{good}, Bearer {good}"), "three parts"),
    ] {
        let verdict = verdict_on(&jwt, &token).unwrap_or_else(|| panic!("let through: {token}"));
        assert!(verdict.contains(wanted), "{token}: {verdict}");
    }
}

#[tokio::test]
async fn i6_time_with_its_skew() {
    let issuer = Issuer::new();
    let check = |lifetime: Lifetime, change: Value| {
        let mut all = claims();
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                value => all[name] = value.clone(),
            }
        }
        let provider = Provider { lifetime, ..provider(Keys::Local(issuer.keys())) };
        verdict_on(&filter(provider, Requirement::Provider(0)), &issuer.token(&all))
    };
    let usual = Lifetime { skew: Duration::from_secs(60), ..Lifetime::default() };
    for (change, wanted) in [
        (json!({"exp": now() - 50}), None),
        (json!({"exp": now() - 70}), Some("expired")),
        (json!({"exp": 0}), Some("expired")),
        (json!({"exp": now() as f64 + 0.5}), None),
        (json!({"exp": null}), None),
        (json!({"exp": -1}), Some("no time")),
        (json!({"exp": "2099"}), Some("no time")),
        (json!({"exp": true}), Some("no time")),
        (json!({"exp": 1e300}), None),
        (json!({"nbf": now() + 50}), None),
        (json!({"nbf": now() + 70}), Some("not yet valid")),
        (json!({"nbf": "now"}), Some("no time")),
    ] {
        let verdict = check(usual, change.clone());
        match wanted {
            None => assert_eq!(verdict, None, "{change}"),
            Some(wanted) => {
                assert!(verdict.clone().is_some_and(|text| text.contains(wanted)), "{change}: {verdict:?}")
            }
        }
    }
    let required = Lifetime { required: true, ..usual };
    assert!(check(required, json!({"exp": null})).unwrap().contains("no expiration"));
    let short = Lifetime { longest: Some(Duration::from_secs(600)), ..usual };
    assert_eq!(check(short, json!({})), None);
    assert!(check(short, json!({"exp": null})).unwrap().contains("no expiration"));
    assert!(check(short, json!({"exp": now() + 700})).unwrap().contains("too far away"));
}

#[tokio::test]
async fn issuers_audiences_and_subjects() {
    let issuer = Issuer::new();
    let with = |claims: &Value| {
        let subjects = Some(Predicate::new(|text: &[u8]| text == b"ada"));
        let provider = Provider {
            subjects,
            audiences: vec!["https://shop.test/".into(), "other".into()],
            ..provider(Keys::Local(issuer.keys()))
        };
        let jwt = filter(provider, Requirement::Provider(0));
        refusal(&jwt, &mut request("/", &[("authorization", &bearer(&issuer.token(claims)))]))
    };
    let claims = |change: (&str, Value)| {
        let mut all = claims();
        all["aud"] = json!("shop.test");
        all[change.0] = change.1;
        with(&all)
    };
    for (audience, good) in [
        (json!("shop.test"), true),
        (json!("http://shop.test"), true),
        (json!("https://shop.test/"), true),
        (json!(["nobody", "other"]), true),
        (json!("shop.test/x"), false),
        (json!("shop.tes"), false),
        (json!([]), false),
        (json!(["nobody"]), false),
    ] {
        let verdict = claims(("aud", audience.clone()));
        assert_eq!(verdict.is_none(), good, "{audience}: {verdict:?}");
        if let Some((status, text)) = verdict {
            assert_eq!((status, text.as_str()), (403, "Audiences in Jwt are not allowed (provider p)"));
        }
    }
    assert_eq!(claims(("aud", json!(5))).unwrap().0, 401);
    assert_eq!(claims(("aud", json!(["other", 5]))).unwrap().0, 401);
    assert!(claims(("iss", json!("https://issuer.test/"))).unwrap().1.contains("issuer is not configured"));
    assert!(claims(("iss", json!(["https://issuer.test"]))).unwrap().1.contains("no text"));
    assert!(claims(("sub", json!("eve"))).unwrap().1.contains("subject is not allowed"));
}

#[tokio::test]
async fn i6_every_token_must_be_good() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let (good, other) = (issuer.token(&claims()), issuer.token(&claims()));
    let bad = Issuer::new().token(&claims());
    let (good_field, bad_field, other_field) = (bearer(&good), bearer(&bad), bearer(&other));
    for (path, fields, wanted) in [
        ("/".to_owned(), vec![], Some("missing")),
        ("/".to_owned(), vec![("authorization", "Basic YTpi")], Some("missing")),
        ("/".to_owned(), vec![("authorization", "Bearer")], Some("missing")),
        ("/".to_owned(), vec![("authorization", "Bearer ")], Some("three parts")),
        (format!("/?access_token={good}"), vec![], None),
        (format!("/?a=b&access%5Ftoken={good}&c"), vec![], None),
        ("/".to_owned(), vec![("authorization", good_field.as_str()), ("authorization", &other_field)], None),
        (
            "/".to_owned(),
            vec![("authorization", good_field.as_str()), ("authorization", &bad_field)],
            Some("fails"),
        ),
        (
            "/".to_owned(),
            vec![("authorization", bad_field.as_str()), ("authorization", &good_field)],
            Some("fails"),
        ),
        (format!("/?access_token={bad}"), vec![("authorization", good_field.as_str())], Some("fails")),
        (format!("/?access_token={good}&access_token={bad}"), vec![], Some("fails")),
        (format!("/?access_token={good}&acc%65ss_token={bad}"), vec![], Some("fails")),
        ("/?access_token=".to_owned(), vec![("authorization", good_field.as_str())], Some("three parts")),
    ] {
        let verdict = refusal(&jwt, &mut request(&path, &fields));
        match wanted {
            None => assert_eq!(verdict, None, "{path} {}", fields.len()),
            Some(wanted) => {
                assert!(
                    verdict.clone().is_some_and(|(_, text)| text.contains(wanted)),
                    "{path} {}: {verdict:?}",
                    fields.len()
                );
            }
        }
    }
    // The scheme's case is the application's to read as it likes: it must not get a token past us.
    assert_eq!(verdict_of_field(&jwt, &format!("bearer {good}")), None);
    assert!(verdict_of_field(&jwt, &format!("bEaReR {bad}")).unwrap().contains("fails"));
    let many: Vec<_> = (0..9).map(|_| ("authorization", good_field.as_str())).collect();
    assert!(refusal(&jwt, &mut request("/", &many)).unwrap().1.contains("too many"));
}

#[tokio::test]
async fn i6_white_space_is_no_way_around() {
    let issuer = Issuer::new();
    let jwt = filter(provider(Keys::Local(issuer.keys())), Requirement::AllowMissing);
    let bad = Issuer::new().token(&claims());
    for between in ["\t", " \t", "\t\t", "  "] {
        assert!(verdict_of_field(&jwt, &format!("Bearer{between}{bad}")).unwrap().contains("fails"));
        let token = issuer.token(&claims());
        let mut head = request("/", &[("authorization", &format!("bearer{between}{token}"))]);
        assert_eq!(refusal(&jwt, &mut head), None);
        assert!(!head.headers.contains("authorization"), "it is taken out");
    }
    assert_eq!(verdict_of_field(&jwt, "Bearerx y"), None, "another scheme");
}

fn verdict_of_field(jwt: &Arc<Jwt>, field: &str) -> Option<String> {
    refusal(jwt, &mut request("/", &[("authorization", field)])).map(|(_, text)| text)
}

#[tokio::test]
async fn what_passed_is_taken_out_and_told() {
    let issuer = Issuer::new();
    let claim = |name: &'static str, path: &[&str]| ClaimHeader {
        name: HeaderName::from_static(name),
        path: path.iter().map(|part| (*part).into()).collect(),
    };
    let forwarding = Forwarding {
        payload_header: Some(HeaderName::from_static("x-payload")),
        pad: true,
        claims: vec![
            claim("x-sub", &["sub"]),
            claim("x-level", &["org", "level"]),
            claim("x-list", &["list"]),
            claim("x-evil", &["evil"]),
            claim("x-none", &["sub", "deeper"]),
        ],
        metadata: Some("payload".into()),
        lists: vec!["scope".into()],
        ..Forwarding::default()
    };
    let locations = Locations { cookies: vec!["session".into()], ..Locations::usual() };
    let provider = Provider { forwarding, locations, ..provider(Keys::Local(issuer.keys())) };
    let jwt = filter(provider, Requirement::Provider(0));
    let mut all = claims();
    all["org"] = json!({"level": 7});
    all["list"] = json!(["a", 1]);
    all["evil"] = json!("x\r\nx-admin: true");
    all["scope"] = json!("read write");
    let token = issuer.token(&all);
    let cookie = format!("a=1; session={token}; b=2");
    let mut head = request(
        &format!("/x?a=1&access_token={token}&b=2"),
        &[
            ("authorization", &bearer(&token)),
            ("cookie", &cookie),
            ("x-sub", "root"),
            ("x-payload", "forged"),
        ],
    );
    let mut attributes = Attributes::default();
    let (verdict, _) = judge(&jwt, None, &mut head, &mut attributes);
    assert!(matches!(verdict, Verdict::Continue));
    assert_eq!(head.path.as_str(), "/x?a=1&b=2");
    let fields: HashMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned())
        })
        .collect();
    let payload = token.split('.').nth(1).unwrap();
    assert!(fields["x-payload"].starts_with(payload) && fields["x-payload"].len().is_multiple_of(4));
    assert_eq!(fields["x-sub"], "ada");
    assert_eq!(fields["x-level"], "7");
    assert_eq!(fields["x-list"], b64("[\"a\",1]"));
    assert_eq!(fields["cookie"], "a=1; b=2");
    assert_eq!(fields.len(), 5, "{fields:?}");
    let said = attributes.get("envoy.filters.http.jwt_authn").unwrap();
    assert_eq!(said["payload"]["scope"], json!(["read", "write"]));
    assert_eq!(said["payload"]["sub"], json!("ada"));
}

#[tokio::test]
async fn i6_clients_cannot_write_what_the_filter_writes() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    // Where nothing is required, and on a preflight, too.
    for method in [Method::GET, Method::OPTIONS] {
        let fields = [
            ("x-sub", "root"),
            ("x-payload", "forged"),
            ("origin", "https://a.test"),
            ("access-control-request-method", "GET"),
        ];
        let fields = [&fields[..], &[("X_Sub", "root"), ("x_payload", "forged")]].concat();
        let path = if method == Method::OPTIONS { "/closed" } else { "/open" };
        let mut head = request(path, &fields);
        head.method = method;
        assert_eq!(refusal(&jwt, &mut head), None);
        assert!(!head.headers.contains("x-sub") && !head.headers.contains("x-payload"));
        assert!(!head.headers.contains("x_sub") && !head.headers.contains("x_payload"));
    }
    let mut head = request("/closed", &[("origin", "https://a.test")]);
    head.method = Method::OPTIONS;
    assert!(refusal(&jwt, &mut head).is_some(), "no preflight");
    let mut head = request("/closed", &[("x-sub", "root")]);
    assert!(judge(&jwt, Some(&JwtRoute::Disabled), &mut head, &mut Attributes::default()).1.is_none());
    assert!(!head.headers.contains("x-sub"));
}

#[tokio::test]
async fn routes_may_name_a_requirement() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let by_route = |name: &str| {
        let route = JwtRoute::Named(name.into());
        judge(&jwt, Some(&route), &mut request("/", &[]), &mut Attributes::default()).1
    };
    assert_eq!(by_route("none"), None);
    assert_eq!(by_route("mistyped").unwrap().0, 403);
}

#[allow(clippy::too_many_lines, clippy::type_complexity, reason = "one table, read from top to bottom")]
#[tokio::test]
async fn requirements_are_combined() {
    use Requirement as R;
    let issuer = Issuer::new();
    let second = || Provider {
        name: "second".into(),
        issuer: Some("second".into()),
        locations: Locations { headers: vec![("x-token".into(), "".into())], ..Locations::usual() },
        audiences: Vec::new(),
        ..provider(Keys::Local(issuer.keys()))
    };
    let first_token = bearer(&issuer.token(&claims()));
    let second_token = issuer.token(&json!({"iss": "second"}));
    let strangers = issuer.token(&json!({"iss": "stranger"}));
    let expired = bearer(&issuer.token(&json!({"iss": "https://issuer.test", "aud": "shop", "exp": 1})));
    let strangers_field = bearer(&strangers);
    let both = || vec![R::Provider(0), R::Provider(1)];
    let cases: Vec<(Requirement, Vec<(&'static str, &str)>, Option<&str>)> = vec![
        (R::All(both()), vec![("authorization", &first_token), ("x-token", &second_token)], None),
        (R::All(both()), vec![("authorization", &first_token)], Some("missing")),
        (R::Any(both()), vec![("authorization", &first_token)], None),
        (R::Any(both()), vec![("x-token", &second_token)], None),
        (R::Any(both()), vec![], Some("missing")),
        (R::Any(both()), vec![("authorization", &expired)], Some("expired")),
        (R::Any(both()), vec![("authorization", &expired), ("x-token", &strangers)], Some("expired")),
        (R::Any(vec![R::Provider(0), R::AllowMissing]), vec![], None),
        (R::Any(vec![R::Provider(0), R::AllowMissing]), vec![("authorization", &expired)], Some("expired")),
        (
            R::Any(vec![R::Provider(0), R::AllowMissing]),
            vec![("authorization", &strangers_field)],
            Some("not configured"),
        ),
        (R::Any(vec![R::AllowMissingOrFailed, R::Provider(0)]), vec![("authorization", &expired)], None),
        (R::AllowMissing, vec![], None),
        (R::AllowMissing, vec![("x-token", &second_token)], None),
        (R::AllowMissing, vec![("x-token", &strangers)], Some("not configured")),
        (R::AllowMissing, vec![("authorization", &expired)], Some("expired")),
        (R::AllowMissingOrFailed, vec![("authorization", &expired), ("x-token", &strangers)], None),
        (R::ProviderFor(1, vec!["else".into()]), vec![("x-token", &second_token)], Some("Audiences")),
    ];
    for (number, (requirement, fields, wanted)) in cases.into_iter().enumerate() {
        let mut jwt = Arc::into_inner(filter(provider(Keys::Local(issuer.keys())), requirement)).unwrap();
        jwt.providers.push(second());
        let verdict = refusal(&Arc::new(jwt), &mut request("/", &fields));
        match wanted {
            None => assert_eq!(verdict, None, "{number}"),
            Some(wanted) => {
                assert!(
                    verdict.clone().is_some_and(|(_, text)| text.contains(wanted)),
                    "{number}: {verdict:?}"
                );
            }
        }
    }
    // A good token beside a bad one, where bad ones do no harm, is used.
    let mut jwt =
        Arc::into_inner(filter(provider(Keys::Local(issuer.keys())), R::AllowMissingOrFailed)).unwrap();
    jwt.providers[0].forwarding.metadata = Some("payload".into());
    jwt.providers.push(second());
    let mut attributes = Attributes::default();
    let mut head = request("/", &[("x-token", &strangers), ("authorization", &first_token)]);
    assert!(judge(&Arc::new(jwt), None, &mut head, &mut attributes).1.is_none());
    assert!(attributes.get(METADATA).is_some());
    assert!(head.headers.contains("x-token"), "what was not verified stays");
}

#[tokio::test]
async fn refusals_challenge_as_envoys_do() {
    let issuer = Issuer::new();
    let challenge_of = |jwt: &Arc<Jwt>, mut head: RequestHead| {
        let (verdict, _) = judge(jwt, None, &mut head, &mut Attributes::default());
        let Verdict::Reply(reply) = verdict else { panic!("{verdict:?}") };
        reply.headers.first().map(|(_, value)| value.to_str().unwrap().to_owned())
    };
    let jwt = usual(&issuer);
    assert_eq!(
        challenge_of(&jwt, request("/a?secret=1", &[])).as_deref(),
        Some("Bearer realm=\"http://shop.test/a\"")
    );
    assert_eq!(
        challenge_of(&jwt, request("/a", &[("authorization", "Bearer x")])).as_deref(),
        Some("Bearer realm=\"http://shop.test/a\", error=\"invalid_token\"")
    );
    let mut stripped = Arc::into_inner(jwt).unwrap();
    stripped.strip_failure = true;
    assert_eq!(challenge_of(&Arc::new(stripped), request("/a", &[])), None);
}

#[tokio::test]
async fn a_token_is_verified_once_per_set_of_keys() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let token = issuer.token(&claims());
    let events = |jwt: &Arc<Jwt>| {
        let mut attributes = Attributes::default();
        judge(jwt, None, &mut request("/", &[("authorization", &bearer(&token))]), &mut attributes);
        let events: Vec<_> = attributes.take_events().collect();
        events
    };
    assert_eq!(events(&jwt), [FilterEvent::JwtAllowed, FilterEvent::JwtCacheMiss]);
    assert_eq!(events(&jwt), [FilterEvent::JwtAllowed, FilterEvent::JwtCacheHit]);
    // Other keys have verified nothing yet.
    assert_eq!(events(&usual(&issuer)), [FilterEvent::JwtAllowed, FilterEvent::JwtCacheMiss]);
    // What is remembered is the signature, not the verdict: another provider with the same keys judges anew.
    let Keys::Local(keys) = &jwt.providers[0].keys else { panic!("not local") };
    let stricter = Provider { audiences: vec!["bank".into()], ..provider(Keys::Local(keys.clone())) };
    let stricter = filter(stricter, Requirement::Provider(0));
    assert!(verdict_on(&stricter, &token).unwrap().contains("Audiences"));
    // And what is remembered is bounded.
    for number in 0..600 {
        let mut all = claims();
        all["jti"] = json!(number);
        assert_eq!(verdict_on(&jwt, &issuer.token(&all)), None);
    }
    assert!(keys.remembered_count() <= 512, "{}", keys.remembered_count());
    assert_eq!(events(&jwt), [FilterEvent::JwtAllowed, FilterEvent::JwtCacheMiss], "the oldest made room");
}

#[test]
fn key_sets_are_bounded_and_say_what_is_wrong() {
    let wrong = |text: &str| KeySet::read(text.as_bytes()).unwrap_err();
    assert!(wrong("").contains("cannot be read"));
    assert!(wrong("[]").contains("cannot be read"));
    assert!(wrong("{\"keys\": []}").contains("no key"));
    assert!(wrong(&format!("{{\"keys\": [{}]}}", vec!["{}"; 101].join(","))).contains("more than 100"));
    assert!(wrong(&" ".repeat(300 * 1024)).contains("longer than"));
    assert!(wrong(&"[".repeat(100_000)).contains("cannot be read"));
    let mut jwks = Issuer::new().jwks();
    for key in jwks["keys"].as_array_mut().unwrap() {
        key["use"] = json!("enc");
    }
    assert!(wrong(&jwks.to_string()).contains("no key"), "keys for encryption verify nothing");
}

#[tokio::test]
async fn by_a_configured_set_without_keys_no_token_is_valid() {
    let keys = Arc::new(KeySet::local(b"{\"keys\": []}").unwrap());
    let jwt = filter(provider(Keys::Local(keys)), Requirement::Provider(0));
    assert!(verdict_on(&jwt, &Issuer::new().token(&claims())).is_some());
}

fn remote() -> Arc<Remote> {
    let place = Place {
        cluster: "jwks".into(),
        scheme: Scheme::Http,
        authority: "issuer.test".parse().unwrap(),
        path: "/jwks".parse().unwrap(),
    };
    Arc::new(Remote::new(place, Duration::from_secs(1), Duration::from_secs(600), Duration::from_secs(1)))
}

#[tokio::test(start_paused = true)]
async fn i6_keys_that_are_not_there_are_waited_for_once() {
    let issuer = Issuer::new();
    let remote = remote();
    let jwt = filter(provider(Keys::Remote(remote.clone())), Requirement::Provider(0));
    let token = bearer(&issuer.token(&claims()));
    let ask = |head: &mut RequestHead| match judge(&jwt, None, head, &mut Attributes::default()).0 {
        Verdict::Ask(question) => *question,
        other => panic!("{other:?}"),
    };
    let answer = |question, head: &mut RequestHead| {
        in_context(head, &mut Attributes::default(), |context| resume(question, Answer::Keys, context))
    };
    let mut head = request("/", &[("authorization", &token)]);
    let question = ask(&mut head);
    let fetching = remote.claim(Instant::now()).unwrap();
    assert!(remote.claim(Instant::now()).is_none(), "one fetch at a time");
    assert!(!fetching.failed(Instant::now(), 0), "there are no older keys");
    let Verdict::Reply(reply) = answer(question, &mut head) else { panic!("let through without keys") };
    assert_eq!(
        (reply.status.as_u16(), reply.detail.as_deref()),
        (401, Some("Jwks remote fetch is failed (provider p)"))
    );
    // A token that cannot be good does not even wait.
    assert!(refusal(&jwt, &mut request("/", &[("authorization", "Bearer x")])).is_some());
    let question = ask(&mut head);
    tokio::time::advance(Duration::from_secs(2)).await;
    let fetching = remote.claim(Instant::now()).unwrap();
    let waiting = remote.clone();
    let waits = tokio::spawn(async move { waiting.settled().await });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    fetching.succeeded(KeySet::read(issuer.jwks().to_string().as_bytes()).unwrap(), Instant::now(), 0);
    waits.await.unwrap();
    assert!(matches!(answer(question, &mut head), Verdict::Continue));
}

#[tokio::test(start_paused = true)]
async fn keys_are_renewed_ahead_kept_for_a_while_and_then_not() {
    let issuer = Issuer::new();
    let keys = || KeySet::read(issuer.jwks().to_string().as_bytes()).unwrap();
    let remote = remote();
    remote.claim(Instant::now()).unwrap().succeeded(keys(), Instant::now(), u32::MAX);
    assert!(remote.claim(Instant::now()).is_none());
    tokio::time::advance(Duration::from_secs(541)).await;
    assert!(remote.current(Instant::now()).is_some());
    // Before they expire; then the waits grow, and the last good ones are used on.
    let mut failures = 0;
    for _ in 0..120 {
        if let Some(fetching) = remote.claim(Instant::now()) {
            assert!(fetching.failed(Instant::now(), u32::MAX / 2));
            failures += 1;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!((6..=9).contains(&failures), "{failures}");
    tokio::time::advance(Duration::from_secs(6 * 3600)).await;
    assert!(remote.current(Instant::now()).is_none(), "stale keys do not live on for ever");
    // A fetch that its worker drops is one that failed, and leaves the place free.
    drop(remote.claim(Instant::now()).unwrap());
    tokio::time::advance(Duration::from_secs(60)).await;
    remote.claim(Instant::now()).unwrap().succeeded(keys(), Instant::now(), 0);
    // Unknown key ids bring the next fetch nearer, but not one after the other.
    remote.hasten(Instant::now());
    assert!(remote.claim(Instant::now()).is_none());
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(remote.claim(Instant::now()).is_some());
}

#[test]
fn a_chain_knows_the_filter() {
    let issuer = Issuer::new();
    let entry = crate::filter::Entry { name: "jwt".into(), kind: Kind::Jwt(usual(&issuer)) };
    let chain = vec![Arc::new(entry)];
    let run = |overrides: &crate::filter::Overrides| {
        in_context(&mut request("/", &[]), &mut Attributes::default(), |context| {
            crate::filter::on_request(&chain, overrides, &mut 0, context)
        })
    };
    assert!(matches!(run(&Vec::new()), Verdict::Reply(_)));
    assert!(matches!(run(&vec![("jwt".into(), None)]), Verdict::Continue));
    assert!(matches!(
        run(&vec![("jwt".into(), Some(Kind::JwtRoute(JwtRoute::Disabled)))]),
        Verdict::Continue
    ));
    // Another filter's configuration under its name does not switch it off.
    assert!(matches!(run(&vec![("jwt".into(), Some(Kind::Inert))]), Verdict::Reply(_)));
}
