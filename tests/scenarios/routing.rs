//! Which route a request takes, and what the route changes.

use std::net::SocketAddr;

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;

#[tokio::test]
async fn requests_are_told_apart_by_host_path_header_query_and_method() {
    let sandbox = Sandbox::new();
    let [a, b, c, d, e, f] = named(["a", "b", "c", "d", "e", "f"]).await;
    let mut gateway = Gateway::new();
    for (name, origin) in [("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e), ("f", &f)] {
        gateway = gateway.cluster(name, &[origin.address()]);
    }
    let proxy = gateway
        .virtual_hosts(
            "[{name: one, domains: [one.test], routes: [
                {match: {path: /exact}, route: {cluster: b}},
                {match: {path_separated_prefix: /part}, route: {cluster: c}},
                {match: {prefix: /, headers: [{name: x-who, string_match: {exact: me}}]}, route: {cluster: d}},
                {match: {prefix: /, query_parameters: [{name: q, string_match: {exact: '1'}}]}, route: {cluster: e}},
                {match: {prefix: /, headers: [{name: ':method', string_match: {exact: PUT}}]}, route: {cluster: f}},
                {match: {prefix: /only}, route: {cluster: a}}]},
              {name: wild, domains: ['*.wild.test'], routes: [{match: {prefix: /}, route: {cluster: b}}]}]",
        )
        .start(&sandbox)
        .await;
    let at = |host: &str, call: Call| call.host(host);
    let table = [
        (at("one.test", Call::get("/exact")), 200, "b"),
        (at("ONE.test", Call::get("/exact")), 200, "b"),
        (at("one.test", Call::get("/exact?x")), 200, "b"),
        (at("one.test", Call::get("/part")), 200, "c"),
        (at("one.test", Call::get("/part/of")), 200, "c"),
        (at("one.test", Call::get("/party")), 404, ""),
        (at("one.test", Call::get("/").header("X-Who", "me")), 200, "d"),
        (at("one.test", Call::get("/?q=1")), 200, "e"),
        (at("one.test", Call::get("/?q=2")), 404, ""),
        (at("one.test", Call::new("PUT", "/").body("")), 200, "f"),
        (at("one.test", Call::get("/only/this")), 200, "a"),
        (at("deep.wild.test", Call::get("/")), 200, "b"),
        (at("wild.test", Call::get("/")), 404, ""),
        (at("other.test", Call::get("/")), 404, ""),
    ];
    for (call, status, body) in table {
        let response = proxy.call(&call).await;
        assert_eq!(response.status, status, "{call:?}: {response:?}");
        if status == 200 {
            assert_eq!(response.text(), body, "{call:?}");
        } else {
            assert_eq!(response.reason().map(|(reason, _)| reason), Some("no_route"), "{response:?}");
        }
    }
}

#[tokio::test]
async fn redirects_and_direct_responses_need_no_upstream() {
    let sandbox = Sandbox::new();
    let proxy = Gateway::new()
        .routes(
            "[{match: {prefix: /old}, redirect: {host_redirect: new.test, prefix_rewrite: /new, response_code: FOUND}},
              {match: {path: /secure}, redirect: {https_redirect: true}},
              {match: {path: /teapot}, direct_response: {status: 418, body: {inline_string: short and stout}}}]",
        )
        .start(&sandbox)
        .await;
    let moved = proxy.get("/old/page?q=1").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, Some("http://new.test/new/page?q=1")),
        "{moved:?}"
    );
    let secure = proxy.get("/secure").await;
    assert_eq!((secure.status, secure.header("location")), (301, Some("https://app.test/secure")));
    let direct = proxy.get("/teapot").await;
    assert_eq!((direct.status, direct.text().as_str()), (418, "short and stout"));
    assert_eq!(direct.reason(), None, "what is configured is no failure");
}

#[tokio::test]
async fn a_route_rewrites_paths_hosts_and_headers() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|_| Answer::text("").header("x-secret", "1").header("x-kind", "theirs")).await;
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .routes(
            "[{match: {prefix: /api/}, route: {cluster: app, prefix_rewrite: /, host_rewrite_literal: inner.test},
               request_headers_to_add: [
                 {header: {key: x-added, value: yes}},
                 {header: {key: x-set, value: ours}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}],
               request_headers_to_remove: [x-gone],
               response_headers_to_add: [{header: {key: x-kind, value: ours}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}],
               response_headers_to_remove: [x-secret]},
              {match: {safe_regex: {regex: '/user/[0-9]+'}},
               route: {cluster: app, regex_rewrite: {pattern: {regex: '^/user/([0-9]+)$'}, substitution: '/u?id=\\1'}}}]",
        )
        .start(&sandbox)
        .await;
    let call = Call::get("/api/things?q=1").header("x-set", "theirs").header("X-Gone", "1");
    let response = proxy.call(&call).await;
    let received = origin.last();
    assert_eq!((received.target.as_str(), received.authority.as_str()), ("/things?q=1", "inner.test"));
    assert_eq!(received.header("x-added"), Some("yes"));
    assert_eq!(received.header("x-set"), Some("ours"));
    assert_eq!(received.header("x-gone"), None);
    assert_eq!((response.header("x-kind"), response.header("x-secret")), (Some("ours"), None));

    proxy.get("/user/17").await;
    assert_eq!(origin.last().target, "/u?id=17");
}

