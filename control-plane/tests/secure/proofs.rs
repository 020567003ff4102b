//! Honest callers: token, certificate, xDS, renewal, and what people see of it.

use serde_json::Value;

use crate::plane::{Leaf, Plane, gateway, pod, request, sidegate};

#[tokio::test]
async fn a_token_buys_a_certificate_and_the_certificate_buys_everything_else() {
    let plane = Plane::start(&[]);
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let token = plane.token("web", &["--ttl", "60s"]);
    let (message, key) = request(&[web]);
    let chain = plane.certificate(None, Some(&token), message).await.unwrap();
    let first = Leaf::new(&chain, key);

    let mut open = plane.stream(Some(&first), None, pod("web-1")).await.unwrap();
    open.hear().await.unwrap();
    let status: Value = serde_json::from_slice(&{
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"))
            .args(["status", "-o", "json", "--address", &plane.admin.to_string()])
            .output()
            .unwrap();
        output.stdout
    })
    .unwrap();
    let proxy = &status["proxies"][0];
    assert_eq!((&proxy["identity"], &proxy["name"]), (&web.into(), &"web-1".into()));
    let left = proxy["certificate"]["expires_seconds"].as_i64().unwrap();
    assert!((86_000..=86_400).contains(&left), "{proxy}");
    assert_eq!(proxy["certificate"]["renewed"], false);
    let metrics = plane.page("/metrics");
    let expiry = metrics
        .lines()
        .find_map(|line| line.strip_prefix("sidegate_earliest_certificate_expiry_timestamp_seconds "))
        .unwrap();
    assert!(expiry.parse::<u64>().unwrap() > 1_700_000_000, "{expiry}");

    // Renewal by the certificate alone; the stream that it was for is told of.
    let (message, key) = request(&[]);
    let chain = plane.certificate(Some(&first), None, message).await.unwrap();
    let second = Leaf::new(&chain, key);
    assert_ne!(first.chain[0], second.chain[0]);
    let page = plane.page("/status");
    let report: Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(report["proxies"][0]["certificate"]["renewed"], true);
    plane.stream(Some(&second), None, pod("web-1")).await.unwrap().hear().await.unwrap();
}

#[tokio::test]
async fn a_gateway_speaks_as_the_account_of_its_annotation() {
    let plane = Plane::start(&[]);
    let edge = plane.leaf("edge").await;
    let listeners = plane.stream(Some(&edge), None, gateway()).await.unwrap().hear().await.unwrap();
    assert_eq!(listeners.resources[0].name, "shop/public/8080");
    let own_name = plane.leaf("public").await;
    assert!(plane.stream(Some(&own_name), None, gateway()).await.unwrap().hear().await.is_err());
}

#[test]
fn a_bootstrap_names_files_that_are_there() {
    let plane = Plane::start(&[]);
    let flags = ["bootstrap", "gateway", "shop/public", "--service-account", "edge", "--format", "json"];
    let output = sidegate(&flags, &plane.ca());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bootstrap: Value = serde_json::from_slice(&output.stdout).unwrap();
    let identity = &bootstrap["node"]["metadata"]["SIDEGATE_IDENTITY"];
    for file in ["root_file", "token_file"] {
        let path = identity[file].as_str().unwrap();
        assert!(!std::fs::read(path).unwrap().is_empty(), "{path}");
    }
}

#[test]
fn a_real_envoy_takes_every_form_of_the_bootstrap() {
    let Some(envoy) = std::env::var_os("SIDEGATE_TEST_ENVOY") else {
        assert!(std::env::var_os("CI").is_none(), "a CI must test against Envoy");
        eprintln!("SKIPPED: SIDEGATE_TEST_ENVOY is not set, so nothing is tested against Envoy");
        return;
    };
    let plane = Plane::start(&[]);
    let socket = plane.folder.path().join("sds").display().to_string();
    for (name, flags) in [
        ("plaintext", vec!["--plaintext"]),
        ("token", vec![]),
        ("agent", vec!["--foreign", "--sds-socket", &socket]),
    ] {
        let mut all = vec!["bootstrap", "sidecar", "shop/web-1", "--service-account", "web"];
        if name == "plaintext" {
            all.truncate(3);
        }
        all.extend(flags);
        let output = sidegate(&all, &plane.ca());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = plane.folder.path().join(format!("{name}.yaml"));
        std::fs::write(&file, output.stdout).unwrap();
        let validated = std::process::Command::new(&envoy)
            .args(["--mode", "validate", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(validated.status.success(), "{name}: {}", String::from_utf8_lossy(&validated.stderr));
    }
}
