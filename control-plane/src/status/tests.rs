//! The report and its page.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn finding() -> Finding {
    Finding {
        file: "shop/web.yaml".to_owned(),
        document: 2,
        object: Some("HTTPRoute shop/web".to_owned()),
        field: None,
        message: "no such port".to_owned(),
        in_force: "last good form".to_owned(),
    }
}

fn reporter(view: View) -> (Arc<Reporter>, watch::Sender<Arc<View>>) {
    let (views, receiver) = watch::channel(Arc::new(view));
    let (_, verdicts) = watch::channel(Arc::default());
    (
        Arc::new(Reporter::new(
            receiver,
            verdicts,
            Streams::default(),
            Snapshots::default(),
            &Metrics::default(),
            None,
        )),
        views,
    )
}

async fn page(reporter: Arc<Reporter>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, reporter));
    address
}

async fn get(address: SocketAddr, method: &str, path: &str) -> (StatusCode, String) {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_page_answers_what_it_has() {
    let (reporter, views) = reporter(View::default());
    let address = page(reporter).await;
    assert_eq!(get(address, "GET", "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    views.send_replace(Arc::new(View { generation: 7, findings: vec![finding()], ..View::default() }));
    assert_eq!(get(address, "GET", "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, body) = get(address, "GET", "/status").await;
    let report: Report = serde_json::from_str(&body).unwrap();
    assert_eq!((status, report.generation, report.findings), (StatusCode::OK, 7, vec![finding()]));
    let (_, metrics) = get(address, "GET", "/metrics").await;
    for line in ["sidegate_generation 7", "sidegate_findings 1", "sidegate_xds_streams 0", "# EOF"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(get(address, "GET", "/").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(address, "POST", "/status").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_root_is_rotated_only_for_who_can_read_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let authority = ca::Authority::open(ca::Options::new(folder.path().join("ca"), "cluster.local")).unwrap();
    let (_views, receiver) = watch::channel(Arc::default());
    let (_, verdicts) = watch::channel(Arc::default());
    let metrics = Metrics::default();
    let reporter = Reporter::new(
        receiver,
        verdicts,
        Streams::default(),
        Snapshots::default(),
        &metrics,
        Some(crate::ca::Certifier::Own(authority.clone())),
    );
    let address = page(Arc::new(reporter)).await;
    let token = ca::pass(&folder.path().join("ca")).unwrap();
    let good = format!("Bearer {token}");
    let phase = || authority.report().rotation.phase;
    let start = r#"{"start":{"new":null}}"#;
    for headers in
        [vec![], vec!["Bearer x"], vec!["Basic x"], vec![token.as_str()], vec![good.as_str(), good.as_str()]]
    {
        for method in ["GET", "POST"] {
            let (status, body) = ask(address, method, &headers, start).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {headers:?}");
            assert!(!body.contains("fingerprint"), "{body}");
        }
    }
    assert_eq!(phase(), ca::rotation::Phase::Stable);
    assert_eq!(ask(address, "PUT", &[&good], "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    for body in ["", "{}", "start", r#"{"start":{}, "cancel":null}"#, &"x".repeat(20_000)] {
        assert_eq!(ask(address, "POST", &[&good], body).await.0, StatusCode::BAD_REQUEST, "{body:.20}");
    }
    assert_eq!(ask(address, "POST", &[&good], r#""cancel""#).await.0, StatusCode::CONFLICT);
    let (status, body) = ask(address, "POST", &[&good], start).await;
    let report: ca::report::Report = serde_json::from_str(&body).unwrap();
    assert_eq!((status, report.rotation.phase), (StatusCode::OK, ca::rotation::Phase::Distributing));
    assert_eq!(ask(address, "POST", &[&good], start).await.0, StatusCode::CONFLICT);
    assert_eq!(ask(address, "GET", &[&good], "").await.0, StatusCode::OK);
    assert_eq!(ask(address, "POST", &[&good], r#""cancel""#).await.0, StatusCode::OK);
    let (_, status) = get(address, "GET", "/status").await;
    assert_eq!(serde_json::from_str::<Report>(&status).unwrap().ca.unwrap().roots.len(), 1);
    assert!(get(address, "GET", "/metrics").await.1.contains("sidegate_ca_rotation_phase 0"));
}

/// Asks for a judgement over a connection that the caller may drop.
async fn question(address: SocketAddr, kind: &str) -> tokio::task::JoinHandle<StatusCode> {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    let request = Request::builder().method("POST").uri("/authz/check").header("host", "localhost");
    let request = request.header("content-type", kind).body(Empty::<bytes::Bytes>::new()).unwrap();
    tokio::spawn(async move {
        tokio::select! {
            response = sender.send_request(request) => response.unwrap().status(),
            _ = driver => panic!("the connection ended"),
        }
    })
}

#[tokio::test]
async fn m7_questions_are_judged_one_at_a_time_and_for_somebody() {
    let (_views, receiver) = watch::channel(Arc::default());
    let (_, verdicts) = watch::channel(Arc::default());
    let reporter = Reporter::new(
        receiver,
        verdicts,
        Streams::default(),
        Snapshots::default(),
        &Metrics::default(),
        None,
    );
    let (begun, mut begins) = tokio::sync::mpsc::channel(64);
    // A judgement that takes for ever, unless nobody waits.
    let judge = move |_: &[u8], wanted: &Wanted| {
        begun.blocking_send(()).unwrap();
        tokio::runtime::Handle::current().block_on(wanted.clone().over());
        Err("nobody waits".to_owned())
    };
    let address = page(Arc::new(reporter.asking(Box::new(judge)))).await;
    assert_eq!(question(address, "text/plain").await.await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let json = "application/json; charset=utf-8";
    let first = question(address, json).await;
    begins.recv().await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(question(address, json).await);
    }
    // Those beyond the queue are told so at once; the others wait.
    let mut refused = 0;
    while refused < 13 {
        let (status, index, _) = futures_util::future::select_all(&mut crowd).await;
        assert_eq!(status.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
        drop(crowd.remove(index));
        refused += 1;
    }
    assert!(begins.try_recv().is_err(), "one at a time");
    first.abort();
    begins.recv().await.expect("the next one's turn");
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(get(address, "GET", "/status").await.0, StatusCode::OK);
}

async fn ask(address: SocketAddr, method: &str, headers: &[&str], body: &str) -> (StatusCode, String) {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    tokio::spawn(driver);
    let mut request = Request::builder().method(method).uri("/rotate-root").header("host", "localhost");
    for header in headers {
        request = request.header("authorization", *header);
    }
    let request = request.body(http_body_util::Full::new(bytes::Bytes::copy_from_slice(body.as_bytes())));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn the_json_has_the_agreed_names() {
    let report = Report {
        generation: 7,
        proxies: vec![Proxy {
            id: "gateway~web.shop".to_owned(),
            role: Role::Gateway,
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            foreign: false,
            identity: Some("spiffe://cluster.local/ns/shop/sa/web".to_owned()),
            certificate: Some(Certificate {
                serial: "4711".to_owned(),
                expires_seconds: 43_200,
                life_seconds: 86_400,
                renewed: false,
            }),
            connected_seconds: 1.2,
            applied_generation: 7,
            types: vec![TypeStatus {
                kind: "cluster".to_owned(),
                resources: 4,
                sent: Some("3f".to_owned()),
                accepted: None,
                state: State::NotRequested,
                error: None,
                since_seconds: 0.4,
            }],
        }],
        findings: vec![finding()],
        conditions: vec![Verdict {
            object: "HTTPRoute shop/web".to_owned(),
            generation: 3,
            condition: "ResolvedRefs".to_owned(),
            status: false,
            reason: "BackendNotFound".to_owned(),
            message: "m".to_owned(),
        }],
        ca: None,
        external_ca: None,
    };
    let expected = serde_json::json!({
        "generation": 7,
        "proxies": [{
            "id": "gateway~web.shop", "role": "gateway", "namespace": "shop", "name": "web", "foreign": false,
            "identity": "spiffe://cluster.local/ns/shop/sa/web",
            "certificate": { "serial": "4711", "expires_seconds": 43200, "life_seconds": 86400, "renewed": false },
            "connected_seconds": 1.2, "applied_generation": 7,
            "types": [{ "type": "cluster", "resources": 4, "sent": "3f", "accepted": null, "state": "not-requested",
                        "error": null, "since_seconds": 0.4 }],
        }],
        "findings": [{ "file": "shop/web.yaml", "document": 2, "object": "HTTPRoute shop/web", "field": null,
                       "message": "no such port", "in_force": "last good form" }],
        "conditions": [{ "object": "HTTPRoute shop/web", "generation": 3, "type": "ResolvedRefs", "status": false,
                         "reason": "BackendNotFound", "message": "m" }],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    assert_eq!(serde_json::from_value::<Report>(expected).unwrap(), report);
}
