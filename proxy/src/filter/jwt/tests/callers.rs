//! One request, one caller: tokens that say different things.

use super::*;

/// The words of a refusal, which must be 401.
fn say(jwt: &Arc<Jwt>, path: &str, fields: &[(&'static str, &str)]) -> Option<String> {
    refusal(jwt, &mut request(path, fields)).map(|(status, text)| {
        assert_eq!(status, 401, "{text}");
        text
    })
}

#[tokio::test]
async fn i6_tokens_at_one_providers_places_must_agree() {
    let issuer = Issuer::new();
    let mut other = claims();
    other["sub"] = json!("eve");
    let (token, others) = (issuer.token(&claims()), issuer.token(&other));
    let (field, others_field) = (bearer(&token), bearer(&others));
    // Another token at one provider's places; the same one twice is one.
    let single = || filter(provider(Keys::Local(issuer.keys())), Requirement::Provider(0));
    assert!(
        say(&single(), &format!("/?access_token={others}"), &[("authorization", &field)])
            .unwrap()
            .contains("different")
    );
    assert!(say(&single(), "/", &[("authorization", &field), ("authorization", &others_field)]).is_some());
    assert_eq!(say(&single(), &format!("/?access_token={token}"), &[("authorization", &field)]), None);
}

#[tokio::test]
async fn i6_tokens_whose_word_stands_in_one_place_must_agree() {
    use Requirement as R;
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let header = || ClaimHeader { name: HeaderName::from_static("x-sub"), path: vec!["sub".into()] };
    let second = || Provider {
        name: "second".into(),
        issuer: Some("second".into()),
        locations: Locations { headers: vec![("x-token".into(), "".into())], ..Locations::usual() },
        audiences: Vec::new(),
        ..provider(Keys::Local(issuer.keys()))
    };
    let jwt = |requirement, [first, other]: [Forwarding; 2]| {
        let own = Provider { forwarding: first, ..provider(Keys::Local(issuer.keys())) };
        let mut jwt = Arc::into_inner(filter(own, requirement)).unwrap();
        jwt.providers.push(Provider { forwarding: other, ..second() });
        Arc::new(jwt)
    };
    let both = || vec![R::Provider(0), R::Provider(1)];
    let silent = || [Forwarding::default(), Forwarding::default()];
    let noted = || [(); 2].map(|()| Forwarding { metadata: Some("payload".into()), ..Forwarding::default() });
    let headed = || [(); 2].map(|()| Forwarding { claims: vec![header()], ..Forwarding::default() });
    let token = issuer.token(&claims());
    let field = bearer(&token);
    let (good, forged) = (issuer.token(&json!({"iss": "second"})), stranger.token(&json!({"iss": "second"})));
    // Two issuers whose word stands in one place, however they are required.
    let fields = [("authorization", field.as_str()), ("x-token", good.as_str())];
    for requirement in [R::All(both()), R::Any(both()), R::AllowMissing, R::AllowMissingOrFailed] {
        let words = format!("{requirement:?}");
        let clash = say(&jwt(requirement, noted()), "/", &fields).unwrap_or_default();
        assert!(clash.contains("different"), "{words}: {clash}");
    }
    assert!(say(&jwt(R::All(both()), headed()), "/", &fields).is_some());
    assert_eq!(say(&jwt(R::All(both()), silent()), "/", &fields), None);
    assert_eq!(say(&jwt(R::Any(both()), silent()), "/", &fields), None);
    // One of several is required: whatever stands where the others' tokens are must be good as well.
    for requirement in
        [R::Any(both()), R::Any(vec![R::Provider(0), R::ProviderFor(1, vec![]), R::AllowMissing])]
    {
        let jwt = jwt(requirement, noted());
        assert!(
            say(&jwt, "/", &[("authorization", &field), ("x-token", &forged)]).unwrap().contains("fails")
        );
        assert!(say(&jwt, "/", &[("authorization", &field), ("x-token", "opaque")]).is_some());
        assert_eq!(say(&jwt, "/", &[("authorization", &field), ("x-token", &token)]), None, "the same token");
        assert_eq!(say(&jwt, "/", &[("authorization", &field)]), None);
        assert_eq!(say(&jwt, "/", &[("x-token", &good)]), None);
    }
    assert_eq!(say(&jwt(R::AllowMissing, noted()), "/", &[("x-token", &good)]), None);
}
