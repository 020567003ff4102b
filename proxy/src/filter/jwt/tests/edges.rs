//! Bounds to the byte, every algorithm, and what must not be touched.

use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA512, RsaEncoding};

use super::*;
use crate::filter::jwt::keys::digest_of;
use crate::filter::jwt::token::Token;
use crate::message::Headers;

#[tokio::test]
async fn every_rsa_algorithm_is_known_by_its_name() {
    let issuer = Issuer::new();
    let jwt = usual(&issuer);
    let sign = |algorithm: &str, padding: &'static dyn RsaEncoding| {
        let header = json!({"alg": algorithm, "kid": "rsa"}).to_string();
        let signed = format!("{}.{}", b64(header), b64(claims().to_string()));
        let mut signature = vec![0; issuer.rsa.public_modulus_len()];
        issuer.rsa.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", b64(signature))
    };
    for (algorithm, padding) in [
        ("RS384", &RSA_PKCS1_SHA384 as &'static dyn RsaEncoding),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS512", &RSA_PSS_SHA512),
    ] {
        assert_eq!(verdict_on(&jwt, &sign(algorithm, padding)), None, "{algorithm}");
        // By another algorithm's signature it is not valid.
        let verdict = verdict_on(&jwt, &sign(algorithm, &RSA_PKCS1_SHA256));
        assert!(verdict.unwrap().contains("verification fails"), "{algorithm}");
    }
}

#[tokio::test]
async fn a_key_verifies_only_if_it_says_so() {
    let issuer = Issuer::new();
    let judge_by = |member: &str, value: Value| {
        let mut jwks = issuer.jwks();
        jwks["keys"][0][member] = value;
        let keys = Arc::new(KeySet::local(jwks.to_string().as_bytes()).unwrap());
        verdict_on(&filter(provider(Keys::Local(keys)), Requirement::Provider(0)), &issuer.token(&claims()))
    };
    assert_eq!(judge_by("key_ops", json!(["verify"])), None);
    assert_eq!(judge_by("key_ops", json!(["sign", "verify"])), None);
    assert!(judge_by("key_ops", json!(["sign", "encrypt"])).unwrap().contains("doesn't have key"));
    assert!(judge_by("key_ops", json!([])).unwrap().contains("doesn't have key"));
    assert_eq!(judge_by("alg", json!("ES256")), None);
    for alg in ["ES384", "RS256", "HS256", "none"] {
        assert!(judge_by("alg", json!(alg)).unwrap().contains("doesn't have key"), "{alg}");
    }
}

#[test]
fn a_key_set_may_be_as_long_as_the_bound_and_no_byte_longer() {
    let text = Issuer::new().jwks().to_string();
    let padded = |length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    assert!(KeySet::read(padded(crate::filter::jwt::keys::LONGEST).as_bytes()).is_ok());
    let error = KeySet::read(padded(crate::filter::jwt::keys::LONGEST + 1).as_bytes()).unwrap_err();
    assert!(error.contains("longer than"), "{error}");
    let many =
        |count: usize| KeySet::local(format!("{{\"keys\": [{}]}}", vec!["{}"; count].join(",")).as_bytes());
    assert!(many(100).is_ok());
    assert!(many(101).is_err());
}

#[test]
fn a_token_may_be_as_long_as_the_bound_and_no_byte_longer() {
    let text = Issuer::new().token(&claims());
    let longer = |length: usize| format!("{text}{}", "A".repeat(length - text.len()));
    assert!(Token::read(&longer(16 * 1024)).is_ok());
    assert!(Token::read(&longer(16 * 1024 + 1)).is_err());
}