#[tokio::test]
async fn weights_are_kept() {
    let sandbox = Sandbox::new();
    let [heavy, light] = named(["heavy", "light"]).await;
    let proxy = Gateway::new()
        .cluster("heavy", &[heavy.address()])
        .cluster("light", &[light.address()])
        .routes(
            "[{match: {prefix: /}, route: {weighted_clusters: {clusters: [
                {name: heavy, weight: 80}, {name: light, weight: 20}]}}}]",
        )
        .start(&sandbox)
        .await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for _ in 0..REQUESTS {
        assert_eq!(client.call(&Call::get("/")).await.unwrap().status, 200);
    }
    assert_eq!(heavy.count() + light.count(), REQUESTS);
    let (number, share) = (REQUESTS as f64, 0.2);
    let sigma = (number * share * (1.0 - share)).sqrt();
    let off = (light.count() as f64 - number * share).abs() / sigma;
    assert!(off < 5.0, "{} of {REQUESTS} is {off:.1} σ away from 20 %", light.count());
}

#[tokio::test]
async fn the_path_is_made_canonical_before_it_is_routed() {
    let sandbox = Sandbox::new();
    let [open, secret] = named(["open", "secret"]).await;
    let proxy = Gateway::new()
        .cluster("open", &[open.address()])
        .cluster("secret", &[secret.address()])
        .routes("[{match: {prefix: /secret}, direct_response: {status: 403}}, {match: {prefix: /}, route: {cluster: open}}]")
        .http("{normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: REJECT_REQUEST}")
        .start(&sandbox)
        .await;
    for target in [
        "/secret",
        "/a/../secret",
        "//secret",
        "/./secret",
        "/a/%2e%2e/secret",
        "/%73ecret",
        "/a/b/../../secret/x",
    ] {
        assert_eq!(proxy.get(target).await.status, 403, "{target}");
    }
    for target in ["/a%2f..%2fsecret", "/a%5c..%5csecret"] {
        assert_eq!(proxy.get(target).await.status, 400, "{target}");
    }
    assert_eq!(open.count() + secret.count(), 0);
    assert_eq!(proxy.get("/public").await.text(), "open");
}

#[tokio::test]
async fn a_route_without_a_cluster_says_so() {
    let sandbox = Sandbox::new();
    let nobody: &[SocketAddr] = &[];
    let proxy = Gateway::new()
        .cluster_with("empty", nobody, "{type: STATIC, load_assignment: {cluster_name: empty}}")
        .virtual_hosts(
            "[{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: empty}}]}]",
        )
        .start(&sandbox)
        .await;
    let response = proxy.get("/").await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.reason().map(|(reason, _)| reason), Some("no_healthy_endpoint"));
    let grpc = proxy.call(&Call::post("/", "").header("content-type", "application/grpc")).await;
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
}

async fn named<const N: usize>(names: [&str; N]) -> [Origin; N] {
    let mut origins = Vec::new();
    for name in names {
        let name = name.to_owned();
        origins.push(Origin::http1(move |_: &Received| Answer::text(&name)).await);
    }
    origins.try_into().expect("as many origins as names")
}

const REQUESTS: usize = 4_000;

#[tokio::test]
async fn a_rewrite_sends_its_path_or_nothing() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("a").await;
    let proxy = Gateway::new()
        .cluster("a", &[origin.address()])
        .routes(
            r"[{match: {prefix: /re/}, route: {cluster: a, regex_rewrite: {pattern: {regex: '^/re/?(.*)$'}, substitution: '\1'}}},
              {match: {prefix: /api}, route: {cluster: a, prefix_rewrite: /static/}}]",
        )
        .http("{normalize_path: true}")
        .start(&sandbox)
        .await;
    for (path, status, reason) in [("/re/foo", 500, "invalid_rewrite"), ("/api../secret", 400, "bad_request")]
    {
        let response = proxy.get(path).await;
        let said = response.header("x-sidegate-reason").unwrap_or_default();
        assert!(response.status == status && said.starts_with(reason), "{path}: {response:?}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(proxy.get("/api/x?y").await.status, 200);
    assert_eq!(origin.last().target, "/static/x?y");
}
