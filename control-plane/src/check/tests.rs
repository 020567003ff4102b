//! The shop's own policies, asked about.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::index::Index;
use crate::source::manifests::Manifests;

mod policies;

fn shop() -> std::sync::Arc<View> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let reading = Manifests::new(&folder).read_once().unwrap();
    Index::default().apply(reading.batch).unwrap()
}

fn trust() -> Trust {
    Trust {
        trust_domain: "cluster.local".to_owned(),
        bundles: BTreeMap::new(),
        revocation: Vec::new(),
        denied: Vec::new(),
    }
}

fn ask(from: Option<&str>, to: &str, method: &str) -> Vec<(bool, String)> {
    let question = Question {
        from: from.map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}")),
        to: to.to_owned(),
        method: method.to_owned(),
        path: "/".to_owned(),
        ..Question::default()
    };
    let answers = answer(&shop(), Some(&trust()), &question, &|| false).unwrap();
    answers.into_iter().map(|answer| (answer.allowed, answer.because)).collect()
}

#[tokio::test]
async fn each_app_is_called_by_one_other() {
    let allowed = |rule: &str| (true, format!("allowed by shop/{rule}/rule/0"));
    let denied = (false, "access_denied: no ALLOW policy matches it".to_owned());
    assert_eq!(ask(Some("shop"), "shop/web", "GET"), [allowed("web")]);
    assert_eq!(ask(Some("web"), "shop/catalog:80", "GET"), [allowed("catalog")]);
    assert_eq!(ask(Some("catalog"), "shop/reviews-v1", "GET"), vec![allowed("reviews"); 2]);
    assert_eq!(ask(Some("catalog"), "shop/reviews-v2", "POST"), std::slice::from_ref(&denied));
    assert_eq!(ask(Some("web"), "shop/reviews-v2", "GET"), std::slice::from_ref(&denied));
    assert_eq!(ask(Some("catalog"), "shop/web", "GET"), [denied]);
}

#[tokio::test]
async fn m7_an_answer_that_nobody_waits_for_is_not_made() {
    let question = Question { to: "shop/web".to_owned(), method: "GET".to_owned(), ..Question::default() };
    let refused = answer(&shop(), Some(&trust()), &question, &|| true).unwrap_err();
    assert!(refused.contains("nobody waits"), "{refused}");
}

#[tokio::test]
async fn a_caller_without_tls_is_not_heard() {
    let [(allowed, because)] = &ask(None, "shop/web", "GET")[..] else { panic!("one Pod") };
    assert!(!allowed && because.contains("STRICT"), "{because}");
}

#[tokio::test]
async fn a_question_that_leads_nowhere_is_answered_in_words() {
    let ask = |to: &str| {
        let question = Question {
            to: to.to_owned(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            ..Question::default()
        };
        answer(&shop(), Some(&trust()), &question, &|| false).unwrap_err()
    };
    assert_eq!(ask("shop/nobody"), "there is no Service shop/nobody");
    assert_eq!(ask("shop/reviews"), "no Pod stands behind Service shop/reviews: nobody would answer");
    assert_eq!(ask("shop/web:81"), "no Pod stands behind Service shop/web:81: nobody would answer");
    assert!(ask("web").contains("NAMESPACE/SERVICE"));
}

#[tokio::test]
async fn an_issuer_without_keys_is_no_reason_to_refuse_the_listener() {
    use crate::model::access::{JwtPolicy, JwtRule, JwtSpec};
    let rule =
        JwtRule { issuer: "i".to_owned(), jwks_uri: Some("https://i/keys".to_owned()), ..JwtRule::default() };
    let policy = JwtPolicy {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("t".to_owned()),
            namespace: Some("shop".to_owned()),
            ..Default::default()
        },
        spec: JwtSpec { target_refs: Vec::new(), selector: None, jwt_rules: vec![rule], required: false },
    };
    let mut view = View::clone(&shop());
    view.jwt_policies.insert(Name::new("shop", "t"), std::sync::Arc::new(policy));
    let question = Question {
        from: Some("spiffe://cluster.local/ns/shop/sa/shop".to_owned()),
        to: "shop/web".to_owned(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        ..Question::default()
    };
    let answers = answer(&view, Some(&trust()), &question, &|| false).unwrap();
    assert!(answers[0].allowed, "{answers:?}");
}
