//! ExternalAuthorizationPolicy, from a manifest to the answer, under two data planes.

use sidegate_tests::client;
use sidegate_tests::control::ControlPlane;
use sidegate_tests::manifests;
use sidegate_tests::plane::DataPlane;

use super::*;

#[tokio::test]
async fn our_proxy_asks_as_the_policy_says() {
    asks(DataPlane::Sidegate).await;
}

#[tokio::test]
async fn envoy_asks_as_the_policy_says() {
    if let Some(envoy) = DataPlane::envoy() {
        asks(envoy).await;
    }
}

fn policy(spec: &str) -> String {
    format!(
        "
apiVersion: sidegate.dev/v1alpha1
kind: ExternalAuthorizationPolicy
metadata: {{name: ask, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: public}}]
  {spec}
"
    )
}

async fn asks(plane: DataPlane) {
    let sandbox = Sandbox::new();
    let at = address();
    let app = Origin::named("app").await;
    let by_grpc = Authorizer::start(|attributes| Ok(doorkeeper(attributes))).await;
    let by_http = Origin::http1(|request| match request.header("x-user") {
        Some("ada") => Answer::text("").header("x-known-as", "countess"),
        _ => Answer::status(418).body("not you"),
    })
    .await;
    let files = [
        ("gateway.yaml", manifests::gateway(at)),
        ("app.yaml", manifests::service("app", &[app.address()])),
        ("grpc.yaml", manifests::service("by-grpc", &[by_grpc.address()])),
        ("http.yaml", manifests::service("by-http", &[by_http.address()])),
        ("route.yaml", manifests::route("all", "[]", "[{backendRefs: [{name: app, port: 80}]}]")),
        ("ask.yaml", policy("protocol: GRPC\n  backendRef: {name: by-grpc, port: 80}")),
    ];
    let control = ControlPlane::start(&sandbox, &files).await;
    let _proxy = plane.start(&sandbox, &control).await;
    control.synced(1).await;
    wait::until("the gateway listens", async || tokio::net::TcpStream::connect(at).await.ok()).await;
    let ask = async |user: Option<&str>| {
        let call = Call::get("/").host("shop.test");
        client::call(at, &user.iter().fold(call, |call, user| call.header("x-user", user))).await
    };

    let known = ask(Some("ada")).await;
    assert_eq!((known.status, known.header("x-checked")), (200, Some("yes")), "{known:?}");
    assert_eq!(app.last().header("x-known-as"), Some("ada"));
    let stranger = ask(None).await;
    assert_eq!((stranger.status, stranger.text().as_str()), (401, "<p>who are you?</p>"), "{stranger:?}");

    let by_path = "protocol: HTTP
  backendRef: {name: by-http, port: 80}
  http: {path: /check, allowedHeaders: [x-user], allowedResponseHeaders: [x-known-as]}";
    control.apply("ask.yaml", &policy(by_path), 1).await;
    assert_eq!(ask(Some("ada")).await.status, 200);
    assert_eq!(app.last().header("x-known-as"), Some("countess"));
    assert_eq!(by_http.last().target, "/check/");
    let stranger = ask(Some("bob")).await;
    assert_eq!((stranger.status, stranger.text().as_str()), (418, "not you"), "{stranger:?}");

    // Nobody is there to be asked: denied, and told so; unless the policy says otherwise.
    let nobody = "protocol: GRPC\n  backendRef: {name: nobody, port: 80}\n  statusOnError: 503";
    control.apply("ask.yaml", &policy(nobody), 1).await;
    let seen = app.count();
    assert_eq!((ask(Some("ada")).await.status, app.count()), (503, seen));
    control.apply("ask.yaml", &policy(&format!("{nobody}\n  failOpen: true")), 1).await;
    assert_eq!(ask(Some("ada")).await.status, 200);
}
