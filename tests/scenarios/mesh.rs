//! App to app, through a sidecar on either side.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::control::ControlPlane;
use sidegate_tests::load::Load;
use sidegate_tests::manifests::{mesh_route, pod};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::plane::sidecar;
use sidegate_tests::process::Process;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

/// A Pod: its app, its sidecar, and where the app finds its outbound proxy.
struct Pod {
    app: Origin,
    inbound: SocketAddr,
    outbound: SocketAddr,
    manifest: String,
}

impl Pod {
    async fn new(name: &str) -> Self {
        let says = name.to_owned();
        let app = Origin::http1_at(address(), move |_| Answer::text(&says)).await;
        let at = |port| SocketAddr::new(app.address().ip(), port);
        let (inbound, outbound) = (at(address().port()), at(address().port()));
        let manifest = pod(name, app.address(), inbound.port(), outbound.port());
        Self { app, inbound, outbound, manifest }
    }
}

struct Mesh {
    web: Pod,
    v1: Pod,
    v2: Pod,
    control: ControlPlane,
    _sidecars: Vec<Process>,
    _sandbox: Sandbox,
}

/// web → reviews, which is split between reviews-v1 and reviews-v2.
async fn mesh() -> Mesh {
    let sandbox = Sandbox::new();
    let (web, v1, v2) = (Pod::new("web").await, Pod::new("reviews-v1").await, Pod::new("reviews-v2").await);
    let files = [
        ("web.yaml", web.manifest.clone()),
        ("v1.yaml", v1.manifest.clone()),
        ("v2.yaml", v2.manifest.clone()),
        ("reviews.yaml", REVIEWS.to_owned()),
        ("canary.yaml", canary(100, 0)),
    ];
    let control = ControlPlane::start(&sandbox, &files).await;
    let mut sidecars = Vec::new();
    for name in ["web", "reviews-v1", "reviews-v2"] {
        sidecars.push(sidecar(&sandbox, name, control.xds).await);
    }
    control.synced(3).await;
    for at in [web.outbound, v1.inbound, v2.inbound] {
        wait::until("a sidecar listens", async || tokio::net::TcpStream::connect(at).await.ok()).await;
    }
    Mesh { web, v1, v2, control, _sidecars: sidecars, _sandbox: sandbox }
}

fn canary(v1: u32, v2: u32) -> String {
    let backends =
        format!("{{name: reviews-v1, port: 80, weight: {v1}}}, {{name: reviews-v2, port: 80, weight: {v2}}}");
    mesh_route("reviews", &format!("[{{backendRefs: [{backends}]}}]"))
}

/// What the app of `web` sends to its proxy.
fn to(host: &str) -> Call {
    Call::get(&format!("http://{host}/page")).host(host)
}

#[tokio::test]
async fn an_app_reaches_another_by_every_name_it_has() {
    let mesh = mesh().await;
    for host in
        ["reviews", "reviews.shop", "reviews.shop.svc", "reviews.shop.svc.cluster.local", "reviews.shop:80"]
    {
        let response = client::call(mesh.web.outbound, &to(host)).await;
        assert_eq!((response.status, response.text().as_str()), (200, "reviews-v1"), "{host}: {response:?}");
    }
    let received = mesh.v1.app.last();
    assert_eq!(received.target, "/page");
    assert!(
        received.header("traceparent").is_some() && received.header("x-request-id").is_some(),
        "{received:?}"
    );
    // The app itself sees its sidecar, and nobody else.
    assert_eq!(client::call(mesh.v1.inbound, &Call::get("/direct")).await.text(), "reviews-v1");
}

#[tokio::test]
async fn a_canary_moves_under_load_and_fails_none() {
    let mesh = mesh().await;
    let load = Load::start(mesh.web.outbound, 200, to("reviews.shop"));
    load.more_of("reviews-v1", 20).await;
    assert_eq!(mesh.v2.app.count(), 0);
    mesh.control.apply("canary.yaml", &canary(50, 50), 3).await;
    load.more_of("reviews-v2", 20).await;
    mesh.control.apply("canary.yaml", &canary(0, 100), 3).await;
    let before = mesh.v1.app.count();
    load.more_of("reviews-v2", 50).await;
    assert!(mesh.v1.app.count() - before <= 2, "{} came after the edit", mesh.v1.app.count() - before);
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
}

#[tokio::test]
async fn what_the_mesh_does_not_know_passes() {
    let mesh = mesh().await;
    let away = Origin::named("away").await;
    let host = away.address().to_string();
    let response = client::call(mesh.web.outbound, &to(&host)).await;
    assert_eq!((response.status, response.text().as_str()), (200, "away"), "{response:?}");
    let mut client = client::Http1::connect(mesh.web.outbound).await.unwrap();
    assert_eq!(client.call(&Call::new("CONNECT", &host).host(&host)).await.unwrap().status, 200);
    assert_eq!(client.call(&Call::get("/through").host(&host)).await.unwrap().text(), "away");
}

const REVIEWS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: http}]}
";
