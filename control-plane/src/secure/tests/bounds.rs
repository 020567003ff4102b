//! What strangers and heavy callers cannot do to the port.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::*;

/// Reads until the other end closes; false when it does not in time.
async fn is_closed(connection: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let read = async {
        let mut bytes = [0; 4096];
        while connection.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    };
    timeout(LIMIT, read).await.is_ok()
}

#[tokio::test]
async fn g7_a_handshake_that_never_comes_is_cut_and_counted() {
    let limits = Limits { handshake: Duration::from_millis(100), ..Limits::default() };
    let port = Port::with_limits(limits).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    assert!(is_closed(&mut silent).await);
    port.counted(Reason::HandshakeTimeout).await;
    let mut nonsense = TcpStream::connect(port.address).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut nonsense).await);
    port.counted(Reason::HandshakeFailed).await;
}

#[tokio::test]
async fn who_only_looks_whether_the_port_is_open_is_no_failed_handshake() {
    let port = Port::start().await;
    let mut looker = TcpStream::connect(port.address).await.unwrap();
    looker.shutdown().await.unwrap();
    assert!(is_closed(&mut looker).await);
    let mut nonsense = TcpStream::connect(port.address).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut nonsense).await);
    port.counted(Reason::HandshakeFailed).await;
    assert_eq!(port.refusals.count(Reason::HandshakeFailed), 1);
}

#[tokio::test]
async fn g7_who_proves_nothing_does_not_stay() {
    let limits = Limits { stranger: Duration::from_millis(300), ..Limits::default() };
    let port = Port::with_limits(limits).await;
    port.publish(&sidecar("web-1"));
    let mut idle = port.connect(None).await;
    let known = port.channel(None).await;
    let mut open = port.stream(known, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    assert!(is_closed(&mut idle).await, "a stranger is shown out");
    open.requests.send(ask(ResourceType::Listener, None)).await.unwrap();
    assert!(timeout(Duration::from_millis(500), open.responses.message()).await.is_err(), "a guest stays");
}

#[tokio::test]
async fn h1_calls_without_a_message_keep_nobody_from_being_signed_for() {
    let port = Port::start().await;
    let token = port.token("web");
    let mut silent = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let channel = port.channel(None).await;
        for _ in 0..STREAMS_PER_CONNECTION {
            silent.spawn(mute(channel.clone(), token.clone()));
        }
    }
    let (web, db) = (port.channel(None).await, port.channel(None).await);
    let asked = CertificateRequest::default;
    for _ in 0..5 {
        assert!(certificate(web.clone(), Some(&token), asked()).await.is_ok());
        assert!(certificate(db.clone(), Some(&port.token("db")), asked()).await.is_ok());
    }
    while let Some(ended) = timeout(LIMIT, silent.join_next()).await.expect("an end") {
        assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        assert!(certificate(web.clone(), Some(&token), asked()).await.is_ok());
    }
}

#[tokio::test]
async fn m1_a_certificate_alone_does_not_outlive_its_account() {
    let port = Port::start().await;
    let leaf = port.leaf("gone", 3600);
    let by_leaf = port.channel(Some(leaf)).await;
    let status = certificate(by_leaf.clone(), None, CertificateRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(port.refusals.count(Reason::AccountUnused), 1);
    // Somebody vouches for it today.
    let token = port.token("gone");
    assert!(certificate(by_leaf, Some(&token), CertificateRequest::default()).await.is_ok());
    let used = port.channel(Some(port.leaf("web", 3600))).await;
    assert!(certificate(used.clone(), None, CertificateRequest::default()).await.is_ok());
    port.views.send_replace(view(2, "another"));
    assert!(certificate(used, None, CertificateRequest::default()).await.is_err(), "the Pod has gone");
}

#[tokio::test]
async fn h3_a_connection_ends_with_its_caller_when_nothing_is_under_way() {
    let limits = Limits { look: Duration::from_millis(20), ..Limits::default() };
    let port = Port::with_limits(limits).await;
    port.publish(&sidecar("db-1"));
    let (web, mut idle) = port.watched(Some(port.leaf("web", 3600))).await;
    assert!(certificate(web.clone(), None, CertificateRequest::default()).await.is_ok());
    let (db, mut busy) = port.watched(None).await;
    let mut open = port.stream(db.clone(), Some(&port.token("db")), pod("shop", "db-1")).await.unwrap();
    open.hear().await.unwrap();
    assert!(timeout(Duration::from_millis(200), &mut idle).await.is_err(), "who is known stays");
    let mut denying = trust(&[&port.root]);
    denying.denied.push("spiffe://cluster.local/ns/shop/sa/web".to_owned());
    port.trust.send_replace(Arc::new(denying.clone()));
    assert!(timeout(LIMIT, idle).await.is_ok(), "its caller is nobody any more");
    assert!(timeout(Duration::from_millis(200), &mut busy).await.is_err());
    denying.denied.push("spiffe://cluster.local/ns/shop/sa/db".to_owned());
    port.trust.send_replace(Arc::new(denying));
    assert_eq!(open.refused().await.code(), Code::PermissionDenied);
    assert!(timeout(LIMIT, busy).await.is_ok(), "the call went first, then the connection");
}

#[tokio::test]
async fn g7_strangers_who_hold_their_places_keep_nobody_out() {
    let port = Port::with_limits(Limits { strangers: 4, ..Limits::default() }).await;
    port.publish(&sidecar("web-1"));
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    let mut open =
        port.stream(port.channel(None).await, Some(&port.token("web")), pod("shop", "web-1")).await.unwrap();
    assert!(open.hear().await.unwrap().is_some());
    assert!(is_closed(&mut silent[0]).await, "the oldest gave way");
    assert!(port.refusals.count(Reason::Overload) >= 8);
}

#[tokio::test]
async fn g7_connections_have_a_number() {
    let port = Port::with_limits(Limits { connections: 2, ..Limits::default() }).await;
    let (_one, _two) = (port.connect(None).await, port.connect(None).await);
    assert!(port.try_connect(None).await.is_err());
    port.counted(Reason::Overload).await;
}

#[tokio::test]
async fn g7_a_message_beyond_the_limit_ends_the_stream_and_nothing_else() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let channel = port.channel(None).await;
    let token = port.token("web");
    let mut open = port.stream(channel.clone(), Some(&token), pod("shop", "web-1")).await.unwrap();
    open.hear().await.unwrap();
    let mut huge = ask(ResourceType::Endpoint, None);
    huge.resource_names_subscribe = vec!["n".repeat(5 * 1024 * 1024)];
    open.requests.send(huge).await.unwrap();
    let status = open.refused().await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let mut again = port.stream(channel, Some(&token), pod("shop", "web-1")).await.unwrap();
    assert!(again.hear().await.unwrap().is_some());
}

