//! A mesh under a steady load while every leaf is replaced every five seconds and the root once, with one proxy stopped for a part of it.
//!
//! By default 100 requests a second for as long as the rotation takes. The battery's own figures are asked for by the environment
//! (docs/hardening.md): `SIDEGATE_RATE` and `SIDEGATE_SECONDS`, and `SIDEGATE_HTTP2` for one shared connection between the sidecars.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sidegate_tests::load::Load;
use sidegate_tests::manifests::pod;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::Answer;
use sidegate_tests::process::Process;
use sidegate_tests::sandbox::address;
use sidegate_tests::secured::{Agent, SecuredPlane};
use tokio::time::{Instant, sleep};

use super::*;

/// A Pod's manifest of this service account, and where its sidecar listens: for others and for its app.
pub(super) fn meshed(name: &str, app: SocketAddr) -> (String, [SocketAddr; 2]) {
    let [inbound, outbound] = [address().port(), address().port()];
    let manifest = pod(name, app, inbound, outbound);
    let own = format!("spec: {{serviceAccountName: {name}, containers");
    let manifest = manifest.replace("spec: {containers", &own);
    (manifest, [inbound, outbound].map(|port| SocketAddr::new(app.ip(), port)))
}

/// Handshake after handshake by a client without a proxy, each with the newest certificate and one request.
struct Handshakes {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Handshakes {
    fn start(agent: &Agent, server: SocketAddr) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (done.clone(), stop.clone());
        let files = agent.files();
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                // A folder that is replaced in between is read again.
                let Some(client) = files.client() else { continue };
                let client = client.alpn(&["istio", "http/1.1"]);
                match client.get(server, "app.shop", "/").await {
                    Ok(answer) if answer.contains(" 200 ") && answer.contains("app") => {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => failures.push(answer),
                    Err(error) => failures.push(error.to_string()),
                }
                sleep(BETWEEN_HANDSHAKES).await;
            }
            failures
        });
        Self { done, stop, task }
    }

    /// How many succeeded, and what became of the others.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = wait::within("the last handshake", self.task).await.expect("no panic");
        (self.done.load(Ordering::Relaxed), failures)
    }
}

/// A number from the environment.
fn given(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Rotates the root while `idle` is stopped, until the rotation asks for it by name; then until the end.
async fn rotate_past(plane: &SecuredPlane, sandbox: &Sandbox, idle: &Process) -> Process {
    idle.pause();
    let rotation = plane.rotate(sandbox, "rotation");
    wait::until("the stopped proxy is waited for by name", async || {
        rotation.log().contains("waiting for sidecar shop/idle to trust the new root").then_some(())
    })
    .await;
    // It is the only one, and it goes on being waited for.
    wait::until("nobody else is waited for", async || {
        let status = plane.status().await?;
        let waits = status["ca"]["rotation"]["waiting"].to_string();
        (waits.contains("shop/idle") && !waits.contains("shop/web") && !waits.contains("shop/app"))
            .then_some(())
    })
    .await;
    idle.resume();
    rotation
}

#[tokio::test]
async fn c10_leaves_and_root_are_rotated_under_load_and_a_stopped_proxy_is_waited_for_by_name() {
    let (rate, seconds) = (given("SIDEGATE_RATE", 100), given("SIDEGATE_SECONDS", 0));
    let sandbox = Sandbox::new();
    let http2 = std::env::var_os("SIDEGATE_HTTP2").is_some();
    let answer = |_: &Received| Answer::text("app");
    let origin = if http2 { Origin::http2(answer).await } else { Origin::http1(answer).await };
    let (mut app, [inbound, _]) = meshed("app", origin.address());
    if http2 {
        app = app.replace("port: 80, targetPort", "port: 80, appProtocol: kubernetes.io/h2c, targetPort");
    }
    let (web, [_, outbound]) = meshed("web", address());
    let (idle, _) = meshed("idle", address());
    let manifests = [("app.yaml", app), ("web.yaml", web), ("idle.yaml", idle)];
    let flags = ["--leaf-ttl", "10s", "--rotation-hold", "1", "--rotation-grace", "1"];
    let plane = SecuredPlane::start(&sandbox, &manifests, &flags).await;
    let app = plane.proxy(&sandbox, "sidecar", "app").await;
    let web = plane.proxy(&sandbox, "sidecar", "web").await;
    let idle = plane.proxy(&sandbox, "sidecar", "idle").await;
    let agent = plane.agent(&sandbox, "client").await;
    let call = Call::get("http://app.shop/").host("app.shop");
    wait::until("the mesh serves", async || {
        let answer = sidegate_tests::client::try_call(outbound, &call).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(app.sum(|name| name.ends_with("downstream_cx_unsecured")).await, 0);

    let (begun, load) = (Instant::now(), Load::start(outbound, rate, call));
    let handshakes = Handshakes::start(&agent, inbound);
    let mut rotation = rotate_past(&plane, &sandbox, &idle.process).await;
    let rotated = tokio::time::timeout(PATIENCE, rotation.wait()).await;
    assert_eq!(rotated.expect("an end of the rotation").code(), Some(0), "{}", rotation.log());
    let rotated = begun.elapsed();
    sleep(Duration::from_secs(seconds.into()).saturating_sub(rotated)).await;
    let took = begun.elapsed();
    let counts = load.stop().await;
    let (made, failures) = handshakes.end().await;

    let renewals = app.renewals().await;
    println!(
        "C10 at {rate}/s for {took:.0?}: {} requests, {} failed; {made} handshakes by the client, {} failed; {renewals} leaves of one \
         proxy; root rotated in {rotated:.0?}",
        counts.good,
        counts.failed,
        failures.len()
    );
    let log = [&app, &web].map(|proxy| proxy.process.log());
    assert_eq!((counts.failed, failures.len()), (0, 0), "{:?} {failures:?}\n{log:#?}", counts.failures);
    assert!(counts.good > 0 && made > 0 && renewals >= 2, "{} {made} {renewals}", counts.good);
    let failed = |name: &str| name.contains("ssl.") && (name.contains("fail") || name.contains("error"));
    for proxy in [&app, &web] {
        assert_eq!(proxy.sum(failed).await, 0, "{:?}", proxy.page("/stats").await);
    }
    // Who was stopped is served like the others again.
    wait::until("it is ready", async || (idle.page("/ready").await?.trim() == "LIVE").then_some(())).await;
}

const BETWEEN_HANDSHAKES: Duration = Duration::from_millis(50);

/// For a rotation to its end: every leaf of the old root has to be replaced, or over.
const PATIENCE: Duration = Duration::from_secs(180);
