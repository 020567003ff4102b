//! Origination.

use sidegate_tests::wait;

use super::*;

#[tokio::test]
async fn the_endpoint_is_asked_for_the_configured_name_and_must_have_it() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let origin = secure::Origin::start("app", &authority.issue(&Leaf::dns(&["app.test"])), None).await;
    let fields = trusting(&authority, json!({"sni": "app.test", "auto_sni_san_validation": true}));
    let proxy = originating(origin.address(), &fields).start(&sandbox).await;
    for _ in 0..3 {
        let response = proxy.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (200, "app"), "{response:?}");
    }
    let seen = origin.seen();
    assert_eq!(seen[0].server_name.as_deref(), Some("app.test"));
    assert_eq!(seen[0].alpn.as_deref(), Some("http/1.1"));
}

#[tokio::test]
async fn c3_a_server_that_cannot_be_trusted_gets_no_request() {
    let sandbox = Sandbox::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("ours"));
    let fields = json!({"sni": "app.test", "auto_sni_san_validation": true});
    let servers = [
        (
            "another authority of the same name",
            theirs.issue(&Leaf::dns(&["app.test"])),
            "its signature was not made by",
        ),
        ("another name", ours.issue(&Leaf::dns(&["other.test"])), "expected app.test; found other.test"),
        ("signed by itself", self_signed(&Leaf::dns(&["app.test"])), "no trusted root"),
        ("expired", ours.issue(&Leaf::dns(&["app.test"]).expired()), "has expired"),
        ("not valid yet", ours.issue(&Leaf::dns(&["app.test"]).future()), "not valid yet"),
        ("for clients only", ours.issue(&Leaf::dns(&["app.test"]).only_client()), "not meant for this use"),
    ];
    for (what, pair, text) in servers {
        let origin = secure::Origin::start("app", &pair, None).await;
        let proxy = originating(origin.address(), &trusting(&ours, fields.clone()))
            .with_admin()
            .start(&sandbox)
            .await;
        let response = proxy.get("/").await;
        assert_eq!(response.status, 503, "{what}: {response:?}");
        let reason = response.header("x-sidegate-reason").unwrap_or_default().to_owned();
        assert!(reason.starts_with("upstream_tls_failure"), "{what}: {reason}");
        let id = reason.rsplit("id=").next().unwrap_or_default();
        let story = wait::until("the explanation", async || {
            let page = proxy.admin(&format!("/why/{id}")).await;
            (page.status == 200).then(|| page.text())
        })
        .await;
        assert!(story.contains(text), "{what}: {story}");
        assert!(origin.seen().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn names_are_matched_byte_for_byte() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/app"));
    let origin = secure::Origin::start("app", &pair, None).await;
    for (matcher, status) in [
        (json!({"exact": "spiffe://td/ns/shop/sa/app"}), 200),
        (json!({"prefix": "spiffe://td/ns/shop/"}), 200),
        (json!({"safe_regex": {"regex": "spiffe://td/ns/[a-z]+/sa/app"}}), 200),
        (json!({"exact": "spiffe://td/ns/shop/sa/ap"}), 503),
        (json!({"exact": "SPIFFE://td/ns/shop/sa/app"}), 503),
        (json!({"safe_regex": {"regex": "td"}}), 503),
    ] {
        let names = json!([{"san_type": "URI", "matcher": matcher}]);
        let context =
            json!({"common_tls_context": {"validation_context": {"match_typed_subject_alt_names": names}}});
        let proxy = originating(origin.address(), &trusting(&authority, context)).start(&sandbox).await;
        let response = proxy.get("/").await;
        assert_eq!(response.status, status, "{matcher}: {response:?}");
    }
}

#[tokio::test]
async fn c12_what_a_server_says_without_tls_is_not_heard() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let origin = Origin::named("plain").await;
    let proxy = originating(origin.address(), &trusting(&authority, json!({"sni": "app.test"})))
        .start(&sandbox)
        .await;
    let response = proxy.get("/").await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(origin.count(), 0);
    // A body until the end of a connection that ends without saying so is cut, and told so.
    let pair = authority.issue(&Leaf::dns(&["app.test"]));
    let cut = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf".to_owned();
    let origin = secure::Origin::start_with(cut, &pair, None, false).await;
    let proxy = originating(origin.address(), &trusting(&authority, json!({"sni": "app.test"})))
        .start(&sandbox)
        .await;
    let response = proxy.get("/").await;
    assert!(!response.complete, "{response:?}");
}

#[tokio::test]
async fn mutual_tls_from_proxy_to_proxy() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let web = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web"));
    let app = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/app"));
    let origin = Origin::named("app").await;
    let mut context = requiring(&[&app], &authority);
    context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"] =
        json!([{"san_type": "URI", "matcher": {"exact": "spiffe://td/ns/shop/sa/web"}}]);
    let inner = Gateway::to(&[origin.address()]).tls(context).start(&sandbox).await;
    for http2 in [false, true] {
        let names = json!([{"san_type": "URI", "matcher": {"exact": "spiffe://td/ns/shop/sa/app"}}]);
        let fields = json!({"common_tls_context": {
            "tls_certificates": [web.inline()],
            "validation_context": {"match_typed_subject_alt_names": names},
        }});
        let mut cluster = sidegate_tests::gateway::yaml(&trusting(&authority, fields));
        if http2 {
            merge(&mut cluster, json!({"http2_protocol_options": {}}));
        }
        let outer = originating(inner.address, &cluster.to_string()).start(&sandbox).await;
        for number in 0..50 {
            let response = outer.get("/").await;
            assert_eq!((response.status, response.text().as_str()), (200, "app"), "{number}: {response:?}");
        }
        let body = "x".repeat(3_000_000);
        let response = outer.call(&sidegate_tests::message::Call::post("/", body.as_str())).await;
        assert_eq!(response.status, 200);
        assert_eq!(origin.last().body.len(), body.len());
    }
}
