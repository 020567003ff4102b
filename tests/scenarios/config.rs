//! What an edit does, and what it must not do.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::control::ControlPlane;
use sidegate_tests::load::Load;
use sidegate_tests::manifests::{gateway, route, service};
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::plane::DataPlane;
use sidegate_tests::process::Process;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

/// A control plane, and our proxy as its gateway `shop/public`, in sync.
struct Edge {
    control: ControlPlane,
    proxy: Process,
    address: SocketAddr,
    /// Last, so that the logs are there until the processes have ended.
    sandbox: Sandbox,
}

impl Edge {
    async fn start(files: &[(&str, String)]) -> Self {
        let sandbox = Sandbox::new();
        let listener = address();
        let mut all = vec![("gateway.yaml", gateway(listener))];
        all.extend(files.iter().cloned());
        let control = ControlPlane::start(&sandbox, &all).await;
        let proxy = DataPlane::Sidegate.start(&sandbox, &control).await;
        control.synced(1).await;
        let edge = Self { control, proxy, address: listener, sandbox };
        wait::until("the gateway listens", async || tokio::net::TcpStream::connect(listener).await.ok())
            .await;
        edge
    }

    async fn apply(&self, file: &str, text: &str) {
        self.control.apply(file, text, 1).await;
    }

    async fn get(&self, target: &str) -> sidegate_tests::message::Response {
        client::call(self.address, &Call::get(target).host("shop.test")).await
    }

    fn load(&self) -> Load {
        Load::start(self.address, RATE, Call::get("/").host("shop.test"))
    }
}

/// A route of `shop.test` with these backends.
fn split(backends: &str) -> String {
    route("web", "[shop.test]", &format!("[{{backendRefs: {backends}}}]"))
}

fn all_to(name: &str) -> String {
    split(&format!("[{{name: {name}, port: 80}}]"))
}

#[tokio::test]
async fn an_edit_moves_the_traffic_and_fails_none() {
    let (old, new) = (Origin::named("old").await, Origin::named("new").await);
    let edge = Edge::start(&[
        ("old.yaml", service("old", &[old.address()])),
        ("new.yaml", service("new", &[new.address()])),
        ("web.yaml", all_to("old")),
    ])
    .await;
    let load = edge.load();
    load.more(50).await;
    assert_eq!(new.count(), 0);
    edge.apply("web.yaml", &split("[{name: old, port: 80, weight: 1}, {name: new, port: 80, weight: 1}]"))
        .await;
    load.more_of("new", 20).await;
    load.more_of("old", 20).await;
    edge.apply("web.yaml", &all_to("new")).await;
    let at_old = old.count();
    load.more(50).await;
    // What was on its way when the edit came may still arrive.
    assert!(old.count() - at_old <= 2, "{} came after the edit", old.count() - at_old);
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
}

#[tokio::test]
async fn endpoints_come_and_go_and_no_request_fails() {
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let edge =
        Edge::start(&[("app.yaml", service("app", &[one.address()])), ("web.yaml", all_to("app"))]).await;
    let load = edge.load();
    load.more(20).await;
    for _ in 0..5 {
        edge.apply("app.yaml", &service("app", &[one.address(), two.address()])).await;
        load.more_of("two", 5).await;
        edge.apply("app.yaml", &service("app", &[two.address()])).await;
        let at_one = one.count();
        load.more(20).await;
        assert!(one.count() - at_one <= 2, "{} came to an endpoint that was removed", one.count() - at_one);
        edge.apply("app.yaml", &service("app", &[one.address(), two.address()])).await;
        load.more_of("one", 5).await;
        edge.apply("app.yaml", &service("app", &[one.address()])).await;
    }
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
}

#[tokio::test]
async fn an_endpoint_that_dies_unannounced_fails_no_get_and_repeats_no_post() {
    let two = Origin::named("two").await;
    let rude = Origin::http1(|_: &Received| Answer::nothing()).await;
    let edge = Edge::start(&[
        ("app.yaml", service("app", &[two.address(), rude.address(), address()])),
        ("web.yaml", all_to("app")),
    ])
    .await;
    for number in 0..40 {
        let response = edge.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (200, "two"), "GET {number}: {response:?}");
    }
    for number in 0..40 {
        let id = number.to_string();
        let call = Call::post("/", "once").host("shop.test").header("x-id", &id);
        let response = client::call(edge.address, &call).await;
        let delivered = |origin: &Origin| {
            origin.received().iter().filter(|received| received.header("x-id") == Some(&id)).count()
        };
        assert_eq!(delivered(&two) + delivered(&rude), 1, "POST {number}: {response:?}");
        assert_eq!(response.status == 200, delivered(&two) == 1, "POST {number}: {response:?}");
    }
}

