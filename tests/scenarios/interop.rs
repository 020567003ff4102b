//! The same scenario under two data planes: our proxy, and Envoy. What our control plane says must mean the same to both.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::control::ControlPlane;
use sidegate_tests::load::Load;
use sidegate_tests::manifests::{gateway, route, service, service_http2};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Gate, Origin};
use sidegate_tests::plane::DataPlane;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

#[tokio::test]
async fn our_proxy_is_a_gateway() {
    is_a_gateway(DataPlane::Sidegate).await;
}

#[tokio::test]
async fn envoy_is_a_gateway() {
    if let Some(envoy) = DataPlane::envoy() {
        is_a_gateway(envoy).await;
    }
}

async fn is_a_gateway(plane: DataPlane) {
    let sandbox = Sandbox::new();
    let listener = address();
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let never = Gate::new();
    let held = never.clone();
    let slow = Origin::http1(move |_| Answer::text("never").after(&held)).await;
    let grpc = Origin::http2(|_| {
        Answer::text("\0\0\0\0\0").header("content-type", "application/grpc").trailer("grpc-status", "0")
    })
    .await;
    let files = [
        ("gateway.yaml", gateway(listener)),
        ("one.yaml", service("one", &[one.address()])),
        ("two.yaml", service("two", &[two.address()])),
        ("grpc.yaml", service_http2("grpc", &[grpc.address()])),
        ("slow.yaml", service("slow", &[slow.address()])),
        ("routes.yaml", routes()),
    ];
    let control = ControlPlane::start(&sandbox, &files).await;
    let _proxy = plane.start(&sandbox, &control).await;
    control.synced(1).await;
    wait::until("the gateway listens", async || tokio::net::TcpStream::connect(listener).await.ok()).await;

    routes_by_host_path_and_header(listener).await;
    splits_by_weight(listener).await;
    changes_headers(listener, &one).await;
    keeps_to_time(listener).await;
    limits_requests(listener).await;
    answers_grpc(listener).await;
    follows_edits(&control, listener, [&one, &two]).await;
}

fn routes() -> String {
    let rules = "[
        {matches: [{path: {type: Exact, value: /exact}}], backendRefs: [{name: two, port: 80}]},
        {matches: [{path: {type: PathPrefix, value: /part}}], backendRefs: [{name: two, port: 80}],
         filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /whole}}}]},
        {matches: [{headers: [{name: x-who, value: me}]}], backendRefs: [{name: two, port: 80}]},
        {matches: [{queryParams: [{name: q, value: '1'}]}], backendRefs: [{name: two, port: 80}]},
        {matches: [{method: PUT}], backendRefs: [{name: two, port: 80}]},
        {matches: [{path: {type: PathPrefix, value: /moved}}],
         filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test, statusCode: 302}}]},
        {matches: [{path: {type: PathPrefix, value: /missing}}], backendRefs: [{name: nowhere, port: 80}]},
        {backendRefs: [{name: one, port: 80}]}]";
    let split = "[{backendRefs: [{name: one, port: 80, weight: 3}, {name: two, port: 80, weight: 1}]}]";
    let documents = [
        route("main", "[shop.test]", rules),
        route("wild", "['*.wild.test']", "[{backendRefs: [{name: two, port: 80}]}]"),
        route("split", "[split.test]", split),
        route("grpc", "[grpc.test]", "[{backendRefs: [{name: grpc, port: 80}]}]"),
        route("headers", "[headers.test]", HEADERS),
        route("slow", "[slow.test]", "[{timeouts: {request: 200ms}, backendRefs: [{name: slow, port: 80}]}]"),
        route("limited", "[limited.test]", "[{backendRefs: [{name: one, port: 80}]}]"),
        LIMIT.to_owned(),
        route("edited", "[edited.test]", "[{backendRefs: [{name: one, port: 80}]}]"),
    ];
    documents.join("---\n")
}

