//! The same rules and the same requests, judged by Envoy: the same verdicts, but for what can be read in two ways, where ours denies.

use std::net::SocketAddr;

use sidegate_tests::plane::DataPlane;
use sidegate_tests::process::Process;
use sidegate_tests::sandbox::address;

use super::*;

/// Policies by host name.
fn policies() -> Vec<(&'static str, Value)> {
    let string = |test: Value| json!({"url_path": {"path": test}});
    let not = |rule: Value| json!({"not_rule": rule});
    let template = |text: &str| {
        json!({"uri_template": {"name": "envoy.path.match.uri_template.uri_template_matcher", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": text}}})
    };
    let host = |text: &str| json!({"header": {"name": ":authority", "string_match": {"exact": text, "ignore_case": true}}});
    let regex = json!({"header": {"name": "x-a", "safe_regex_match": {"regex": "b+c?"}}});
    let range = json!({"header": {"name": "x-n", "range_match": {"start": 5, "end": 10}}});
    let all = |rules: &[Value]| json!({"and_rules": {"rules": rules}});
    let either = |rules: &[Value]| json!({"or_rules": {"rules": rules}});
    let near = json!({"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}});
    let far = json!({"remote_ip": {"address_prefix": "192.0.2.0", "prefix_len": 24}});
    let inverted = json!({"header": {"name": "x-a", "string_match": {"exact": "b"}, "invert_match": true}});
    let empty = json!({"header": {"name": "x-a", "string_match": {"exact": ""}, "treat_missing_header_as_empty": true}});
    vec![
        ("nothing", json!({})),
        ("deny-nothing", json!({"action": "DENY"})),
        ("deny-all", rules("DENY", "p", any(), any())),
        ("log", rules("LOG", "p", any(), any())),
        ("method", rules("ALLOW", "p", header(":method", "GET"), any())),
        ("exact", rules("ALLOW", "p", string(json!({"exact": "/a/b"})), any())),
        ("prefix", rules("DENY", "p", string(json!({"prefix": "/a"})), any())),
        ("case", rules("DENY", "p", string(json!({"prefix": "/A", "ignore_case": true})), any())),
        ("suffix", rules("ALLOW", "p", string(json!({"suffix": "b"})), any())),
        ("contains", rules("DENY", "p", string(json!({"contains": "/b"})), any())),
        ("regex", rules("ALLOW", "p", string(json!({"safe_regex": {"regex": "/a/[bc]"}})), any())),
        (
            "target",
            rules(
                "ALLOW",
                "p",
                json!({"header": {"name": ":path", "string_match": {"suffix": "q=1"}}}),
                any(),
            ),
        ),
        ("not", rules("ALLOW", "p", not(string(json!({"prefix": "/a"}))), any())),
        ("star", rules("ALLOW", "p", template("/a/*"), any())),
        ("stars", rules("DENY", "p", template("/a/**"), any())),
        ("named", rules("ALLOW", "p", template("/{one}/{two=**}"), any())),
        ("ending", rules("ALLOW", "p", template("/**.txt"), any())),
        ("present", rules("ALLOW", "p", json!({"header": {"name": "x-a", "present_match": true}}), any())),
        ("absent", rules("ALLOW", "p", json!({"header": {"name": "x-a", "present_match": false}}), any())),
        ("value", rules("DENY", "p", header("x-a", "b"), any())),
        ("pattern", rules("ALLOW", "p", regex, any())),
        ("range", rules("ALLOW", "p", range, any())),
        ("inverted", rules("ALLOW", "p", inverted, any())),
        ("missing", rules("ALLOW", "p", empty, any())),
        ("host", rules("ALLOW", "p", host("HOST.test"), any())),
        ("all", rules("DENY", "p", all(&[header(":method", "GET"), string(json!({"prefix": "/a"}))]), any())),
        ("either", rules("ALLOW", "p", either(&[header("x-a", "b"), string(json!({"exact": "/"}))]), any())),
        ("near", rules("ALLOW", "p", any(), near)),
        ("far", rules("DENY", "p", any(), far)),
        ("nobody", rules("ALLOW", "p", any(), json!({"authenticated": {}}))),
        (
            "anybody",
            rules(
                "ALLOW",
                "p",
                any(),
                json!({"not_id": {"authenticated": {"principal_name": {"exact": "x"}}}}),
            ),
        ),
        ("port", rules("ALLOW", "p", json!({"destination_port_range": {"start": 1, "end": 65535}}), any())),
        (
            "two",
            json!({"policies": {
                "b": {"permissions": [string(json!({"exact": "/a/b"}))], "principals": [any()]},
                "a": {"permissions": [header(":method", "PUT"), header("x-a", "b")], "principals": [any()]},
            }}),
        ),
    ]
}

fn calls() -> Vec<Call> {
    let get = Call::get;
    vec![
        get("/"),
        get("/a"),
        get("/a/"),
        get("/a/b"),
        get("/a/b?q=1"),
        get("/a/b/"),
        get("/a/b/c"),
        get("/A/b"),
        get("/ab"),
        get("/x/y.txt"),
        get("/a/%20b"),
        get("/caf%C3%A9/b"),
        Call::new("PUT", "/a").body("x"),
        Call::new("DELETE", "/"),
        get("/").header("x-a", "b"),
        get("/").header("X-A", "b"),
        get("/a/b").header("x-a", "bbc"),
        get("/").header("x-a", "c"),
        get("/").header("x-n", "5"),
        get("/").header("x-n", "10"),
        get("/").header("x-n", "-7"),
        get("/").header("x-forwarded-for", "192.0.2.9"),
        get("/a").header("x-a", "c").header("x-a", "d"),
    ]
}

fn bootstrap(origin: SocketAddr, listener: SocketAddr) -> Value {
    let hosts: Vec<Value> = policies()
        .into_iter()
        .map(|(name, rules)| {
            let own = json!({NAME: {"@type": format!("type.googleapis.com/{PER_ROUTE}"), "rbac": {"rules": rules}}});
            json!({"name": name, "domains": [format!("{name}.test")], "typed_per_filter_config": own,
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]})
        })
        .collect();
    let gateway = Gateway::new()
        .cluster("app", &[origin])
        .virtual_hosts(&Value::from(hosts).to_string())
        .http(&filters(&[http_filter(json!({}))]))
        .http("{normalize_path: true, merge_slashes: true, use_remote_address: true}");
    let mut bootstrap = gateway.bootstrap(listener, None);
    bootstrap["static_resources"]["clusters"][0]["connect_timeout"] = json!("2s");
    bootstrap
}

/// Both proxies with one configuration; `None` without Envoy.
async fn both(sandbox: &Sandbox, make: impl Fn(SocketAddr) -> Value) -> Option<[(SocketAddr, Process); 2]> {
    let Some(DataPlane::Envoy(envoy)) = DataPlane::envoy() else { return None };
    let start = |name: &str, program: &std::path::Path, flags: &[&str]| {
        let listener = address();
        let config =
            sandbox.write(&format!("{name}.json"), &make(listener).to_string()).display().to_string();
        let mut arguments = vec!["-c".to_owned(), config, "--concurrency".to_owned(), "1".to_owned()];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        (listener, Process::start(sandbox, name, program, arguments))
    };
    let ours = start("proxy", &sidegate_tests::process::program("sidegate-proxy"), &[]);
    let theirs = start("envoy", &envoy, &["--use-dynamic-base-id", "-l", "warning"]);
    for (listener, _) in [&ours, &theirs] {
        wait::until("it listens", async || tokio::net::TcpStream::connect(listener).await.ok()).await;
    }
    Some([ours, theirs])
}

#[tokio::test]
async fn envoy_says_the_same_of_what_is_plain() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let Some([ours, theirs]) = both(&sandbox, |listener| bootstrap(origin.address(), listener)).await else {
        return;
    };
    let (mut allowed, mut denied) = (0, 0);
    for (name, rules) in policies() {
        for call in calls() {
            let call = call.host(&format!("{name}.test"));
            let own = sidegate_tests::client::call(ours.0, &call).await;
            let other = sidegate_tests::client::call(theirs.0, &call).await;
            assert_eq!(own.status, other.status, "{call:?} by {rules}");
            if own.status == 403 {
                assert_eq!(own.text(), other.text());
                denied += 1;
            } else {
                allowed += 1;
            }
        }
    }
    assert!(allowed > 200 && denied > 200, "{allowed} allowed, {denied} denied");
}

/// Where Envoy lets something through that a reader behind it may take for what is denied.
#[tokio::test]
async fn where_we_differ_from_envoy_we_deny() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let Some([ours, theirs]) = both(&sandbox, |listener| bootstrap(origin.address(), listener)).await else {
        return;
    };
    let get = Call::get;
    let cases = [
        ("value", get("/").header("x-a", "c").header("x-a", "b")),
        ("value", get("/").header("x-a", "c, b")),
        ("value", get("/").header("x-a", "B")),
        ("contains", get("/a%2Fb")),
        ("prefix", get("/x%2F..%2Fa")),
        ("inverted", get("/").header("x-a", "c,b")),
        ("not", get("/%2Fa")),
    ];
    let mut differ = 0;
    for (name, call) in cases {
        let call = call.host(&format!("{name}.test"));
        let own = sidegate_tests::client::call(ours.0, &call).await;
        let other = sidegate_tests::client::call(theirs.0, &call).await;
        assert_eq!(own.status, 403, "{call:?}");
        differ += usize::from(other.status != own.status);
    }
    assert!(differ > 0, "docs/authorization.md says that we are stricter than Envoy");
}

#[tokio::test]
async fn envoy_says_the_same_of_connections() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let loopback = json!({"source_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}});
    let elsewhere = json!({"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}});
    for rules in [
        json!({}),
        rules("ALLOW", "p", any(), loopback.clone()),
        rules("DENY", "p", any(), loopback),
        rules("ALLOW", "p", any(), elsewhere),
        rules("DENY", "p", json!({"destination_port_range": {"start": 1, "end": 80}}), any()),
        rules("DENY", "p", any(), json!({"authenticated": {}})),
    ] {
        let make = |listener| {
            let mut bootstrap = Gateway::opaque(&[origin.address()])
                .chain(json!({"filters": [network_filter(rules.clone()), tcp_proxy("app")]}))
                .bootstrap(listener, None);
            bootstrap["static_resources"]["clusters"][0]["connect_timeout"] = json!("2s");
            bootstrap
        };
        let Some([ours, theirs]) = both(&sandbox, make).await else { return };
        let own = sidegate_tests::client::try_call(ours.0, &Call::get("/")).await.is_ok();
        let other = sidegate_tests::client::try_call(theirs.0, &Call::get("/")).await.is_ok();
        assert_eq!(own, other, "{rules}");
    }
}
