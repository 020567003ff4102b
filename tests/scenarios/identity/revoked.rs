//! A certificate and an identity that are taken out of use by command, under a mesh that serves.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::load::Load;
use sidegate_tests::process::{Finished, Process, program, run};
use sidegate_tests::sandbox::{address, local_port};

use super::meshed::{Pod, to};
use super::*;

/// Two clients and an app, each behind a sidecar with an identity.
struct Mesh {
    bad: Pod,
    good: Pod,
    _app: Pod,
    control: Process,
    plane: SocketAddr,
    folder: String,
    sidecars: Vec<(Process, SocketAddr)>,
}

impl Mesh {
    async fn start(sandbox: &Sandbox) -> Self {
        let (bad, good, app) = (Pod::new("bad").await, Pod::new("good").await, Pod::new("app").await);
        let manifests = sandbox.path().join("manifests");
        std::fs::create_dir(&manifests).expect("a folder");
        for pod in [&bad, &good, &app] {
            std::fs::write(manifests.join(format!("{}.yaml", pod.name)), &pod.manifest)
                .expect("a file written");
        }
        let (plain, secure, plane) = (address(), address().to_string(), address());
        let folder = sandbox.path().join("ca").display().to_string();
        let (manifests, plain, admin) =
            (manifests.display().to_string(), plain.to_string(), plane.to_string());
        let flags = [
            ["serve", "--manifests", &manifests, "--ca-dir", &folder].as_slice(),
            &["--xds-address", &plain, "--secure-xds-address", &secure, "--admin-address", &admin],
        ]
        .concat();
        let control = Process::start(sandbox, "control-plane", &program("sidegate"), flags);
        wait::until("the control plane", async || meshed::page(plane, "/status").await).await;
        let mut sidecars = Vec::new();
        for pod in [&bad, &good, &app] {
            let port = local_port().to_string();
            let target = format!("shop/{}", pod.name);
            let flags = ["bootstrap", "sidecar", &target, "--service-account", pod.name, "--xds", &secure];
            let more = ["--ca-dir", &folder, "--admin-port", &port];
            let bootstrap = run("sidegate", [flags.as_slice(), &more].concat()).await;
            assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
            sidecars.push(meshed::sidecar(sandbox, pod, &bootstrap.out, &port));
        }
        let mesh = Self { bad, good, _app: app, control, plane, folder, sidecars };
        for pod in [&mesh.bad, &mesh.good] {
            meshed::serves(pod, "app").await;
        }
        mesh
    }

    async fn revoke(&self, more: &[&str]) -> Finished {
        let admin = self.plane.to_string();
        run("sidegate", [["revoke", "--ca-dir", &self.folder, "--admin", &admin].as_slice(), more].concat())
            .await
    }

    /// The serial number of the certificate by which a Pod's sidecar is connected.
    async fn serial(&self, pod: &Pod) -> String {
        wait::until("a certificate in /status", async || {
            let status: Value = serde_json::from_str(&meshed::page(self.plane, "/status").await?).ok()?;
            let proxies = status["proxies"].as_array()?;
            let proxy = proxies.iter().find(|proxy| proxy["name"] == pod.name)?;
            Some(proxy["certificate"]["serial"].as_str()?.to_owned())
        })
        .await
    }

    /// How many connections the app's sidecar has ended because of who they were from.
    async fn ended(&self) -> f64 {
        let page = meshed::page(self.sidecars[2].1, "/stats/prometheus").await.expect("a page");
        let lines = page.lines().filter(|line| line.starts_with("envoy_listener_ssl_peer_revoked"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

async fn refused(pod: &Pod) {
    wait::until(&format!("{} is refused", pod.name), async || {
        let answer = client::try_call(pod.outbound, &to("app.shop")).await.ok()?;
        // The connection that it had answers for a moment still, with 403.
        (answer.status == 502).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c13_a_certificate_is_revoked_by_command_and_others_serve_on() {
    let sandbox = Sandbox::new();
    let mesh = Mesh::start(&sandbox).await;
    let serial = mesh.serial(&mesh.bad).await;
    let unknown = mesh.revoke(&["--serial", "4a4a"]).await;
    assert_eq!((unknown.code, unknown.err.lines().count()), (Some(1), 1), "{unknown:?}");
    assert!(unknown.err.contains("--force"), "{unknown:?}");
    let load = Load::start(mesh.good.outbound, 50, to("app.shop"));
    assert_eq!(client::call(mesh.bad.outbound, &to("app.shop")).await.status, 200);
    assert_eq!(mesh.ended().await, 0.0);

    // Without its token it has nothing to come back with.
    let (token, away) = (format!("{}/tokens/shop.bad.token", mesh.folder), sandbox.path().join("bad.token"));
    std::fs::rename(&token, &away).unwrap();
    let done = mesh.revoke(&["--serial", &serial.to_uppercase(), "--reason", "key-compromise"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    // The connection that stood between the two sidecars, and the next one.
    wait::until("its connection ended", async || (mesh.ended().await >= 1.0).then_some(())).await;
    refused(&mesh.bad).await;
    // It renews nothing: the control plane's port does not even let it in.
    wait::until("the control plane refuses it", async || {
        mesh.control.log().contains("the client certificate was revoked").then_some(())
    })
    .await;
    let listed = mesh.revoke(&["--list"]).await;
    let line = listed.out.lines().find(|line| line.contains(&serial)).expect("the serial number is listed");
    assert!(line.contains("spiffe://cluster.local/ns/shop/sa/bad key-compromise"), "{line}");
    let ledger = std::fs::read_to_string(format!("{}/leaves.jsonl", mesh.folder)).unwrap();
    assert!(ledger.lines().any(|line| line.contains("revoked") && line.contains(&serial)), "{ledger}");
    let status = run("sidegate", ["status", "--address", &mesh.plane.to_string()]).await;
    assert!(status.out.contains("1 certificates are revoked"), "{status:?}");

    // With its token it gets another one, at once.
    std::fs::rename(&away, &token).unwrap();
    meshed::serves(&mesh.bad, "app").await;
    assert_ne!(mesh.serial(&mesh.bad).await, serial);
    load.more(20).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    assert!(mesh.control.log().contains("revoked a certificate"));
}

#[tokio::test]
async fn c13_an_identity_is_denied_by_command_and_let_in_again() {
    let sandbox = Sandbox::new();
    let mesh = Mesh::start(&sandbox).await;
    let bad = "spiffe://cluster.local/ns/shop/sa/bad";
    let nobody = mesh.revoke(&["--id", "bad"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    let done = mesh.revoke(&["--id", bad]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    refused(&mesh.bad).await;
    meshed::serves(&mesh.good, "app").await;
    let undone = mesh.revoke(&["--id", bad, "--undo"]).await;
    assert_eq!(undone.code, Some(0), "{undone:?}");
    meshed::serves(&mesh.bad, "app").await;
    let other = Sandbox::new();
    let elsewhere = other.path().display().to_string();
    let admin = mesh.plane.to_string();
    let cannot = run("sidegate", ["revoke", "--list", "--ca-dir", &elsewhere, "--admin", &admin]).await;
    assert_eq!(cannot.code, Some(2), "{cannot:?}");
}
