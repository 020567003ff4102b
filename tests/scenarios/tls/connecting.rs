//! Connections that take longer than requests have patience: none is thrown away half-done, and none is made in vain (D8, D11).

use sidegate_tests::client::Http1;
use sidegate_tests::held::Held;
use sidegate_tests::message::Call;
use sidegate_tests::origin::Gate;
use sidegate_tests::resources::Usage;
use sidegate_tests::wait;
use tokio::task::JoinSet;

use super::*;

/// Requests at once.
const CLIENTS: usize = 4;

/// An origin behind TLS whose handshakes begin when the gate is opened, and what asks it with little patience.
struct Slow {
    proxy: Proxy,
    held: Held,
    gate: Gate,
    /// What is behind the gate.
    _inner: Proxy,
    _origin: Origin,
}

impl Slow {
    /// Through a cluster with these fields beside its TLS.
    async fn start(sandbox: &Sandbox, fields: Value) -> Self {
        Self::wrapped(sandbox, fields, |socket| socket).await
    }

    async fn wrapped(sandbox: &Sandbox, fields: Value, wrap: impl FnOnce(Value) -> Value) -> Self {
        let authority = Authority::new("one");
        let pair = authority.issue(&Leaf::dns(&["app.test"]));
        let origin = Origin::named("app").await;
        let inner = Gateway::to(&[origin.address()]).tls(showing(&[&pair])).start(sandbox).await;
        let gate = Gate::new();
        let held = Held::start(inner.address, &gate).await;
        let mut cluster = sidegate_tests::gateway::yaml(&trusting(&authority, json!({"sni": "app.test"})));
        cluster["transport_socket"] = wrap(cluster["transport_socket"].take());
        merge(&mut cluster, fields);
        let proxy = Gateway::new()
            .cluster_with("app", &[held.address()], &cluster.to_string())
            .routes("[{match: {prefix: /}, route: {cluster: app, timeout: 1s}}]")
            .with_admin()
            .start(sandbox)
            .await;
        Self { proxy, held, gate, _inner: inner, _origin: origin }
    }

    async fn stat(&self, name: &str) -> u64 {
        self.proxy.stat(&format!("cluster.app.{name}")).await
    }

    /// Each client asks so many times, one after the other: every status.
    async fn ask(&self, times: usize) -> Vec<u16> {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let address = self.proxy.address;
            clients.spawn(async move {
                let mut client = Http1::connect(address).await.expect("the proxy listens");
                let mut statuses = Vec::new();
                for _ in 0..times {
                    statuses.push(client.call(&Call::get("/")).await.expect("an answer").status);
                }
                statuses
            });
        }
        wait::within("all answers", clients.join_all()).await.into_iter().flatten().collect()
    }
}

/// The handshakes that an origin sees, and that every request is served once they have come to an end.
async fn late_connections_serve(fields: Value, most: usize) {
    let sandbox = Sandbox::new();
    let slow = Slow::start(&sandbox, fields).await;
    let statuses = slow.ask(3).await;
    assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
    assert_eq!(slow.held.taken(), most, "no more attempts than requests that waited at once");
    assert_eq!(slow.stat("upstream_rq_pending_active").await, 0, "nobody is left in the line");
    slow.gate.open();
    wait::until_equal("connections", most as u64, async || slow.stat("upstream_cx_active").await).await;
    let statuses = slow.ask(20).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(slow.held.taken(), most);
    assert_eq!(slow.stat("upstream_cx_total").await, most as u64);
    assert_eq!(slow.stat("upstream_cx_connect_fail").await, 0);
}

#[tokio::test]
async fn d11_connections_that_come_late_serve_the_next_requests_over_http1() {
    late_connections_serve(json!({"connect_timeout": "30s"}), CLIENTS).await;
}

#[tokio::test]
async fn d11_connections_that_come_late_serve_the_next_requests_over_http2() {
    late_connections_serve(json!({"connect_timeout": "30s", "http2_protocol_options": {}}), 1).await;
}

