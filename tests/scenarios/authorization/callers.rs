//! Who asks: certificates, names of TLS, and what the explaining page says of them.

use sidegate_tests::certificates::{Authority, Leaf, Pair};
use sidegate_tests::message::Response;
use sidegate_tests::secure::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn requiring(pair: &Pair, authority: &Authority, must: bool) -> Value {
    json!({
        "common_tls_context": {
            "tls_certificates": [pair.inline()],
            "validation_context": {"trusted_ca": {"inline_string": authority.pem}},
        },
        "require_client_certificate": must,
    })
}

fn principal(name: Value) -> Value {
    json!({"authenticated": {"principal_name": name}})
}

#[tokio::test]
async fn a_caller_is_who_its_certificate_says() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let pair = authority.issue(&Leaf::dns(&["app.test"]));
    let origin = Origin::named("app").await;
    let web = principal(json!({"exact": "spiffe://td/ns/shop/sa/web"}));
    let bank = principal(json!({"safe_regex": {"regex": ".*/ns/bank/.*"}}));
    let list = json!({"action": "ALLOW", "policies": {
        "web": {"permissions": [path_prefix("/shop")], "principals": [web]},
        "bank": {"permissions": [path_prefix("/bank")], "principals": [bank]},
        "known": {"permissions": [path_prefix("/known")], "principals": [{"authenticated": {}}]},
        "open": {"permissions": [path_prefix("/open")], "principals": [any()]},
    }});
    let proxy = Gateway::to(&[origin.address()])
        .http(&filters(&[http_filter(json!({"rules": list}))]))
        .tls(requiring(&pair, &authority, false))
        .with_admin()
        .start(&sandbox)
        .await;
    let web = authority.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web"));
    let clerk = authority.issue(&Leaf::uri("spiffe://td/ns/bank/sa/clerk"));
    let table = [
        (Some("spiffe://td/ns/shop/sa/web"), Some(&web), ["200", "403", "200", "200"]),
        (Some("spiffe://td/ns/bank/sa/clerk"), Some(&clerk), ["403", "200", "200", "200"]),
        (None, None, ["403", "403", "403", "200"]),
    ];
    for (id, pair, statuses) in table {
        for (target, status) in ["/shop", "/bank", "/known", "/open"].into_iter().zip(statuses) {
            let client = Client::new(&authority, pair);
            let answer = client.get(proxy.address, "app.test", target).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{id:?} {target}: {answer}");
            let mut question = json!({"host": "app.test", "path": target, "sni": "app.test"});
            if let Some(id) = id {
                question["peer"] = json!(id);
            }
            let said = explain(&proxy, &question).await;
            let allowed = said["authorization"][0]["decision"] == "allowed";
            assert_eq!(allowed, status == "200", "{question}: {said}");
            assert_eq!(said["decision"]["denied"] == "access_denied", !allowed, "{said}");
        }
    }
}

async fn explain(proxy: &Proxy, question: &Value) -> Value {
    let page = proxy.admin_asks("/explain", &question.to_string()).await;
    assert_eq!(page.status, 200, "{}", Response::text(&page));
    serde_json::from_slice(&page.body).expect("an answer in JSON")
}

