//! What policies mean, as the proxy judges what is made of them.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::access::AuthorizationPolicy;

/// The shop, with one more policy that denies.
fn denying(rule: &Value) -> View {
    let policy = json!({"metadata": {"name": "more", "namespace": "shop"}, "spec": {"action": "DENY", "rules": [rule]}});
    let policy: AuthorizationPolicy = serde_json::from_value(policy).unwrap();
    let mut view = View::clone(&shop());
    view.authorization_policies.insert(Name::new("shop", "more"), Arc::new(policy));
    view
}

fn is_denied(view: &View, more: Question) -> bool {
    let question = Question {
        from: Some("spiffe://cluster.local/ns/shop/sa/shop".to_owned()),
        to: "shop/web".to_owned(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        ..more
    };
    let answers = answer(view, Some(&trust()), &question, &|| false).unwrap();
    assert!(answers[0].allowed || answers[0].because.contains("shop/more"), "{answers:?}");
    !answers[0].allowed
}

fn claiming(claims: Value) -> Question {
    let Value::Object(claims) = claims else { panic!("no object") };
    Question { claims: Some(claims), ..Question::default() }
}

#[tokio::test]
async fn request_principals_are_one_text_wherever_the_slash_is() {
    for (value, claims, denied) in [
        ("https://a.ex*", json!({"iss": "https://a.example", "sub": "x"}), true),
        ("https://a.ex*", json!({"iss": "https://b.example", "sub": "x"}), false),
        ("iss/org/me", json!({"iss": "iss", "sub": "org/me"}), true),
        ("https://i/x/me", json!({"iss": "https://i/x", "sub": "me"}), true),
        ("https://i/x/me", json!({"iss": "https://i/x", "sub": "you"}), false),
        ("https://i/*", json!({"iss": "https://i"}), true),
        ("https://i/*", json!({"iss": "https://i/x", "sub": "a"}), true),
        ("https://i/a*", json!({"iss": "https://i", "sub": "ab"}), true),
        ("https://i/a*", json!({"iss": "https://i", "sub": "b"}), false),
        ("*/bob", json!({"iss": "https://i/x", "sub": "bob"}), true),
        ("*/bob", json!({"iss": "i", "sub": "al/bob"}), true),
        ("*/bob", json!({"iss": "i", "sub": "abob"}), false),
        ("*bob", json!({"iss": "i", "sub": "abob"}), true),
        ("*x/bob", json!({"iss": "https://i/x", "sub": "bob"}), true),
        ("*x/bob", json!({"iss": "https://i/y", "sub": "bob"}), false),
        ("i/", json!({"iss": "i"}), true),
        ("*", json!({"iss": "i"}), true),
    ] {
        let view = denying(&json!({"from": [{"source": {"requestPrincipals": [value]}}]}));
        assert_eq!(is_denied(&view, claiming(claims.clone())), denied, "{value} {claims}");
        assert!(!is_denied(&view, Question::default()), "{value}: without a token");
    }
}

#[tokio::test]
async fn a_star_is_whatever_is_there() {
    let view = denying(&json!({"when": [{"key": "request.auth.claims[debug]", "values": ["*"]}]}));
    for (claims, denied) in [
        (json!({"debug": "x"}), true),
        (json!({"debug": ""}), true),
        (json!({"debug": "a\nb"}), true),
        (json!({"debug": false}), true),
        (json!({"debug": []}), true),
        (json!({"other": "x"}), false),
    ] {
        assert_eq!(is_denied(&view, claiming(claims.clone())), denied, "{claims}");
    }
    let view = denying(&json!({"when": [{"key": "request.headers[x-debug]", "values": ["*"]}]}));
    for (value, denied) in [(Some(""), true), (Some("1"), true), (None, false)] {
        let headers = value.map(|value| ("x-debug".to_owned(), Value::from(value))).into_iter().collect();
        assert_eq!(is_denied(&view, Question { headers, ..Question::default() }), denied, "{value:?}");
    }
    for field in ["hosts", "methods", "paths"] {
        assert!(is_denied(&denying(&json!({"to": [{"operation": {field: ["*"]}}]})), Question::default()));
    }
}

#[tokio::test]
async fn hosts_are_meant_with_and_without_a_port() {
    let here = denying(&json!({"to": [{"operation": {"hosts": ["Api.example"]}}]}));
    let elsewhere = denying(&json!({"to": [{"operation": {"notHosts": ["Api.example"]}}]}));
    for (host, is_it) in [
        ("api.example", true),
        ("API.example:8080", true),
        ("api.example.", true),
        ("api.example.:80", true),
        ("xapi.example", false),
        ("api.example.org", false),
    ] {
        let asked = || Question { host: Some(host.to_owned()), ..Question::default() };
        assert_eq!((is_denied(&here, asked()), is_denied(&elsewhere, asked())), (is_it, !is_it), "{host}");
    }
}

#[tokio::test]
async fn more_than_a_proxy_takes_denies_everything_and_does_not_refuse_the_listener() {
    let hosts = |wild: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("{wild}.h{number}.example")).collect()
    };
    // By name there may be as many as there are; by their ends a thousand.
    let many = denying(&json!({"to": [{"operation": {"hosts": hosts("a", 4_000)}}]}));
    assert!(!is_denied(&many, Question::default()));
    let enough = denying(&json!({"to": [{"operation": {"hosts": hosts("*", 1_024)}}]}));
    assert!(!is_denied(&enough, Question::default()));
    let too_many = denying(&json!({"to": [{"operation": {"hosts": hosts("*", 1_025)}}]}));
    assert!(is_denied(&too_many, Question::default()));
    for template in ["/\u{fc}/{*}", "/a b/{*}", "/x\"/{**}", &format!("/{}/{{*}}", "x".repeat(256))] {
        let view = denying(&json!({"to": [{"operation": {"paths": [template]}}]}));
        assert!(is_denied(&view, Question::default()), "{template}");
    }
}
