//! Requests that must carry tokens: verified by keys that are fetched from real servers, good and bad ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sidegate_tests::client::Protocol;
use sidegate_tests::fountain::Fountain;
use sidegate_tests::gateway::{Gateway, Proxy, router, typed, yaml};
use sidegate_tests::message::{Call, Response};
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::tokens::{Issuer, usual};
use sidegate_tests::wait;

fn jwt(provider: &str) -> Value {
    let mut fields = yaml("{issuer: 'https://issuer.test', audiences: [shop]}");
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, yaml(provider)) {
        fields.extend(more);
    }
    typed(
        "envoy.filters.http.jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": {"p": fields},
            "rules": [
                {"match": {"path": "/open"}},
                {"match": {"prefix": "/"}, "requires": {"provider_name": "p"}},
            ],
        }),
    )
}

fn remote(path: &str, more: &str) -> String {
    format!(
        "{{remote_jwks: {{http_uri: {{uri: 'http://keys.test{path}', cluster: keys, timeout: 0.5s}}, {more}}}}}"
    )
}

fn gateway(app: &Origin, keys: SocketAddr, filter: &Value) -> Gateway {
    let filters = json!({"http_filters": [filter, router()]});
    Gateway::to(&[app.address()]).cluster("keys", &[keys]).http(&filters.to_string()).with_admin()
}

fn with(token: &str) -> Call {
    Call::get("/").header("authorization", &format!("Bearer {token}"))
}

/// What the operator learns of a refusal, and the client does not.
async fn why(proxy: &Proxy, response: &Response) -> String {
    let (reason, id) = response.reason().expect("a reason");
    assert_eq!(reason, "unauthenticated");
    assert_eq!(response.text(), "sidegate: unauthenticated\n");
    // It is remembered when the answer has been sent to its end: who asks at once may be earlier.
    wait::until("the story is known", async || {
        let page = proxy.admin(&format!("/why/{id}")).await;
        (page.status == 200).then(|| page.text())
    })
    .await
}

#[tokio::test]
async fn tokens_are_verified_by_fetched_keys() {
    let (sandbox, issuer) = (Sandbox::new(), Issuer::new("k1"));
    let app = Origin::named("app").await;
    let jwks = issuer.jwks();
    let keys = Origin::http1(move |_| Answer::text(&jwks)).await;
    let mut provider = yaml(&remote("/jwks?v=1", "cache_duration: 300s"));
    provider["forward_payload_header"] = json!("x-payload");
    provider["claim_to_headers"] = json!([{"header_name": "x-user", "claim_name": "sub"}]);
    let proxy =
        gateway(&app, keys.address(), &jwt(&provider.to_string())).two_workers().start(&sandbox).await;
    let token = issuer.token();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = proxy.call_over(protocol, &with(&token).header("x-user", "root")).await;
        assert_eq!(response.status, 200, "{response:?}");
        let seen = app.last();
        assert_eq!((seen.header("x-user"), seen.header("authorization")), (Some("ada"), None));
        assert_eq!(seen.header("x-payload"), token.split('.').nth(1));
        // Nothing is required there, and nothing may be claimed either.
        let open = Call::get("/open").header("x-user", "root");
        assert_eq!(proxy.call_over(protocol, &open).await.status, 200);
        assert_eq!(app.last().header("x-user"), None);
    }
    let before = app.count();
    let mut other = usual();
    other["aud"] = json!("bank");
    let mut old = usual();
    old["exp"] = json!(1);
    for (call, status, words) in [
        (Call::get("/"), 401, "Jwt is missing"),
        (with("x"), 401, "not in the form"),
        (with(&issuer.sign(&old)), 401, "Jwt is expired"),
        (with(&Issuer::new("k1").token()), 401, "Jwt verification fails"),
        (with(&Issuer::new("k2").token()), 401, "doesn't have key"),
        (with(&issuer.sign(&other)), 403, "Audiences in Jwt are not allowed"),
    ] {
        let response = proxy.call(&call).await;
        assert_eq!(response.status, status, "{words}: {response:?}");
        let told = why(&proxy, &response).await;
        assert!(told.contains(words) && !told.contains("eyJ"), "{told}");
    }
    let challenge = proxy.call(&with("x")).await;
    let challenge = challenge.header("www-authenticate").unwrap_or_default().to_owned();
    assert_eq!(challenge, "Bearer realm=\"http://app.test/\", error=\"invalid_token\"");
    assert_eq!(app.count(), before);
    assert_eq!((keys.count(), keys.last().target.as_str()), (1, "/jwks?v=1"), "one fetch for all workers");
    assert_eq!(proxy.stat("http.main.jwt_authn.allowed").await, 4);
    assert!(proxy.stat("http.main.jwt_authn.denied").await >= 7);
    assert_eq!(proxy.stat("http.main.jwt_authn.jwt_cache_hit").await, 1);
    assert_eq!(proxy.stat("http.main.jwt_authn.jwks_fetch_success").await, 1);
}