#[test]
fn as_many_tokens_are_remembered_as_there_is_room_for_and_none_that_is_long() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let token = Arc::new(Token::read(&issuer.token(&claims())).unwrap());
    let digest = |number: usize| digest_of(&number.to_string());
    for number in 0..256 {
        keys.remember(digest(number), &token, 4 * 1024);
    }
    for number in 0..256 {
        assert!(keys.remembered(&digest(number)).is_some(), "{number}");
    }
    // One more, and the others are the old ones: what is used again stays, what is not goes.
    for number in 256..512 {
        keys.remember(digest(number), &token, 1);
        assert!(keys.remembered(&digest(0)).is_some(), "{number}");
    }
    keys.remember(digest(512), &token, 1);
    assert!(keys.remembered(&digest(0)).is_some());
    assert!(keys.remembered(&digest(1)).is_none());
    for length in [4 * 1024 + 1, 16 * 1024] {
        keys.remember(digest_of("long"), &token, length);
        assert!(keys.remembered(&digest_of("long")).is_none(), "{length}");
    }
}

#[tokio::test]
async fn a_realm_that_is_long_or_needs_escapes_is_the_host_alone() {
    let jwt = usual(&Issuer::new());
    let realm_of = |path: &str| {
        let (verdict, _) = judge(&jwt, None, &mut request(path, &[]), &mut Attributes::default());
        let Verdict::Reply(reply) = verdict else { panic!("{verdict:?}") };
        reply.headers.first().map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap()
    };
    let path = |length: usize| format!("/{}", "a".repeat(length - "http://shop.test/".len()));
    assert_eq!(realm_of(&path(256)), format!("Bearer realm=\"http://shop.test{}\"", path(256)));
    for long in [257, 258, 1000] {
        assert_eq!(realm_of(&path(long)), "Bearer realm=\"http://shop.test\"", "{long}");
    }
}

#[tokio::test]
async fn a_payload_is_padded_to_whole_groups_of_four() {
    let issuer = Issuer::new();
    let forwarded = |pad: bool, subject: &str| {
        let forwarding = Forwarding {
            payload_header: Some(HeaderName::from_static("x-payload")),
            pad,
            ..Forwarding::default()
        };
        let provider = Provider { forwarding, ..provider(Keys::Local(issuer.keys())) };
        let mut all = claims();
        all["sub"] = json!(subject);
        let token = issuer.token(&all);
        let mut head = request("/", &[("authorization", &bearer(&token))]);
        assert_eq!(refusal(&filter(provider, Requirement::Provider(0)), &mut head), None);
        let value = head.headers.get("x-payload").map(|value| String::from_utf8(value.to_vec()).unwrap());
        (value.unwrap(), token.split('.').nth(1).unwrap().to_owned())
    };
    for subject in ["a", "ab", "abc"] {
        let (padded, payload) = forwarded(true, subject);
        assert_eq!(padded.len() % 4, 0, "{padded}");
        assert!(padded.len() - payload.len() < 3, "{padded}");
        assert_eq!(padded.trim_end_matches('='), payload);
        let (plain, payload) = forwarded(false, subject);
        assert_eq!(plain, payload);
    }
}

#[tokio::test]
async fn a_claim_may_be_as_long_as_a_header_and_no_byte_longer() {
    let issuer = Issuer::new();
    let length_of = |length: usize| {
        let claims_too =
            vec![ClaimHeader { name: HeaderName::from_static("x-sub"), path: vec!["sub".into()] }];
        let forwarding = Forwarding { claims: claims_too, ..Forwarding::default() };
        let provider = Provider { forwarding, ..provider(Keys::Local(issuer.keys())) };
        let mut all = claims();
        all["sub"] = json!("a".repeat(length));
        let mut head = request("/", &[("authorization", &bearer(&issuer.token(&all)))]);
        assert_eq!(refusal(&filter(provider, Requirement::Provider(0)), &mut head), None);
        head.headers.get("x-sub").map(<[u8]>::len)
    };
    assert_eq!(length_of(8 * 1024), Some(8 * 1024));
    assert_eq!(length_of(8 * 1024 + 1), None);
}

#[tokio::test]
async fn only_what_holds_a_token_is_taken_out() {
    let issuer = Issuer::new();
    let token = issuer.token(&claims());
    let mut head = request(
        "/",
        &[
            ("authorization", &bearer(&token)),
            ("authorization", "Basic YTpi"),
            ("x-other", "Bearer of news"),
            ("accept", "*/*"),
        ],
    );
    assert_eq!(refusal(&usual(&issuer), &mut head), None);
    let values = |headers: &Headers, name: &str| -> Vec<Vec<u8>> {
        headers.get_all(name).map(<[u8]>::to_vec).collect()
    };
    assert_eq!(values(&head.headers, "authorization"), [b"Basic YTpi"]);
    assert_eq!(values(&head.headers, "x-other"), [b"Bearer of news"]);
    assert_eq!(values(&head.headers, "accept"), [b"*/*"]);
}

