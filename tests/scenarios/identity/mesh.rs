//! Proxy and control plane of ours, together: certificate, stream and roots, through a rotation of the root.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::load::Load;
use sidegate_tests::manifests::{gateway, route, service};
use sidegate_tests::message::Call;
use sidegate_tests::process::{Process, program, run};
use sidegate_tests::sandbox::{address, local_port};

use super::meshed::page;
use super::*;

#[allow(clippy::too_many_lines, reason = "one story, read from top to bottom")]
#[tokio::test]
async fn c10_a_root_is_rotated_under_a_proxy_that_serves() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let (listener, plain, secure, plane) = (address(), address(), address(), address());
    let folder = sandbox.path().join("manifests");
    std::fs::create_dir(&folder).unwrap();
    let rules = "[{backendRefs: [{name: app, port: 80}]}]";
    for (name, text) in [
        ("gateway.yaml", gateway(listener)),
        ("app.yaml", service("app", &[origin.address()])),
        ("routes.yaml", route("main", "[shop.test]", rules)),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let manifests = folder.display().to_string();
    let authority = sandbox.path().join("ca").display().to_string();
    let (plain, secure_address, plane_address) = (plain.to_string(), secure.to_string(), plane.to_string());
    let flags = [
        ["serve", "--manifests"].as_slice(),
        &[&manifests, "--ca-dir", &authority, "--xds-address", &plain],
        &["--secure-xds-address", &secure_address, "--admin-address", &plane_address],
        &["--leaf-ttl", "30s", "--rotation-hold", "1", "--rotation-grace", "1"],
    ]
    .concat();
    let _control = Process::start(&sandbox, "control-plane", &program("sidegate"), flags);
    wait::until("the control plane", async || page(plane, "/status").await).await;
    let port = local_port();
    let target = [
        "bootstrap",
        "gateway",
        "shop/public",
        "--xds",
        &secure_address,
        "--ca-dir",
        &authority,
        "--admin-port",
    ];
    let bootstrap = run("sidegate", [target.as_slice(), &[&port.to_string()]].concat()).await;
    assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
    let config = sandbox.write("proxy.yaml", &bootstrap.out).display().to_string();
    let proxy =
        Process::start(&sandbox, "proxy", &program("sidegate-proxy"), ["-c", &config, "--concurrency", "1"]);
    let call = Call::get("/").host("shop.test");
    wait::until("an answer", async || {
        (client::try_call(listener, &call).await.ok()?.status == 200).then_some(())
    })
    .await;
    let admin: SocketAddr = ([127, 0, 0, 1], port).into();
    let identity = async || -> Option<Value> {
        let certs: Value = serde_json::from_str(&page(admin, "/certs").await?).ok()?;
        certs["certificates"].as_array()?.last().cloned()
    };
    let before = identity().await.unwrap();
    let root = |identity: &Value| identity["ca_cert"][0]["serial_number"].clone();
    assert_eq!(
        before["cert_chain"][0]["subject_alt_names"][0]["uri"],
        "spiffe://cluster.local/ns/shop/sa/public"
    );

    let load = Load::start(listener, 50, call);
    let rotate = ["rotate-root", "--ca-dir", &authority, "--admin", &plane_address];
    let mut rotation = Process::start(&sandbox, "rotation", &program("sidegate"), rotate);
    // The gates open as the proxy confirms: it trusts the new root, then has a certificate of it; then the old one goes.
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(90), rotation.wait())
            .await
            .expect("an end of the rotation")
            .code(),
        Some(0),
        "{}",
        rotation.log()
    );
    wait::until("the new root alone", async || {
        let now = identity().await?;
        (root(&now) != root(&before) && now["cert_chain"] != before["cert_chain"]).then_some(())
    })
    .await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    let log = proxy.log();
    assert!(log.contains("another root signs now"), "{log}");
    assert_eq!(page(admin, "/ready").await.as_deref(), Some("LIVE\n"));
}