#[tokio::test]
async fn i6_two_tokens_must_both_be_good() {
    let (sandbox, issuer, stranger) = (Sandbox::new(), Issuer::new("k"), Issuer::new("k"));
    let app = Origin::named("app").await;
    let local = json!({"local_jwks": {"inline_string": issuer.jwks()}}).to_string();
    let proxy = gateway(&app, address(), &jwt(&local)).start(&sandbox).await;
    let (good, bad) = (issuer.token(), stranger.token());
    for (query, field, status) in
        [(&good, &good, 200), (&good, &bad, 401), (&bad, &good, 401), (&bad, &bad, 401)]
    {
        let target = format!("/?access_token={query}&x=1");
        let call = Call::get(&target).header("authorization", &format!("Bearer {field}"));
        assert_eq!(proxy.call(&call).await.status, status);
    }
    assert_eq!((app.count(), app.last().target.as_str()), (1, "/?x=1"), "the token is taken out");
}

#[tokio::test]
async fn i6_whom_policies_judge_is_whom_the_application_sees() {
    let (sandbox, issuer, stranger) = (Sandbox::new(), Issuer::new("k"), Issuer::new("k"));
    let app = Origin::named("app").await;
    let provider = |name: &str, place: &str| {
        json!({"issuer": name, "forward": true, "payload_in_metadata": "payload",
            "local_jwks": {"inline_string": issuer.jwks()}, "from_headers": [{"name": place}],
            "claim_to_headers": [{"header_name": "x-user", "claim_name": "sub"}]})
    };
    let filter = |requires: Value| {
        let config = json!({"providers": {"a": provider("a", "x-a"), "b": provider("b", "x-b")},
            "rules": [{"match": {"prefix": "/"}, "requires": requires}]});
        let kind = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
        typed("envoy.filters.http.jwt_authn", kind, config)
    };
    let claim = json!({"metadata": {"filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "payload"}, {"key": "sub"}], "value": {"string_match": {"exact": "blocked"}}}});
    let deny = typed(
        "envoy.filters.http.rbac",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "DENY", "policies": {"p": {"permissions": [{"any": true}], "principals": [claim]}}}}),
    );
    let token = |who: &Issuer, iss: &str, sub: &str| {
        who.sign(&json!({"iss": iss, "sub": sub, "exp": sidegate_tests::tokens::now() + 300}))
    };
    let (blocked, other) = (token(&issuer, "a", "blocked"), token(&issuer, "b", "other"));
    let (fine, forged) = (token(&issuer, "a", "fine"), token(&stranger, "b", "other"));
    let both = json!([{"provider_name": "a"}, {"provider_name": "b"}]);
    for (requires, any) in [
        (json!({"requires_any": {"requirements": both}}), true),
        (json!({"requires_all": {"requirements": both}}), false),
    ] {
        let filters = json!({"http_filters": [filter(requires), deny, router()]});
        let proxy = Gateway::to(&[app.address()]).http(&filters.to_string()).start(&sandbox).await;
        let status = async |fields: &[(&str, &str)]| {
            let call = fields.iter().fold(Call::get("/"), |call, (name, value)| call.header(name, value));
            proxy.call(&call).await.status
        };
        assert_eq!(status(&[("x-a", &blocked)]).await, if any { 403 } else { 401 });
        assert_eq!(status(&[("x-a", &fine)]).await, if any { 200 } else { 401 });
        for fields in [
            [("x-a", &blocked), ("x-b", &other)],
            [("x-a", &fine), ("x-b", &other)],
            [("x-a", &fine), ("x-b", &forged)],
            [("x-a", &fine), ("x-a", &blocked)],
        ] {
            let fields = fields.map(|(name, value)| (name, value.as_str()));
            assert_eq!(status(&fields).await, 401, "{fields:?}");
        }
    }
    assert_eq!((app.count(), app.last().header("x-user")), (1, Some("fine")));
}