async fn routes_by_host_path_and_header(listener: SocketAddr) {
    let shop = |call: Call| call.host("shop.test");
    let table = [
        (shop(Call::get("/")), 200, "one"),
        (shop(Call::get("/exact")), 200, "two"),
        (shop(Call::get("/exact/not")), 200, "one"),
        (shop(Call::get("/part/of")), 200, "two"),
        (shop(Call::get("/party")), 200, "one"),
        (shop(Call::get("/").header("X-Who", "me")), 200, "two"),
        (shop(Call::get("/").header("X-Who", "you")), 200, "one"),
        (shop(Call::get("/?q=1")), 200, "two"),
        (shop(Call::new("PUT", "/").body("")), 200, "two"),
        (shop(Call::get("/moved/on")), 302, ""),
        (shop(Call::get("/missing")), 500, ""),
        (Call::get("/").host("SHOP.test:80"), 200, "one"),
        (Call::get("/").host("deep.wild.test"), 200, "two"),
        (Call::get("/").host("unknown.test"), 404, ""),
    ];
    for (call, status, body) in table {
        let response = client::call(listener, &call).await;
        assert_eq!(response.status, status, "{call:?}: {response:?}");
        if status == 200 {
            assert_eq!(response.text(), body, "{call:?}");
        }
        if status == 302 {
            // Without a port of its own, a redirect leads to the listener's.
            let location = format!("http://new.test:{}/moved/on", listener.port());
            assert_eq!(response.header("location"), Some(location.as_str()), "{call:?}");
        }
    }
}

async fn splits_by_weight(listener: SocketAddr) {
    let mut client = client::Http1::connect(listener).await.expect("the gateway listens");
    let mut second = 0;
    for _ in 0..400 {
        let response = client.call(&Call::get("/").host("split.test")).await.expect("an answer");
        second += usize::from(response.text() == "two");
    }
    // 5 σ of 400 times 25 % is 43.
    assert!((57..=143).contains(&second), "{second} of 400 is not a quarter");
}

async fn changes_headers(listener: SocketAddr, one: &Origin) {
    let call = Call::get("/headers").host("headers.test").header("x-set", "theirs").header("x-add", "theirs");
    let response = client::call(listener, &call.header("x-gone", "1")).await;
    assert_eq!((response.status, response.header("x-answer")), (200, Some("ours")), "{response:?}");
    let received =
        one.received().into_iter().find(|received| received.target == "/headers").expect("the request");
    assert_eq!((received.header("x-set"), received.header("x-gone")), (Some("ours"), None));
    let added = sidegate_tests::message::values(&received.headers, "x-add").join(",");
    assert_eq!(added.replace(' ', ""), "theirs,ours");
}

async fn keeps_to_time(listener: SocketAddr) {
    let response = client::call(listener, &Call::get("/").host("slow.test")).await;
    assert_eq!(response.status, 504, "{response:?}");
}

async fn limits_requests(listener: SocketAddr) {
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(client::call(listener, &Call::get("/").host("limited.test")).await.status);
    }
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(good, 5, "{statuses:?}");
    assert!(statuses[5..].iter().all(|status| *status == 429), "{statuses:?}");
}

async fn answers_grpc(listener: SocketAddr) {
    let call = Call::post("/shop.Shop/Buy", "\0\0\0\0\0").host("grpc.test");
    let call = call.header("content-type", "application/grpc").header("te", "trailers");
    let response = client::call_over(client::Protocol::Http2, listener, &call).await;
    assert_eq!((response.status, response.trailer("grpc-status")), (200, Some("0")), "{response:?}");
}

async fn follows_edits(control: &ControlPlane, listener: SocketAddr, [one, two]: [&Origin; 2]) {
    let load = Load::start(listener, 100, Call::get("/").host("edited.test"));
    load.more_of("one", 20).await;
    let to_two = routes().replace(
        "[edited.test]\n  rules: [{backendRefs: [{name: one,",
        "[edited.test]\n  rules: [{backendRefs: [{name: two,",
    );
    assert_ne!(to_two, routes());
    control.apply("routes.yaml", &to_two, 1).await;
    load.more_of("two", 20).await;
    // The same Service, through other endpoints and back.
    for _ in 0..3 {
        control.apply("two.yaml", &service("two", &[one.address(), two.address()]), 1).await;
        load.more_of("one", 5).await;
        control.apply("two.yaml", &service("two", &[one.address()]), 1).await;
        control.apply("two.yaml", &service("two", &[two.address()]), 1).await;
        load.more_of("two", 5).await;
    }
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
}

const HEADERS: &str = "[{backendRefs: [{name: one, port: 80}], filters: [
    {type: RequestHeaderModifier, requestHeaderModifier: {
      set: [{name: x-set, value: ours}], add: [{name: x-add, value: ours}], remove: [x-gone]}},
    {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: ours}]}}]}]";

const LIMIT: &str = "
apiVersion: sidegate.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limited, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  local: {requests: 5, per: 1h}
";