#[tokio::test]
async fn the_explaining_page_says_what_the_filters_say() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let claim = json!({"metadata": {"filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "payload"}, {"key": "sub"}], "value": {"string_match": {"exact": "me"}}}});
    let deny = rules("DENY", "no-admin", path_prefix("/admin"), any());
    let near = json!({"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}});
    let allow = json!({"policies": {
        "claim": {"permissions": [any()], "principals": [claim]},
        "near": {"permissions": [any()], "principals": [near]},
    }});
    let dry = rules("DENY", "soon", header(":method", "POST"), any());
    let list = [
        http_filter(json!({"rules": deny})),
        typed("second", HTTP, json!({"rules": allow, "shadow_rules": dry})),
    ];
    let proxy = Gateway::to(&[origin.address()])
        .http(&filters(&list))
        .http("{normalize_path: true, merge_slashes: true}")
        .with_admin()
        .start(&sandbox)
        .await;
    let denied = explain(&proxy, &json!({"host": "a", "path": "/x/..//admin"})).await;
    assert_eq!(
        denied["decision"],
        json!({"denied": "access_denied", "status": 403, "filter": NAME, "policy": "no-admin"})
    );
    assert_eq!((&denied["path"], denied["authorization"].as_array().unwrap().len()), (&json!("/admin"), 1));
    let unsure = explain(&proxy, &json!({"host": "a", "path": "/x%2f..%2fadmin"})).await;
    assert_eq!(unsure["authorization"][0]["unclear"], "no-admin", "{unsure}");
    let nobody = explain(&proxy, &json!({"host": "a"})).await;
    assert_eq!(
        (&nobody["decision"]["filter"], &nobody["decision"]["policy"]),
        (&json!("second"), &Value::Null)
    );
    for question in [
        json!({"host": "a", "claims": {"sub": "me"}, "method": "POST"}),
        json!({"host": "a", "source_ip": "10.1.2.3", "method": "POST"}),
    ] {
        let said = explain(&proxy, &question).await;
        assert!(said["decision"]["clusters"].is_array(), "{said}");
        let second = &said["authorization"][1];
        assert_eq!(
            (&second["decision"], &second["shadow"]["decision"]),
            (&json!("allowed"), &json!("denied"))
        );
        assert_eq!(second["shadow"]["policy"], "soon");
    }
    assert_eq!(origin.count(), 0, "nothing is sent");
    assert_eq!(proxy.get("/").await.status, 403);
    assert_eq!(proxy.stat("http.main.rbac.denied").await, 1, "questions are not counted");
}

/// An inbound listener as sidecars have it: mesh traffic by mutual TLS on one chain, plaintext on another, one workload port opaque.
#[tokio::test]
async fn a_question_is_asked_of_the_chain_that_its_connection_would_be_on() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("mesh");
    let pair = authority.issue(&Leaf::dns(&["app.test"]));
    let origin = Origin::named("app").await;
    let only = |name: &str, principal: Value| {
        filters(&[typed(name, HTTP, json!({"rules": rules("ALLOW", "p", any(), principal)}))])
    };
    let web = principal(json!({"exact": "spiffe://td/ns/shop/sa/web"}));
    let tls = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        requiring(&pair, &authority, true),
    );
    let proxy = Gateway::to(&[origin.address()])
        .http(&only("mesh", web))
        .http_chain("{transport_protocol: tls, application_protocols: [istio, istio-http/1.1, istio-h2]}")
        .last_chain(json!({"name": "mesh", "transport_socket": tls}))
        .http(&only("plain", any()))
        .http_chain("{transport_protocol: raw_buffer}")
        .last_chain(json!({"name": "plain"}))
        .opaque_chain("{destination_port: 5432}", "app")
        .last_chain(json!({"name": "database"}))
        .with_admin()
        .start(&sandbox)
        .await;
    let web = "spiffe://td/ns/shop/sa/web";
    for (question, chain, denied) in [
        (json!({"host": "a", "peer": web}), "mesh", false),
        (json!({"host": "a", "peer": "spiffe://td/ns/shop/sa/other"}), "mesh", true),
        (json!({"host": "a"}), "plain", false),
        (json!({"host": "a", "port": 8080}), "plain", false),
        (json!({"host": "a", "port": 5432, "peer": web}), "database", false),
    ] {
        let said = explain(&proxy, &question).await;
        assert_eq!(said["filter_chain"], chain, "{question}: {said}");
        assert_eq!(said["decision"]["denied"] == "access_denied", denied, "{question}: {said}");
        let filters = said["authorization"].as_array().unwrap();
        assert!(filters.iter().all(|filter| filter["filter"] == chain), "{said}");
    }
    // Such a ClientHello has no chain here: it is not HTTP in the clear.
    let lost = explain(&proxy, &json!({"host": "a", "sni": "a.test", "port": 80})).await;
    assert_eq!(lost["decision"], "no_filter_chain", "{lost}");
}

/// A TLS passthrough: what the ClientHello asks for decides, and silence does not help.
#[tokio::test]
async fn a_name_is_looked_for_where_rules_ask_for_it() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["good.test", "bad.test"]));
    let origin = sidegate_tests::secure::Origin::start("app", &pair, None).await;
    let deny = rules("DENY", "no-bad", json!({"requested_server_name": {"exact": "bad.test"}}), any());
    let proxy = Gateway::opaque(&[origin.address()])
        .chain(json!({"filters": [network_filter(deny), tcp_proxy("app")]}))
        .with_admin()
        .start(&sandbox)
        .await;
    let client = Client::new(&authority, None);
    let mut good = client.connect(proxy.address, "good.test").await.unwrap();
    good.stream.write_all(b"GET / HTTP/1.1\r\nhost: good.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"app") {
        let read = wait::within("the answer", good.stream.read_buf(&mut answer)).await.unwrap();
        assert!(read > 0, "{answer:?}");
    }
    let before = origin.connections();
    for name in ["bad.test", "BAD.test"] {
        let bad = wait::within("the bad one", client.get(proxy.address, name, "/")).await;
        assert!(bad.is_err(), "{bad:?}");
    }
    // Half a ClientHello and no more: nothing comes of it.
    let mut silent = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    answer.clear();
    silent.write_all(&[0x16, 3, 1]).await.unwrap();
    silent.shutdown().await.unwrap();
    let _ = wait::within("its end", silent.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
    assert_eq!(proxy.stat("tcp.rbac.denied").await, 2);
    assert!(origin.connections() <= before + 1, "what is denied is not sent on");
}
