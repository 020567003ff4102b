//! Who gets what: streams and certificates, by every kind of proof and of lie.

use tonic::Code;

use super::*;

#[tokio::test]
async fn a_proxy_is_served_what_is_its_own_by_token_and_by_certificate() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let token = port.token("web");
    let leaf = port.leaf("web", 3600);
    for (channel, token) in
        [(port.channel(None).await, Some(token.as_str())), (port.channel(Some(leaf)).await, None)]
    {
        let mut open = port.stream(channel, token, pod("shop", "web-1")).await.unwrap();
        let response = open.hear().await.unwrap().unwrap();
        assert_eq!(response.resources[0].name, "a");
        let report = port.streams.current().pop().unwrap();
        assert_eq!(report.node.scope, sidecar("web-1"));
        let caller = report.caller.unwrap();
        assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(caller.leaf().is_some(), token.is_none());
    }
    let gateway = Scope::Gateway { gateway: Name::new("shop", "public"), foreign: false, secure: true };
    port.publish(&gateway);
    let of_gateway = node(&[("NAMESPACE", "shop"), ("GATEWAY", "public")]);
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("public")), of_gateway).await.unwrap();
    assert!(open.hear().await.unwrap().is_some());
}

#[tokio::test]
async fn g6_a_stream_of_nobody_is_refused() {
    let port = Port::start().await;
    let status =
        port.stream(port.channel(None).await, None, pod("shop", "web-1")).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("sidegate token"), "{}", status.message());
    assert_eq!(port.refusals.count(Reason::NoProof), 1);
    let mut client = AggregatedDiscoveryServiceClient::new(port.channel(None).await);
    let requests =
        tokio_stream::iter([sidegate_xds::envoy::service::discovery::v3::DiscoveryRequest::default()]);
    assert!(client.stream_aggregated_resources(requests).await.is_err(), "nor is there another way in");
}

#[tokio::test]
async fn g6_a_forged_node_is_refused_whatever_it_says() {
    let port = Port::start().await;
    port.publish(&sidecar("db-1"));
    let (web, db) = (port.token("web"), port.token("db"));
    let stolen = port.token_of("shop", "web", Some("web-2"));
    let other = port.token_of("bank", "web", None);
    let gateway = node(&[("NAMESPACE", "shop"), ("GATEWAY", "public")]);
    for (token, node, expected, says) in [
        (&web, pod("shop", "db-1"), Reason::NodeIdentity, vec!["shop/db", "sa/web"]),
        (&db, pod("shop", "web-1"), Reason::NodeIdentity, vec!["shop/web", "sa/db"]),
        (&web, gateway, Reason::NodeIdentity, vec!["shop/public", "sa/web"]),
        (&other, pod("shop", "web-1"), Reason::NodeIdentity, vec!["another namespace"]),
        (&web, pod("bank", "vault"), Reason::NodeIdentity, vec!["another namespace"]),
        (&web, pod("shop", "ghost"), Reason::NodeUnknown, vec!["does not exist", "tries again"]),
        (&stolen, pod("shop", "web-1"), Reason::TokenPod, vec!["web-2"]),
    ] {
        let before = port.refusals.count(expected);
        let mut open = port.stream(port.channel(None).await, Some(token), node).await.unwrap();
        let status = open.refused().await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(says.iter().all(|part| status.message().contains(part)), "{}", status.message());
        assert!(!status.message().contains(token.as_str()));
        assert_eq!(port.refusals.count(expected), before + 1, "{expected:?}");
    }
    assert_eq!(port.streams.count(), 0);
}

#[tokio::test]
async fn a_pod_that_comes_late_is_served_at_the_next_try() {
    let port = Port::start().await;
    port.publish(&sidecar("web-2"));
    let token = port.token("web");
    let mut open = port.stream(port.channel(None).await, Some(&token), pod("shop", "web-2")).await.unwrap();
    assert_eq!(open.refused().await.code(), Code::PermissionDenied);
    let mut next = View::clone(&view(2, "web"));
    let late = Arc::clone(&next.pods[&Name::new("shop", "web-1")]);
    next.pods.insert(Name::new("shop", "web-2"), late);
    port.views.send_replace(Arc::new(next));
    let mut open = port.stream(port.channel(None).await, Some(&token), pod("shop", "web-2")).await.unwrap();
    assert!(open.hear().await.unwrap().is_some());
}

#[tokio::test]
async fn a_control_plane_that_has_read_nothing_yet_refuses_nobody() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    port.views.send_replace(Arc::default());
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    assert!(timeout(Duration::from_millis(50), open.responses.message()).await.is_err(), "it waits");
    port.views.send_replace(view(1, "web"));
    assert!(open.hear().await.unwrap().is_some());
}

