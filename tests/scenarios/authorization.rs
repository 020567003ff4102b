//! Who may do what: Envoy's RBAC, HTTP and network, whoever says so.

use serde_json::{Value, json};
use sidegate_tests::client::{Http1, Protocol};
use sidegate_tests::gateway::{Gateway, Proxy, router, tcp_proxy, typed};
use sidegate_tests::message::Call;
use sidegate_tests::origin::Origin;
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

mod callers;
mod envoy;
mod headers;
mod paths;
mod pushed;
mod standing;

const HTTP: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const PER_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const NETWORK: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const NAME: &str = "envoy.filters.http.rbac";

/// The HTTP filter with these fields.
fn http_filter(fields: Value) -> Value {
    typed(NAME, HTTP, fields)
}

/// The network filter with these rules.
fn network_filter(rules: Value) -> Value {
    typed("envoy.filters.network.rbac", NETWORK, json!({"stat_prefix": "tcp.", "rules": rules}))
}

/// Rules of one policy of this name.
fn rules(action: &str, name: &str, permission: Value, principal: Value) -> Value {
    json!({"action": action, "policies": {name: {"permissions": [permission], "principals": [principal]}}})
}

/// `http_filters` with these before the router.
fn filters(list: &[Value]) -> String {
    let list: Vec<Value> = list.iter().cloned().chain([router()]).collect();
    json!({"http_filters": list}).to_string()
}

fn any() -> Value {
    json!({"any": true})
}

fn path_prefix(prefix: &str) -> Value {
    json!({"url_path": {"path": {"prefix": prefix}}})
}

fn header(name: &str, value: &str) -> Value {
    json!({"header": {"name": name, "string_match": {"exact": value}}})
}

/// An access log of these operators, one line for each request.
fn log(sandbox: &Sandbox, format: &str) -> Value {
    let file = sandbox.path().join("access.log");
    let config = json!({"path": file.display().to_string(),
        "log_format": {"text_format_source": {"inline_string": format!("{format}\n")}}});
    json!([typed("log", "envoy.extensions.access_loggers.file.v3.FileAccessLog", config)])
}

async fn logged(sandbox: &Sandbox, lines: usize) -> Vec<String> {
    let file = sandbox.path().join("access.log");
    wait::until("the log is written", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let found: Vec<String> = text.lines().map(str::to_owned).collect();
        (found.len() >= lines).then_some(found)
    })
    .await
}

/// It is remembered when the answer has been sent to its end: who asks at once may be earlier.
async fn why(proxy: &Proxy, id: &str) -> Value {
    wait::until("the story is known", async || {
        let page = proxy.admin(&format!("/why/{id}")).await;
        let story: Value = serde_json::from_slice(&page.body).ok()?;
        story["error"].is_null().then_some(story)
    })
    .await
}

#[tokio::test]
async fn a_denial_names_the_policy_in_the_log_and_in_why_and_never_to_the_caller() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let deny = rules("DENY", "shop/no-admin/rule/0", path_prefix("/admin"), any());
    let allow = rules("ALLOW", "shop/readers/rule/0", header(":method", "GET"), any());
    let list = [http_filter(json!({"rules": deny})), http_filter(json!({"rules": allow}))];
    let format = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %SIDEGATE_REASON%";
    let proxy = Gateway::to(&[origin.address()])
        .http(&filters(&list))
        .http(&json!({"access_log": log(&sandbox, format)}).to_string())
        .with_admin()
        .start(&sandbox)
        .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let allowed = proxy.call_over(protocol, &Call::get("/shop")).await;
        assert_eq!((allowed.status, allowed.text().as_str()), (200, "app"));
        for (call, policy) in
            [(Call::get("/admin/x"), "shop/no-admin/rule/0"), (Call::post("/shop", "x"), "none")]
        {
            let denied = proxy.call_over(protocol, &call).await;
            assert_eq!((denied.status, denied.text().as_str()), (403, "RBAC: access denied"), "{call:?}");
            let told = format!("{denied:?}");
            assert!(
                !told.contains("no-admin") && !told.contains("readers") && !told.contains("rbac"),
                "{told}"
            );
            let (reason, id) = denied.reason().expect("a reason");
            assert_eq!(reason, "access_denied");
            let story = why(&proxy, id).await;
            let detail = story["detail"].as_str().unwrap_or_default();
            assert!(detail.starts_with(&format!("rbac_access_denied_matched_policy[{policy}] (")), "{story}");
            assert!(detail.contains(NAME) && story["summary"].as_str().unwrap().contains(policy), "{story}");
        }
    }
    assert_eq!(origin.count(), 2, "what is denied is not sent");
    let lines = logged(&sandbox, 6).await;
    assert_eq!(lines[0], "200 via_upstream - -");
    assert_eq!(lines[1], "403 rbac_access_denied_matched_policy[shop/no-admin/rule/0] RBAC access_denied");
    assert_eq!(lines[2], "403 rbac_access_denied_matched_policy[none] RBAC access_denied");
    // Both filters count under one name: the first allows what the second denies.
    assert_eq!(proxy.stat("http.main.rbac.allowed").await, 6);
    assert_eq!(proxy.stat("http.main.rbac.denied").await, 4);
    let page = proxy.admin("/stats/prometheus").await.text();
    assert!(page.contains("envoy_http_rbac_denied{envoy_http_conn_manager_prefix=\"main\"} 4"), "{page}");
}

