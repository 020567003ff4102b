//! What a control plane pushes holds from its acknowledgement on (F11).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sidegate_tests::ads::Ads;
use sidegate_tests::process::{Process, program};
use sidegate_tests::sandbox::address;

use super::*;

/// The listener of a gateway with these HTTP and network filters.
fn listener(gateway: &Gateway, at: std::net::SocketAddr, http: &[Value], network: &[Value]) -> Value {
    let mut bootstrap = gateway.clone().http(&filters(http)).bootstrap(at, None);
    let mut listener = bootstrap["static_resources"]["listeners"][0].take();
    let chain = &mut listener["filter_chains"][0];
    let manager = chain["filters"][0].take();
    chain["filters"] = network.iter().cloned().chain([manager]).collect();
    listener
}

/// Clients that ask without pause, and how many were let through although they asked after the acknowledgement.
async fn f11_nobody_is_let_through_after_the_acknowledgement(http: &[Value], network: &[Value]) {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let gateway = Gateway::to(&[origin.address()]);
    let at = address();
    let ads = Ads::start(&[listener(&gateway, at, &[], &[])]).await;
    let mut bootstrap = gateway.bootstrap(at, None);
    bootstrap["static_resources"]["listeners"] = json!([]);
    let config = sandbox.write("ads.json", &ads.bootstrap(bootstrap).to_string());
    let flags = ["-c".to_owned(), config.display().to_string(), "--concurrency".to_owned(), "2".to_owned()];
    let _proxy = Process::start(&sandbox, "proxy", &program("sidegate-proxy"), flags);
    ads.accepted(1).await;
    wait::until("it listens", async || tokio::net::TcpStream::connect(at).await.ok()).await;
    let (before, after, late) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (said, before, after, late) = (ads.said(), before.clone(), after.clone(), late.clone());
        clients.spawn(async move {
            let mut kept = None;
            loop {
                let acknowledged = said.borrow().accepted >= 2;
                // Half of the clients keep their connections.
                let mut client = match kept.take() {
                    Some(client) => client,
                    None => match Http1::connect(at).await {
                        Ok(client) => client,
                        Err(_) => continue,
                    },
                };
                let status = client.call(&Call::get("/")).await.map_or(0, |response| response.status);
                match (acknowledged, status) {
                    (false, _) => before.fetch_add(1, Ordering::Relaxed),
                    (true, 200) => late.fetch_add(1, Ordering::Relaxed),
                    (true, _) => after.fetch_add(1, Ordering::Relaxed),
                };
                if number % 2 == 0 && client.is_reusable() && status != 0 {
                    kept = Some(client);
                }
            }
        });
    }
    let many = |counter: &Arc<AtomicUsize>| {
        let counter = counter.clone();
        async move {
            wait::until("requests", async || (counter.load(Ordering::Relaxed) >= 200).then_some(())).await
        }
    };
    many(&before).await;
    let version = ads.push(&[listener(&gateway, at, http, network)]);
    ads.accepted(version).await;
    many(&after).await;
    clients.abort_all();
    assert_eq!(late.load(Ordering::Relaxed), 0, "let through after the acknowledgement");
}

#[tokio::test]
async fn f11_http_rules_hold_from_their_acknowledgement_on() {
    let deny = rules("DENY", "p", any(), any());
    f11_nobody_is_let_through_after_the_acknowledgement(&[http_filter(json!({"rules": deny}))], &[]).await;
}

#[tokio::test]
async fn f11_network_rules_hold_for_connections_that_are_there_already() {
    let deny = rules("DENY", "p", any(), any());
    f11_nobody_is_let_through_after_the_acknowledgement(&[], &[network_filter(deny)]).await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_and_what_holds_goes_on() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let gateway = Gateway::to(&[origin.address()]);
    let at = address();
    let deny = http_filter(json!({"rules": rules("DENY", "p", path_prefix("/no"), any())}));
    let ads = Ads::start(&[listener(&gateway, at, std::slice::from_ref(&deny), &[])]).await;
    let mut bootstrap = gateway.bootstrap(at, None);
    bootstrap["static_resources"]["listeners"] = json!([]);
    let config = sandbox.write("ads.json", &ads.bootstrap(bootstrap).to_string());
    let flags = ["-c".to_owned(), config.display().to_string()];
    let _proxy = Process::start(&sandbox, "proxy", &program("sidegate-proxy"), flags);
    ads.accepted(1).await;
    let unknown =
        rules("DENY", "p", any(), json!({"filter_state": {"key": "x", "string_match": {"exact": "y"}}}));
    let version = ads.push(&[listener(&gateway, at, &[http_filter(json!({"rules": unknown}))], &[])]);
    let refusal = ads.refused(version).await;
    assert!(refusal.contains("filter_state: is not supported yet"), "{refusal}");
    wait::until("it listens", async || tokio::net::TcpStream::connect(at).await.ok()).await;
    assert_eq!(sidegate_tests::client::call(at, &Call::get("/no")).await.status, 403);
    assert_eq!(sidegate_tests::client::call(at, &Call::get("/yes")).await.status, 200);
}
