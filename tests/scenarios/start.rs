//! What ends before it serves, and what it says: one clear line, and the right code.

use std::path::Path;

use sidegate_tests::control::ControlPlane;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::manifests::gateway;
use sidegate_tests::process::run;
use sidegate_tests::sandbox::{Sandbox, address};

/// The examples that come with the source.
fn shop() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop").display().to_string()
}

#[tokio::test]
async fn every_mistake_of_a_bootstrap_is_told_at_once() {
    let sandbox = Sandbox::new();
    let text = "
node: {idd: x}
static_resources:
  clusters:
  - {name: app, connect_timeout: soon}
  - {name: web, lb_policy: FASTEST}
";
    let config = sandbox.write("bootstrap.yaml", text).display().to_string();
    for mode in ["serve", "validate"] {
        let finished = run("sidegate-proxy", ["-c", &config, "--mode", mode]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        for path in [
            "node.idd",
            "static_resources.clusters[0].connect_timeout",
            "static_resources.clusters[1].lb_policy",
        ] {
            assert!(finished.err.contains(path), "{path} is not told: {}", finished.err);
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_code_2() {
    let sandbox = Sandbox::new();
    let proxy = Gateway::new().start(&sandbox).await;
    let config = Gateway::new().bootstrap(proxy.address, None).to_string();
    let second = run("sidegate-proxy", ["--config-yaml", &config]).await;
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.err.contains(&proxy.address.to_string()), "{second:?}");

    let free = address();
    let config = Gateway::new().bootstrap(free, Some(proxy.address)).to_string();
    let third = run("sidegate-proxy", ["--config-yaml", &config]).await;
    assert_eq!(third.code, Some(2), "{third:?}");
    assert!(third.err.contains(&proxy.address.to_string()), "the admin port is taken: {third:?}");

    let control = ControlPlane::start(&sandbox, &[("gateway.yaml", gateway(address()))]).await;
    let second = run("sidegate", control.flags()).await;
    assert_eq!(second.code, Some(2), "{second:?}");
    let said: Vec<&str> = second.err.lines().filter(|line| line.starts_with("sidegate:")).collect();
    assert!(said.len() == 1 && said[0].contains(&control.xds.to_string()), "{second:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_code_2() {
    let missing = "/nowhere/at/all";
    let (xds, admin) = (address().to_string(), address().to_string());
    let serve =
        ["serve", "--manifests", missing, "--xds-address", &xds, "--admin-address", &admin, "--no-ca"];
    for arguments in [serve.to_vec(), vec!["validate", missing]] {
        let finished = run("sidegate", &arguments).await;
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.err.contains(missing), "{finished:?}");
    }
    let finished = run("sidegate-proxy", ["-c", missing]).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains(missing), "{finished:?}");
    let nobody = format!("http://{}", address());
    let finished = run("sidegate", ["status", "--address", &nobody]).await;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains(&nobody), "{finished:?}");
}

#[tokio::test]
async fn the_examples_are_valid_and_a_mistake_in_them_is_found() {
    let finished = run("sidegate", ["validate", &shop()]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");

    let sandbox = Sandbox::new();
    let source = std::fs::read_to_string(Path::new(&shop()).join("web.yaml")).unwrap();
    sandbox.write("web.yaml", &source.replace("targetPort", "targetPrt"));
    let finished = run("sidegate", ["validate", &sandbox.path().display().to_string()]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let said = format!("{}{}", finished.out, finished.err);
    assert!(said.contains("targetPrt") && said.contains("web.yaml"), "{said}");
}

#[tokio::test]
async fn what_has_no_effect_is_told() {
    let gateway = Gateway::new()
        .cluster_with("app", &[address()], "{circuit_breakers: {thresholds: [{}, {priority: HIGH}]}}")
        .routes("[{match: {prefix: /}, route: {cluster: app, priority: HIGH}}]")
        .http("{proxy_100_continue: true}")
        .listener("{drain_type: MODIFY_ONLY}");
    let config = gateway.bootstrap(address(), None).to_string();
    let checked = run("sidegate-proxy", ["--mode", "validate", "--config-yaml", &config]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for field in [
        "circuit_breakers.thresholds of priority HIGH",
        "route.priority: HIGH",
        "proxy_100_continue",
        "drain_type",
    ] {
        let line = format!("{field}: has no effect in this proxy");
        assert!(
            checked.err.lines().any(|said| said.contains("warning: ") && said.ends_with(&line)),
            "{checked:?}"
        );
    }
}