#[tokio::test]
async fn a_dry_run_denies_nothing_and_says_what_it_would_have_done() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let shadow = rules("DENY", "shop/soon", path_prefix("/old"), any());
    let filter = http_filter(json!({"shadow_rules": shadow, "shadow_rules_stat_prefix": "dry_"}));
    let proxy = Gateway::to(&[origin.address()])
        .http(&filters(&[filter]))
        .http(&json!({"access_log": log(&sandbox, "%RESPONSE_CODE% %SIDEGATE_DETAIL%")}).to_string())
        .with_admin()
        .start(&sandbox)
        .await;
    for target in ["/old", "/new"] {
        assert_eq!(proxy.get(target).await.text(), "app");
    }
    let lines = logged(&sandbox, 2).await;
    assert!(lines[0].contains("dry run of") && lines[0].contains("matched_policy[shop/soon]"), "{lines:?}");
    assert_eq!(lines[1], "200 -");
    assert_eq!(proxy.stat("http.main.rbac.dry_.shadow_denied").await, 1);
    assert_eq!(proxy.stat("http.main.rbac.dry_.shadow_allowed").await, 1);
}

#[tokio::test]
async fn a_route_has_rules_of_its_own_or_none() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let nothing = http_filter(json!({"rules": {}}));
    let own = json!({NAME: {"@type": format!("type.googleapis.com/{PER_ROUTE}"),
        "rbac": {"rules": rules("ALLOW", "p", header("x-key", "1"), any())}}});
    let off = json!({NAME: {"@type": format!("type.googleapis.com/{PER_ROUTE}")}});
    let to_app = json!({"cluster": "app"});
    let routes = json!([
        {"match": {"prefix": "/own"}, "route": to_app, "typed_per_filter_config": own},
        {"match": {"prefix": "/off"}, "route": to_app, "typed_per_filter_config": off},
        {"match": {"prefix": "/"}, "route": to_app},
    ]);
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .routes(&routes.to_string())
        .http(&filters(&[nothing]))
        .start(&sandbox)
        .await;
    assert_eq!(proxy.get("/").await.status, 403, "an empty ALLOW allows nothing");
    assert_eq!(proxy.get("/own").await.status, 403);
    assert_eq!(proxy.call(&Call::get("/own").header("X-Key", "1")).await.status, 200);
    assert_eq!(proxy.get("/off").await.status, 200);
}

#[tokio::test]
async fn connections_are_let_through_or_reset_before_their_endpoint_hears_of_them() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let own = json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}});
    for (action, allowed) in [("ALLOW", true), ("DENY", false)] {
        let gate = network_filter(rules(action, "shop/tcp", any(), own.clone()));
        let proxy = Gateway::opaque(&[origin.address()])
            .chain(json!({"filters": [gate, tcp_proxy("app")]}))
            .with_admin()
            .start(&sandbox)
            .await;
        let before = origin.connections();
        let mut client = Http1::connect(proxy.address).await.unwrap();
        let answer = client.call(&Call::get("/")).await;
        assert_eq!(answer.is_ok(), allowed, "{answer:?}");
        assert_eq!(origin.connections() > before, allowed, "its endpoint hears of it only then");
        let name = if allowed { "tcp.rbac.allowed" } else { "tcp.rbac.denied" };
        wait::until("it is counted", async || (proxy.stat(name).await >= 1).then_some(())).await;
        if !allowed {
            let latest = wait::until("it is remembered", async || {
                let latest: Value = serde_json::from_slice(&proxy.admin("/why").await.body).ok()?;
                latest["latest"][0].is_object().then_some(latest)
            })
            .await;
            assert_eq!(latest["latest"][0]["reason"], "access_denied", "{latest}");
            let story = why(&proxy, latest["latest"][0]["id"].as_str().unwrap()).await;
            assert!(story["detail"].as_str().unwrap().contains("matched_policy[shop/tcp]"), "{story}");
        }
    }
}

#[tokio::test]
async fn network_rules_stand_before_http_too() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let stranger = json!({"source_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}});
    let gate = network_filter(rules("ALLOW", "p", any(), stranger));
    let gateway = Gateway::to(&[origin.address()]).with_admin();
    let mut bootstrap = gateway.bootstrap(([127, 0, 0, 1], 1).into(), None);
    let manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0].take();
    let proxy = gateway.chain(json!({"filters": [gate, manager]})).start(&sandbox).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = sidegate_tests::client::try_call_over(protocol, proxy.address, &Call::get("/")).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(origin.count(), 0);
    assert!(proxy.stat("tcp.rbac.denied").await >= 2);
}