#[tokio::test]
async fn what_is_broken_leaves_the_last_good_form_in_force_and_is_told() {
    let app = Origin::named("app").await;
    let edge =
        Edge::start(&[("app.yaml", service("app", &[app.address()])), ("web.yaml", all_to("app"))]).await;
    let load = edge.load();
    let good = all_to("app");
    let broken = [
        ("no YAML", "kind: [HTTPRoute".to_owned(), "web.yaml"),
        // A typo takes the backends away; the last good form keeps them.
        ("unknown field", good.replace("backendRefs", "backendRef"), "backendRef"),
        ("wrong type", good.replace("port: 80", "port: eighty"), "port"),
    ];
    for (what, text, told) in broken {
        edge.control.write("web.yaml", &text);
        let finding = edge
            .control
            .until(what, |status| {
                let findings = status["findings"].as_array()?;
                findings.first().map(|finding| finding.to_string())
            })
            .await;
        assert!(finding.contains(told), "{what}: {finding}");
        let printed = edge.control.printed_status().await;
        assert!(printed.code == Some(1) && printed.out.contains(told), "{what}: {printed:?}");
        load.more(10).await;
        edge.control.write("web.yaml", &good);
        edge.control
            .until("no findings", |status| status["findings"].as_array()?.is_empty().then_some(()))
            .await;
    }
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
}

#[tokio::test]
async fn a_backend_that_is_missing_fails_its_share_only_and_is_told() {
    let app = Origin::named("app").await;
    let edge = Edge::start(&[
        ("app.yaml", service("app", &[app.address()])),
        ("web.yaml", split("[{name: app, port: 80, weight: 1}, {name: nowhere, port: 80, weight: 1}]")),
    ])
    .await;
    let mut statuses = std::collections::BTreeMap::new();
    for _ in 0..200 {
        *statuses.entry(edge.get("/").await.status).or_insert(0) += 1;
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 500], "{statuses:?}");
    assert!((60..=140).contains(&statuses[&500]), "{statuses:?}");
    let printed = edge.control.printed_status().await;
    assert!(printed.out.contains("BackendNotFound") && printed.out.contains("nowhere"), "{printed:?}");
    assert_eq!(printed.code, Some(1), "{printed:?}");

    edge.apply("nowhere.yaml", &service("nowhere", &[app.address()])).await;
    for _ in 0..50 {
        assert_eq!(edge.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_control_plane_that_dies_is_not_missed_and_is_followed_again() {
    let (old, new) = (Origin::named("old").await, Origin::named("new").await);
    let mut edge = Edge::start(&[
        ("old.yaml", service("old", &[old.address()])),
        ("new.yaml", service("new", &[new.address()])),
        ("web.yaml", all_to("old")),
    ])
    .await;
    let load = edge.load();
    load.more(20).await;
    edge.control.process.kill().await;
    load.more(50).await;
    // What is edited meanwhile is followed afterwards.
    edge.control.write("web.yaml", &all_to("new"));
    edge.control.start_again(&edge.sandbox).await;
    load.more_of("new", 20).await;
    edge.control.synced(1).await;
    edge.apply("web.yaml", &all_to("old")).await;
    load.more_of("old", 20).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    assert!(edge.proxy.is_running());
}

#[tokio::test]
async fn edits_leave_connections_and_long_answers_alone() {
    let long = "x".repeat(200_000);
    let app = Origin::http1(move |received: &Received| match received.target.as_str() {
        "/long" => Answer::text(&long).paced(40, std::time::Duration::from_millis(50)),
        _ => Answer::text("app"),
    })
    .await;
    let files = [("app.yaml", service("app", &[app.address()])), ("web.yaml", all_to("app"))];
    let edge = Edge::start(&files).await;
    let mut kept = client::Http1::connect(edge.address).await.unwrap();
    let streams = client::Http2::connect(edge.address).await.unwrap();
    let download = Call::get("/long").host("shop.test");
    let edits = async {
        wait::until_equal("requests at the origin", 1, async || app.count()).await;
        for number in 0..10 {
            // Another route, another Service and a header for the route in use.
            let headers = format!(
                "[{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-edit, value: '{number}'}}]}}}}],
                    backendRefs: [{{name: app, port: 80}}]}}]"
            );
            edge.apply("web.yaml", &route("web", "[shop.test]", &headers)).await;
            let other = format!("other-{number}");
            edge.apply("other.yaml", &service(&other, &[address()])).await;
            let response = kept.call(&Call::get("/").host("shop.test")).await.unwrap();
            assert!(response.status == 200 && kept.is_reusable(), "after edit {number}: {response:?}");
            assert_eq!(app.last().header("x-edit"), Some(number.to_string().as_str()));
        }
    };
    let both = Box::pin(async { tokio::join!(streams.call(&download), edits) });
    let (download, ()) = wait::within("the download", both).await;
    let download = download.unwrap();
    assert!(download.complete && download.body.len() == 200_000, "{} of 200,000 bytes", download.body.len());
}

