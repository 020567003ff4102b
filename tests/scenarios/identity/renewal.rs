//! Getting a certificate and keeping it: authorities that work, that fail, that are gone, that lie.

use std::collections::BTreeSet;

use sidegate_tests::load::Load;
use sidegate_tests::message::Call;
use sidegate_tests::process::run;

use super::*;

#[tokio::test]
async fn c10_a_leaf_that_lives_for_seconds_is_rotated_under_load_without_loss() {
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    let origin = Origin::named("app").await;
    let server = Gateway::to(&[origin.address()])
        .tls(mutual(&[&issuer.authority()]))
        .metadata(issuer.identity(&back))
        .with_admin()
        .start(&back)
        .await;
    let sidecar = Gateway::new()
        .cluster_with("app", &[server.address], &towards(&issuer))
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .metadata(issuer.identity(&front))
        .with_admin()
        .start(&front)
        .await;
    wait::until("the mesh serves", async || (sidecar.get("/").await.status == 200).then_some(())).await;
    let load = Load::start(sidecar.address, 150, Call::get("/"));
    // Handshake after handshake beside it, half of them anew, half resumed.
    let authority = issuer.authority();
    let resuming = client(&authority);
    let (mut leaves, mut handshakes) = (BTreeSet::new(), 0);
    let begun = tokio::time::Instant::now();
    while leaves.len() < 5 {
        for client in [&client(&authority), &resuming] {
            let mut connection = client.connect(server.address, HOST).await.expect("a handshake");
            assert!(connection.get(HOST, "/").await.expect("an answer").ends_with("app"));
            leaves.insert(connection.certificate().as_ref().to_vec());
            handshakes += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{} leaves in a minute", leaves.len());
    }
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    assert!(counts.good > 500 && handshakes > 50, "{} requests, {handshakes} handshakes", counts.good);
    for proxy in [&server, &sidecar] {
        assert!(sample(proxy, r#"sidegate_identity_renewals_total{result="ok"}"#).await >= 4.0);
        for (_, failed) in [("a", "unreachable"), ("b", "refused"), ("c", "bad_answer"), ("d", "timeout")] {
            let name = format!(r#"sidegate_identity_renewals_total{{result="{failed}"}}"#);
            assert_eq!(sample(proxy, &name).await, 0.0, "{name}");
        }
    }
    // The token proved each proxy once; from then on its certificate did.
    let asked = issuer.asked();
    assert_eq!(asked.iter().filter(|asked| asked.token.is_some()).count(), 2, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.token.is_some() != asked.certificate && asked.validity == 86_400));
    // No key and no token in any log or page.
    for proxy in [&server, &sidecar] {
        let dump = proxy.admin("/config_dump").await.text();
        let certs = proxy.admin("/certs").await.text();
        for text in [proxy.process.log(), dump, certs.clone()] {
            assert!(!text.contains("PRIVATE KEY") && !text.contains(TOKEN));
        }
        assert!(certs.contains("the proxy's own identity") && certs.contains(WEB), "{certs}");
    }
}

#[tokio::test]
async fn c10_past_expiry_it_fails_closed_and_recovers() {
    let (front, back) = (Sandbox::new(), Sandbox::new());
    let mut issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    let server = greeting(&issuer, &back).start(&back).await;
    let sidecar = Gateway::new()
        .cluster_with("app", &[server.address], &towards(&issuer))
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .metadata(issuer.identity(&front))
        .with_admin()
        .start(&front)
        .await;
    let client = client(&issuer.authority());
    assert!(client.get(server.address, HOST, "/").await.unwrap().ends_with("hello"));
    wait::until("the mesh serves", async || (sidecar.get("/").await.status == 200).then_some(())).await;
    let mut standing = client.connect(server.address, HOST).await.unwrap();

    issuer.stop();
    let text = not_ready_says(&server, "the proxy's certificate expired at").await;
    assert!(text.contains(&issuer.address.to_string()), "{text}");
    not_ready_says(&sidecar, "the proxy's certificate expired at").await;
    // As server: neither anew nor resumed.
    let refused = client.get(server.address, HOST, "/").await;
    assert!(refused.is_err(), "{refused:?}");
    // As client: not even over a connection that is there.
    let answer = sidecar.get("/").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    // What stands, stands.
    assert!(standing.get(HOST, "/").await.unwrap().ends_with("hello"));
    for proxy in [&server, &sidecar] {
        let log = proxy.process.log();
        let place = |words: &str| log.find(words).unwrap_or_else(|| panic!("no {words:?} in\n{log}"));
        assert!(
            place("will expire and could not be renewed yet") < place("has expired and could not be renewed")
        );
        assert_eq!(sample(proxy, "sidegate_identity_expiry_seconds").await, 0.0);
        assert!(sample(proxy, r#"sidegate_identity_renewals_total{result="unreachable"}"#).await > 0.0);
    }

    issuer.start_again().await;
    wait::until("the mesh serves again", async || (sidecar.get("/").await.status == 200).then_some(())).await;
    assert!(client.get(server.address, HOST, "/").await.unwrap().ends_with("hello"));
    assert_eq!(server.admin("/ready").await.status, 200);
    assert!(sample(&server, "sidegate_identity_expiry_seconds").await > 1e9);
}

#[tokio::test]
async fn c10_a_token_is_read_again_and_needed_once() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    issuer.script(|script| script.token = Some("yesterdays".to_owned()));
    let gateway = greeting(&issuer, &sandbox);
    issuer.script(|script| script.token = Some("todays".to_owned()));
    let proxy = gateway.start_unready(&sandbox);
    let text = not_ready_says(&proxy, "Unauthenticated").await;
    assert!(text.contains("waiting for a certificate from") && text.contains("token_file"), "{text}");
    assert!(!text.contains("yesterdays"), "{text}");
    std::fs::remove_file(sandbox.path().join("token")).unwrap();
    not_ready_says(&proxy, "token_file: cannot read").await;
    sandbox.write("token", "todays\n");
    wait::until("a certificate", async || (proxy.try_admin("/ready").await?.status == 200).then_some(()))
        .await;
    // From now on it proves itself.
    std::fs::remove_file(sandbox.path().join("token")).unwrap();
    wait::until("renewals by the certificate", async || {
        let by_certificate =
            |asked: &&sidegate_tests::issuer::Asked| asked.certificate && asked.token.is_none();
        (issuer.asked().iter().filter(by_certificate).count() >= 2).then_some(())
    })
    .await;
    assert_eq!(proxy.admin("/ready").await.status, 200);
}

#[tokio::test]
async fn c10_an_authority_that_believes_tokens_only_gets_one() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(6)).await;
    issuer.script(|script| script.certificates = false);
    let proxy = greeting(&issuer, &sandbox).start(&sandbox).await;
    wait::until("renewals", async || {
        (sample(&proxy, r#"sidegate_identity_renewals_total{result="ok"}"#).await >= 3.0).then_some(())
    })
    .await;
    assert_eq!(proxy.admin("/ready").await.status, 200);
}

#[tokio::test]
async fn c10_wrong_answers_are_refused_by_name() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(60)).await;
    issuer.script(|script| script.answer = Answer::OtherKey);
    let proxy = greeting(&issuer, &sandbox).start_unready(&sandbox);
    not_ready_says(&proxy, "is not the key of the certificate").await;
    let two = vec![WEB.to_owned(), "spiffe://td/ns/shop/sa/admin".to_owned()];
    for (answer, words) in [
        (Answer::For(two), "has 2 URIs where exactly one is an identity"),
        (Answer::For(vec!["spiffe://td".to_owned()]), "has a path after the trust domain"),
        (Answer::Stranger, "compare root_file"),
        (Answer::Refuse, "PermissionDenied: not you"),
        (Answer::Huge, "too large"),
    ] {
        issuer.script(|script| script.answer = answer);
        not_ready_says(&proxy, words).await;
    }
    assert!(tokio::net::TcpStream::connect(proxy.address).await.is_err(), "nothing is served without it");
    issuer.script(|script| script.answer = Answer::Good);
    let client = client(&issuer.authority());
    wait::until("a handshake", async || client.get(proxy.address, HOST, "/").await.ok()).await;
    let failures = sample(&proxy, r#"sidegate_identity_renewals_total{result="bad_answer"}"#).await;
    assert!(failures >= 4.0, "{failures}");
}

#[tokio::test]
async fn c10_who_answers_at_the_authoritys_address_must_be_vouched_for() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(60)).await;
    let gateway = greeting(&issuer, &sandbox);
    sandbox.write("root.pem", &Authority::new("another").pem);
    let proxy = gateway.start_unready(&sandbox);
    let text = not_ready_says(&proxy, "compare root_file").await;
    assert!(text.contains(&issuer.address.to_string()), "{text}");
    assert!(issuer.asked().is_empty(), "nobody unknown is shown a token");
    // The file is read again.
    issuer.files(&sandbox);
    wait::until("a certificate", async || (proxy.try_admin("/ready").await?.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn who_asks_for_an_identity_without_one_is_told_what_to_add() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(60)).await;
    let bootstrap = |gateway: Gateway| {
        let bootstrap = gateway.bootstrap(sidegate_tests::sandbox::address(), None);
        sandbox.write("bootstrap.json", &bootstrap.to_string()).display().to_string()
    };
    let config = bootstrap(greeting(&issuer, &sandbox).metadata(json!({"NAMESPACE": "shop"})));
    let ended = run("sidegate-proxy", ["-c", &config]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("add node.metadata.SIDEGATE_IDENTITY"), "{}", ended.err);
    // A file that is missing is one line, too.
    let config = bootstrap(greeting(&issuer, &sandbox));
    std::fs::remove_file(sandbox.path().join("token")).unwrap();
    let ended = run("sidegate-proxy", ["-c", &config]).await;
    assert_eq!((ended.code, ended.err.lines().count()), (Some(1), 1), "{}", ended.err);
    assert!(ended.err.contains("node.metadata.SIDEGATE_IDENTITY.token_file: cannot read"), "{}", ended.err);
}

#[tokio::test]
async fn openssl_sees_the_chain() {
    let sandbox = Sandbox::new();
    let issuer = Issuer::start(WEB, Duration::from_secs(60)).await;
    let authority = issuer.authority();
    // Whom it trusts is asked for at the same place, as Istio's configuration does.
    let mut context = mutual(&[&authority]);
    let mut roots = own()[0].take();
    roots["name"] = json!("ROOTCA");
    context["common_tls_context"] = json!({
        "tls_certificate_sds_secret_configs": own(), "validation_context_sds_secret_config": roots,
    });
    let gateway = greeting(&issuer, &sandbox).tls(context);
    issuer.sign_with(&Arc::new(authority.below("between", |_| {})));
    let proxy = gateway.start(&sandbox).await;
    let (chain, key) = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/test")).write(&sandbox, "test");
    let command = format!(
        "printf 'GET / HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: close\\r\\n\\r\\n' | openssl s_client -connect {} -CAfile {} \
         -cert {} -key {} -verify_return_error -showcerts -ign_eof 2>&1",
        proxy.address,
        sandbox.path().join("root.pem").display(),
        chain.display(),
        key.display(),
    );
    let output = tokio::process::Command::new("sh").args(["-c", &command]).kill_on_drop(true).output();
    let output = wait::within("openssl", output).await.expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Verify return code: 0 (ok)") && text.contains("hello"), "{text}");
    let shown = text.matches("-----BEGIN CERTIFICATE-----").count();
    assert_eq!(shown, 2, "the leaf and the authority between, not the root: {text}");
}