#[tokio::test]
async fn d11_an_attempt_that_everybody_left_keeps_its_place_among_the_connections() {
    let sandbox = Sandbox::new();
    let limits =
        json!({"connect_timeout": "30s", "circuit_breakers": {"thresholds": [{"max_connections": 1}]}});
    let slow = Slow::start(&sandbox, limits).await;
    let statuses = slow.ask(2).await;
    assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
    assert_eq!(slow.held.taken(), 1);
    slow.gate.open();
    wait::until_equal("connections", 1, async || slow.stat("upstream_cx_active").await).await;
    let statuses = slow.ask(10).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(slow.held.taken(), 1);
}

#[tokio::test]
async fn attempts_end_by_connect_timeout_and_leave_nothing_behind() {
    for http2 in [false, true] {
        let sandbox = Sandbox::new();
        let mut fields = json!({"connect_timeout": "3s"});
        if http2 {
            merge(&mut fields, json!({"http2_protocol_options": {}}));
        }
        let slow = Slow::start(&sandbox, fields).await;
        let before = Usage::of(slow.proxy.process.id()).descriptors;
        let statuses = slow.ask(1).await;
        assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
        let attempts = slow.held.taken();
        assert_eq!(attempts, if http2 { 1 } else { CLIENTS });
        wait::until_equal("attempts that were not in time", attempts as u64, async || {
            slow.stat("upstream_cx_connect_timeout").await
        })
        .await;
        wait::until_equal("connections at the origin", 0, async || slow.held.open()).await;
        assert_eq!(slow.stat("upstream_cx_connect_fail").await, attempts as u64, "once for each attempt");
        assert_eq!(slow.stat("upstream_cx_total").await, 0);
        wait::until("descriptors as before", async || {
            (Usage::of(slow.proxy.process.id()).descriptors <= before).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn attempts_end_with_their_endpoint() {
    for http2 in [false, true] {
        let sandbox = Sandbox::new();
        let mut fields = json!({"connect_timeout": "300s"});
        if http2 {
            merge(&mut fields, json!({"http2_protocol_options": {}}));
        }
        // What is introduced by a PROXY header is an endpoint of one client's own, and gone with it.
        let slow = Slow::wrapped(&sandbox, fields, |inner| {
            let kind = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
            let name = "envoy.transport_sockets.upstream_proxy_protocol";
            typed(name, kind, json!({"config": {"version": "V1"}, "transport_socket": inner}))
        })
        .await;
        assert_eq!(slow.proxy.get("/").await.status, 504);
        assert_eq!(slow.held.taken(), 1);
        wait::until_equal("connections at the origin", 0, async || slow.held.open()).await;
        assert_eq!(slow.stat("upstream_cx_connect_fail").await, 0, "nobody failed");
    }
}

#[tokio::test]
async fn c13_attempts_end_with_the_credentials_they_were_begun_by() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let server = authority.issue(&Leaf::dns(&["app.test"]));
    let origin = secure::Origin::start("app", &server, None).await;
    let gate = Gate::new();
    let held = Held::start(origin.address(), &gate).await;
    let list = sandbox.write("crl.pem", &authority.revoke(&[]));
    let context =
        json!({"sni": "app.test", "common_tls_context": {"validation_context": {"crl": {"filename": list}}}});
    let mut cluster = sidegate_tests::gateway::yaml(&trusting(&authority, context));
    merge(&mut cluster, json!({"connect_timeout": "300s"}));
    let proxy = Gateway::new()
        .cluster_with("app", &[held.address()], &cluster.to_string())
        .routes("[{match: {prefix: /}, route: {cluster: app, timeout: 1s}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    assert_eq!(proxy.get("/").await.status, 504);
    assert_eq!((held.taken(), held.open()), (1, 1));
    sandbox.write("crl.pem", &authority.revoke(&[&authority.issue(&Leaf::dns(&["other.test"]))]));
    wait::until_equal("attempts under the old list", 0, async || held.open()).await;
    gate.open();
    assert_eq!(
        wait::until("an answer", async || {
            let response = proxy.get("/").await;
            (response.status == 200).then(|| response.text())
        })
        .await,
        "app"
    );
}