#[tokio::test]
async fn a_stream_ends_when_what_it_serves_changes_hands_and_not_when_it_is_gone() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    port.views.send_replace(Arc::new(View { generation: 2, ..View::default() }));
    open.requests.send(ask(ResourceType::Listener, None)).await.unwrap();
    assert!(timeout(Duration::from_millis(100), open.responses.message()).await.is_err(), "it goes on");
    port.views.send_replace(view(3, "somebody-else"));
    let status = open.refused().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("changed hands"), "{}", status.message());
    assert_eq!(port.refusals.count(Reason::NodeChanged), 1);
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate_and_comes_back_with_the_next() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let channel = port.channel(Some(port.leaf("web", 2))).await;
    let mut open = port.stream(channel.clone(), None, pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    let status = open.refused().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("certificate expired; reconnect"), "{}", status.message());
    // The connection of yesterday's certificate is good for nothing more.
    let status = port.stream(channel, None, pod("shop", "web-1")).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(port.refusals.count(Reason::CertificateExpired), 1);
    let mut open = port
        .stream(port.channel(Some(port.leaf("web", 3600))).await, None, pod("shop", "web-1"))
        .await
        .unwrap();
    open.hear().await.unwrap();
}

#[tokio::test]
async fn a_denied_identity_loses_its_streams() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    let mut next = trust(&[&port.root]);
    next.denied.push("spiffe://cluster.local/ns/shop/sa/web".to_owned());
    port.trust.send_replace(Arc::new(next));
    assert_eq!(open.refused().await.code(), Code::PermissionDenied);
    assert_eq!(port.refusals.count(Reason::Denied), 1);
}

#[tokio::test]
async fn g6_another_namespaces_secret_is_no_secret_here() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    let mut request = ask(ResourceType::Secret, None);
    request.resource_names_subscribe = vec!["kubernetes://bank/vault".to_owned()];
    open.requests.send(request).await.unwrap();
    port.counted(Reason::ForeignSecret).await;
    // Whatever is answered, there is nothing in it.
    if let Ok(answer) = timeout(Duration::from_millis(100), open.responses.message()).await {
        assert!(answer.unwrap().unwrap().resources.is_empty());
    }
}

#[tokio::test]
async fn g4_a_certificate_is_for_who_has_proven_it_and_for_nobody_else() {
    let port = Port::start().await;
    let request = |impersonated: Option<&str>| {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = impersonated.map(|text| ("ImpersonatedIdentity".to_owned(), value(text)));
        CertificateRequest {
            csr: "request".to_owned(),
            validity_duration: 0,
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
        }
    };
    let token = port.token("web");
    let chain = certificate(port.channel(None).await, Some(&token), request(None)).await.unwrap();
    assert_eq!(chain, ["spiffe://cluster.local/ns/shop/sa/web request"]);
    let leaf = port.leaf("db", 3600);
    let chain = certificate(port.channel(Some(leaf)).await, None, request(None)).await.unwrap();
    assert_eq!(chain, ["spiffe://cluster.local/ns/shop/sa/db request"]);

    let status = certificate(port.channel(None).await, None, request(None)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let other = "spiffe://cluster.local/ns/shop/sa/db";
    let status = certificate(port.channel(None).await, Some(&token), request(Some(other))).await.unwrap_err();
    assert_eq!((status.code(), port.refusals.count(Reason::Impersonation)), (Code::PermissionDenied, 1));
    let huge = CertificateRequest { csr: "x".repeat(1024 * 1024), ..request(None) };
    let status = certificate(port.channel(None).await, Some(&token), huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn g5_certificates_that_prove_nothing_end_at_the_handshake() {
    let port = Port::start().await;
    let theirs = root("mesh");
    let now = seconds();
    let says = Says { from: now - 60, until: now + 3600, ..Says::default() };
    for (leaf, expected) in [
        (
            port.root.leaf(&Says { from: now - 7200, until: now - 3600, ..says_like(&says) }),
            Reason::CertificateExpired,
        ),
        (theirs.leaf(&says), Reason::CertificateUntrusted),
    ] {
        // In TLS 1.3 the client learns of it at its first read.
        if let Ok(mut connection) = port.try_connect(Some(leaf)).await {
            let mut byte = [0; 1];
            assert!(tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await.is_err());
        }
        port.counted(expected).await;
    }
}

fn says_like<'a>(says: &Says<'a>) -> Says<'a> {
    Says { uris: says.uris, dns: says.dns, ..Says::default() }
}

#[tokio::test]
async fn the_next_certificate_and_the_next_roots_count_from_the_next_handshake() {
    let port = Port::start().await;
    let serial = |stream: &TlsStream<TcpStream>| {
        let (_, session) = stream.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    };
    let before = serial(&port.connect(None).await);
    assert_eq!(before, serial(&port.connect(None).await));
    port.shown.send_replace(shown(&port.root));
    assert_ne!(before, serial(&port.connect(None).await));
    // A root that comes in brings its leaves in.
    let next = root("next");
    let now = seconds();
    let leaf = || next.leaf(&Says { from: now - 60, until: now + 3600, ..Says::default() });
    port.trust.send_replace(Arc::new(trust(&[&port.root, &next])));
    let known = async {
        loop {
            let channel = port.try_connect(Some(leaf())).await;
            if let Ok(mut connection) = channel {
                let mut byte = [0; 1];
                // The server speaks first: its HTTP/2 settings.
                if tokio::io::AsyncReadExt::read(&mut connection, &mut byte).await.is_ok_and(|read| read == 1)
                {
                    return;
                }
            }
        }
    };
    timeout(LIMIT, known).await.expect("the new root is never trusted");
}