/// One request whose keys cannot be had: refused, in time, with these words for the operator.
async fn refused_in_time(keys: SocketAddr, path: &str, words: &str) {
    let (sandbox, issuer) = (Sandbox::new(), Issuer::new("k"));
    let app = Origin::named("app").await;
    let proxy = gateway(&app, keys, &jwt(&remote(path, ""))).start(&sandbox).await;
    let begun = tokio::time::Instant::now();
    let response = proxy.call(&with(&issuer.token())).await;
    assert_eq!(response.status, 401, "{response:?}");
    assert!(begun.elapsed() < wait::DEADLINE, "{:?}", begun.elapsed());
    let told = why(&proxy, &response).await;
    assert!(told.contains("Jwks remote fetch is failed"), "{told}");
    wait::until("the log says why", async || proxy.process.log().contains(words).then_some(())).await;
    assert_eq!(app.count(), 0);
    // What needs no keys is served all the while.
    assert_eq!(proxy.get("/open").await.status, 200);
}

#[tokio::test]
async fn i6_keys_that_nobody_serves() {
    refused_in_time(address(), "/jwks", "connect_failure").await;
}

#[tokio::test]
async fn i6_keys_that_do_not_come() {
    let never = Gate::new();
    let held = never.clone();
    let slow = Origin::http1(move |_| Answer::text("{}").after(&held)).await;
    refused_in_time(slow.address(), "/jwks", "did not answer within").await;
}

#[tokio::test]
async fn g8_keys_that_never_end() {
    let fountain = Fountain::start(0).await;
    refused_in_time(fountain.address(), "/endless", "longer than 262144 bytes").await;
}

#[tokio::test]
async fn g8_keys_that_are_elsewhere() {
    let issuer = Issuer::new("k");
    let jwks = issuer.jwks();
    let elsewhere = Origin::http1(move |_| Answer::text(&jwks)).await;
    let location = format!("http://{}/jwks", elsewhere.address());
    let redirecting = Origin::http1(move |_| Answer::status(302).header("location", &location)).await;
    refused_in_time(redirecting.address(), "/jwks", "redirects are not followed").await;
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn i6_the_last_good_keys_are_used_while_new_ones_cannot_be_had() {
    let (sandbox, issuer) = (Sandbox::new(), Issuer::new("k"));
    let app = Origin::named("app").await;
    let (jwks, times) = (issuer.jwks(), Arc::new(AtomicUsize::new(0)));
    let keys = Origin::http1(move |_| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::text(&jwks),
        1 => Answer::status(500),
        2 => Answer::text("{\"keys\": []}"),
        _ => Answer::nothing(),
    })
    .await;
    let filter = jwt(&remote("/", "cache_duration: 0.2s, async_fetch: {failed_refetch_duration: 0.1s}"));
    let proxy = gateway(&app, keys.address(), &filter).start(&sandbox).await;
    // Fetched ahead, without a request.
    wait::until("a first fetch", async || (keys.count() > 0).then_some(())).await;
    wait::until("fetches that fail", async || (keys.count() > 3).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(proxy.call(&with(&issuer.token())).await.status, 200);
    }
    assert!(proxy.stat("http.main.jwt_authn.jwks_fetch_failed").await >= 3);
    assert!(proxy.process.log().contains("the last ones are used on"));
}