#[tokio::test]
async fn g7_streams_of_one_connection_have_a_number() {
    let port = Port::start().await;
    port.publish(&sidecar("web-1"));
    let channel = port.channel(None).await;
    let token = port.token("web");
    let mut open = Vec::new();
    for _ in 0..STREAMS_PER_CONNECTION {
        let mut stream = port.stream(channel.clone(), Some(&token), pod("shop", "web-1")).await.unwrap();
        stream.hear().await.unwrap();
        open.push(stream);
    }
    let more = port.stream(channel.clone(), Some(&token), pod("shop", "web-1"));
    assert!(timeout(Duration::from_millis(200), more).await.is_err(), "the next waits for a place");
    open.pop();
    let mut next = port.stream(channel, Some(&token), pod("shop", "web-1")).await.unwrap();
    assert!(next.hear().await.unwrap().is_some());
}

#[tokio::test]
async fn g7_one_identity_does_not_take_everybodys_streams() {
    let port = Port::with_share(Limits::default(), 20).await;
    port.publish(&sidecar("web-1"));
    port.publish(&sidecar("db-1"));
    let token = port.token("web");
    let mut open = Vec::new();
    // Two connections, so that it is not the connection's number that is met.
    for channel in [port.channel(None).await, port.channel(None).await] {
        for _ in 0..10 {
            open.push(port.stream(channel.clone(), Some(&token), pod("shop", "web-1")).await.unwrap());
        }
    }
    let more = port.stream(port.channel(None).await, Some(&token), pod("shop", "web-1")).await;
    let status = more.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("20 streams of this identity"), "{}", status.message());
    // Certificates are no streams of this kind, and another identity has a share of its own.
    certificate(port.channel(None).await, Some(&token), CertificateRequest::default()).await.unwrap();
    let other = port.token("db");
    let db = port.stream(port.channel(None).await, Some(&other), pod("shop", "db-1"));
    assert!(db.await.unwrap().hear().await.unwrap().is_some());
    open.pop();
    let again = async {
        while port.stream(port.channel(None).await, Some(&token), pod("shop", "web-1")).await.is_err() {}
    };
    timeout(LIMIT, again).await.expect("a place that was given back");
}

#[tokio::test]
async fn g7_compressed_messages_are_not_opened() {
    let port = Port::start().await;
    let mut client = tonic::client::Grpc::new(port.channel(None).await);
    client.ready().await.unwrap();
    let mut request = Request::new(CertificateRequest::default());
    request.metadata_mut().insert("authorization", bearer(&port.token("web")));
    request.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    let status = timeout(LIMIT, client.unary(request, path, codec)).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

#[tokio::test]
async fn g7_headers_have_a_size() {
    let port = Port::start().await;
    let mut client = tonic::client::Grpc::new(port.channel(None).await);
    client.ready().await.unwrap();
    let mut request = Request::new(CertificateRequest::default());
    request.metadata_mut().insert("authorization", bearer(&"x".repeat(64 * 1024)));
    let codec: ProstCodec<CertificateRequest, CertificateResponse> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    let refused = timeout(LIMIT, client.unary(request, path, codec)).await.unwrap();
    assert!(refused.is_err());
    assert!(
        certificate(port.channel(None).await, Some(&port.token("web")), CertificateRequest::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn tls_below_1_3_and_resumption_are_not_spoken() {
    let port = Port::start().await;
    let connection = port.connect(None).await;
    let (_, session) = connection.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(port.root.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(port.address).await.unwrap();
    let name = ServerName::try_from(SERVER).unwrap();
    assert!(TlsConnector::from(Arc::new(old)).connect(name, tcp).await.is_err());
}