#[tokio::test]
async fn a_gateway_moves_to_another_port_and_back() {
    let app = Origin::named("app").await;
    let edge =
        Edge::start(&[("app.yaml", service("app", &[app.address()])), ("web.yaml", all_to("app"))]).await;
    let other = SocketAddr::new(edge.address.ip(), address().port());
    for (from, to) in [(edge.address, other), (other, edge.address)] {
        edge.apply("gateway.yaml", &gateway(to)).await;
        let status = async |at| {
            let call = Call::get("/").host("shop.test");
            client::try_call(at, &call).await.ok().map(|response| response.status)
        };
        wait::until_equal("the answer at the new port", Some(200), async || status(to).await).await;
        wait::until_equal("the answer at the old port", None, async || status(from).await).await;
    }
}

/// What `sidegate status` says to scripts and people, the metric to alerts, and each condition to whoever wrote the object.
#[tokio::test]
async fn status_tells_scripts_alerts_and_authors_what_is_in_force() {
    let app = Origin::named("app").await;
    let policy = "
apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: front, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]
  action: DENY
  rules: [{to: [{operation: {paths: [/forbidden]}}]}]
";
    let edge = Edge::start(&[
        ("app.yaml", service("app", &[app.address()])),
        ("web.yaml", all_to("app")),
        ("policy.yaml", policy.to_owned()),
    ])
    .await;
    let exit_code = async || edge.control.printed_status().await.code;
    wait::until_equal("the exit code when all is well", Some(0), exit_code).await;
    let programmed = async |object: &str| {
        let status = edge.control.status().await;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions
            .into_iter()
            .find(|condition| condition["object"] == object && condition["type"] == "Programmed");
        found.unwrap_or_default()
    };
    let of_policy = programmed("AuthorizationPolicy shop/front").await;
    assert_eq!(of_policy["status"], true, "{of_policy}");
    let false_conditions = async || edge.control.metric("sidegate_false_conditions").await;
    assert_eq!(false_conditions().await, Some(0));

    // What is wrong with an object is told by all three, and is over when it is mended.
    edge.control.write("policy.yaml", &policy.replace("name: public", "name: nowhere"));
    wait::until_equal("the exit code when a policy protects nobody", Some(1), exit_code).await;
    assert!(false_conditions().await >= Some(1));
    edge.control.write("policy.yaml", policy);
    wait::until_equal("the exit code afterwards", Some(0), exit_code).await;
    assert_eq!(false_conditions().await, Some(0));
}

#[tokio::test]
async fn a_proxy_may_start_before_its_control_plane() {
    let sandbox = Sandbox::new();
    let app = Origin::named("app").await;
    let (listener, xds) = (address(), address());
    let _proxy = DataPlane::Sidegate.start_for(&sandbox, xds).await;
    let files = [
        ("gateway.yaml", gateway(listener)),
        ("app.yaml", service("app", &[app.address()])),
        ("web.yaml", all_to("app")),
    ];
    let control = ControlPlane::start_at(&sandbox, &files, xds, address()).await;
    control.synced(1).await;
    let status = async || {
        let call = Call::get("/").host("shop.test");
        client::try_call(listener, &call).await.map(|response| response.status).unwrap_or_default()
    };
    wait::until_equal("the first answer", 200, status).await;
}

const RATE: u32 = 200;