#[tokio::test]
async fn of_several_requirements_the_failure_that_says_most_is_told() {
    use Requirement as R;
    let issuer = Issuer::new();
    let say = |requirement: Requirement, fields: &[(&'static str, &str)]| {
        let second = Provider {
            name: "second".into(),
            issuer: Some("second".into()),
            locations: Locations { headers: vec![("x-token".into(), "".into())], ..Locations::usual() },
            ..provider(Keys::Local(issuer.keys()))
        };
        let mut jwt = Arc::into_inner(filter(provider(Keys::Local(issuer.keys())), requirement)).unwrap();
        jwt.providers.push(second);
        refusal(&Arc::new(jwt), &mut request("/", fields)).map(|(_, text)| text)
    };
    let stranger = issuer.token(&json!({"iss": "stranger"}));
    let expired = issuer.token(&json!({"iss": "second", "aud": "shop", "exp": 1}));
    // That a token is there and nobody's says more than that another is missing.
    let any = || R::Any(vec![R::Provider(0), R::Provider(1)]);
    assert!(say(any(), &[("x-token", &stranger)]).unwrap().contains("not configured"));
    assert!(say(any(), &[("x-token", &expired)]).unwrap().contains("expired"));
    // Of nothing, nothing holds.
    assert!(say(R::Any(Vec::new()), &[]).unwrap().contains("missing"));
    // Nothing but leave to have none, or a bad one.
    assert_eq!(say(R::Any(vec![R::AllowMissing]), &[]), None);
    assert!(say(R::Any(vec![R::AllowMissing]), &[("x-token", &expired)]).unwrap().contains("expired"));
    assert_eq!(say(R::Any(vec![R::AllowMissingOrFailed]), &[]), None);
    assert_eq!(say(R::Any(vec![R::AllowMissingOrFailed]), &[("x-token", &expired)]), None);
}

#[tokio::test]
async fn as_many_tokens_may_stand_beside_the_good_one_as_are_looked_at() {
    use Requirement as R;
    let issuer = Issuer::new();
    let second = Provider {
        name: "second".into(),
        locations: Locations { headers: vec![("x-token".into(), "".into())], ..Locations::usual() },
        ..provider(Keys::Local(issuer.keys()))
    };
    let any = R::Any(vec![R::Provider(0), R::Provider(1)]);
    let mut jwt = Arc::into_inner(filter(provider(Keys::Local(issuer.keys())), any)).unwrap();
    jwt.providers.push(second);
    let jwt = Arc::new(jwt);
    let all = claims();
    // No two signatures are alike, so that all are different tokens that say the same.
    let field = bearer(&issuer.token(&all));
    let others: Vec<String> = (0..9).map(|_| issuer.token(&all)).collect();
    let say = |count: usize| {
        let mut fields = vec![("authorization", field.as_str())];
        fields.extend(others.iter().take(count).map(|token| ("x-token", token.as_str())));
        refusal(&jwt, &mut request("/", &fields)).map(|(_, text)| text)
    };
    assert_eq!(say(8), None);
    assert!(say(9).unwrap().contains("one of too many"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_says_for_whose_keys() {
    let remote = remote();
    let jwt = filter(provider(Keys::Remote(remote.clone())), Requirement::Provider(0));
    let token = bearer(&Issuer::new().token(&claims()));
    let (verdict, _) =
        judge(&jwt, None, &mut request("/", &[("authorization", &token)]), &mut Attributes::default());
    let Verdict::Ask(question) = verdict else { panic!("{verdict:?}") };
    let Question::Keys(waiting) = *question else { panic!("another question") };
    assert!(waiting.remote().is_some_and(|waited| Arc::ptr_eq(waited, &remote)));
}