#[tokio::test]
async fn keys_change_hands() {
    let (sandbox, old, new) = (Sandbox::new(), Issuer::new("old"), Issuer::new("new"));
    let app = Origin::named("app").await;
    let (old_keys, new_keys, changed) = (old.jwks(), new.jwks(), Arc::new(AtomicUsize::new(0)));
    let seen = changed.clone();
    let keys = Origin::http1(move |_| {
        Answer::text(if seen.load(Ordering::Relaxed) == 0 { &old_keys } else { &new_keys })
    })
    .await;
    let proxy =
        gateway(&app, keys.address(), &jwt(&remote("/", "cache_duration: 0.3s"))).start(&sandbox).await;
    assert_eq!(proxy.call(&with(&old.token())).await.status, 200);
    assert_eq!(proxy.call(&with(&new.token())).await.status, 401);
    changed.store(1, Ordering::Relaxed);
    wait::until("the new key", async || (proxy.call(&with(&new.token())).await.status == 200).then_some(()))
        .await;
    // A token that was verified by a key that is gone is verified again, and fails.
    assert_eq!(proxy.call(&with(&old.token())).await.status, 401);
}

#[tokio::test]
async fn claims_decide_further() {
    let (sandbox, issuer) = (Sandbox::new(), Issuer::new("k"));
    let (app, admin) = (Origin::named("app").await, Origin::named("admin").await);
    let mut provider = json!({"local_jwks": {"inline_string": issuer.jwks()}});
    provider["payload_in_metadata"] = json!("payload");
    provider["normalize_payload_in_metadata"] = json!({"space_delimited_claims": ["scope"]});
    provider["claim_to_headers"] = json!([{"header_name": "x-role", "claim_name": "role"}]);
    provider["clear_route_cache"] = json!(true);
    let claim = |name: &str, value: Value| {
        json!({"metadata": {"filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "payload"}, {"key": name}], "value": value}})
    };
    let readers = claim("scope", yaml("{list_match: {one_of: {string_match: {exact: read}}}}"));
    let rbac = typed(
        "envoy.filters.http.rbac",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "ALLOW", "policies": {"readers": {
            "permissions": [{"any": true}], "principals": [readers],
        }}}}),
    );
    let filters = json!({"http_filters": [jwt(&provider.to_string()), rbac, router()]});
    let proxy = Gateway::new()
        .cluster("app", &[app.address()])
        .cluster("admin", &[admin.address()])
        .routes(
            "[{match: {prefix: /, headers: [{name: x-role, string_match: {exact: admin}}]}, route: {cluster: admin}},
              {match: {prefix: /}, route: {cluster: app}}]",
        )
        .http(&filters.to_string())
        .start(&sandbox)
        .await;
    let token = |scope: &str, role: &str| {
        let mut claims = usual();
        claims["scope"] = json!(scope);
        claims["role"] = json!(role);
        issuer.sign(&claims)
    };
    let answer = async |token: &str| {
        // Whoever says of himself that he is one is not.
        let response = proxy.call(&with(token).header("x-role", "admin")).await;
        (response.status, response.text())
    };
    assert_eq!(answer(&token("write read", "user")).await, (200, "app".to_owned()));
    assert_eq!(answer(&token("read", "admin")).await, (200, "admin".to_owned()));
    assert_eq!(answer(&token("reader", "admin")).await.0, 403);
}
