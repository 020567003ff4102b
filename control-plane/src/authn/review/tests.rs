//! A scripted API server: what it is asked, how its answers are taken, and what happens when there are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::*;

const NOW: u64 = 1_800_000_000;

/// An HTTP server that answers every request in the same way.
struct ApiServer {
    url: String,
    asked: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

async fn api_server(answer: String) -> ApiServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
    let (count, kept) = (Arc::clone(&asked), Arc::clone(&last));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
            // The body is the last thing that comes, and it ends with the object.
            while !bytes.ends_with(b"}}") {
                let read = connection.read(&mut part).await.unwrap();
                if read == 0 {
                    break;
                }
                bytes.extend_from_slice(&part[..read]);
            }
            *kept.lock().await = String::from_utf8(bytes).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    ApiServer { url, asked, last }
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn good(status: Value) -> String {
    response("201 Created", &json!({"kind": "TokenReview", "status": status}).to_string())
}

fn web() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["sidegate"],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "extra": {"authentication.kubernetes.io/pod-name": ["web-1"]},
        },
    })
}

fn reviewer(url: &str, credential: Option<PathBuf>) -> Reviewer {
    Reviewer::new(&ReviewSettings { url: url.to_owned(), roots: None, credential }).unwrap()
}

fn nobody() -> Asker<'static> {
    Asker::new(None, false)
}

async fn ask(reviewer: &Reviewer, token: &str) -> Result<Proven, Refusal> {
    reviewer.review(token, Some(NOW + 600), UNIX_EPOCH + Duration::from_secs(NOW), &nobody()).await
}

#[tokio::test]
async fn the_api_server_is_asked_once_for_this_audience_and_believed() {
    let folder = tempfile::tempdir().unwrap();
    let credential = folder.path().join("token");
    std::fs::write(&credential, "own-credential\n").unwrap();
    let server = api_server(good(web())).await;
    let reviewer = reviewer(&format!("{}/prefix", server.url), Some(credential));
    let proven = ask(&reviewer, "a.b.c").await.unwrap();
    assert_eq!(proven.subject.to_string(), "system:serviceaccount:shop:web");
    assert_eq!(proven.subject.pod.as_deref(), Some("web-1"));
    assert_eq!(proven.expires, UNIX_EPOCH + Duration::from_secs(NOW + 600));
    let asked = server.last.lock().await.clone();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /prefix/apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1"), "{head}");
    assert!(head.contains("Bearer own-credential"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": "a.b.c", "audiences": ["sidegate"]},
        })
    );
    assert!(ask(&reviewer, "a.b.c").await.is_ok());
    assert_eq!(server.asked.load(Ordering::SeqCst), 1, "the second answer was remembered");
}

#[tokio::test]
async fn g5_whom_the_api_server_does_not_vouch_for_is_refused() {
    let without = |field: &str| {
        let mut status = web();
        status.as_object_mut().unwrap().remove(field);
        status
    };
    let with = |field: &str, value: Value| {
        let mut status = web();
        status[field] = value;
        status
    };
    for (status, expected) in [
        (
            json!({"authenticated": false, "error": "token is bound to a pod that is gone"}),
            Reason::TokenRejected,
        ),
        (without("authenticated"), Reason::TokenRejected),
        (with("error", json!("the Pod is gone")), Reason::TokenRejected),
        (without("audiences"), Reason::TokenAudience),
        (with("audiences", json!(["istio-ca"])), Reason::TokenAudience),
        (without("user"), Reason::TokenSubject),
        (with("user", json!({"username": "kubernetes-admin"})), Reason::TokenSubject),
        (json!({}), Reason::TokenRejected),
    ] {
        let server = api_server(good(status.clone())).await;
        let refusal = ask(&reviewer(&server.url, None), "a.b.c").await.unwrap_err();
        assert_eq!(refusal.reason, expected, "{status}");
    }
}

#[tokio::test]
async fn g5_an_api_server_that_gives_no_answer_lets_nobody_in_and_is_asked_again() {
    for answer in [
        response("500 Internal Server Error", "{}"),
        response("401 Unauthorized", &good(web())),
        response("429 Too Many Requests", "{}"),
        response("201 Created", "not JSON a.b.c"),
        response("201 Created", r#"{"status": {"authenticated": "true"}}"#),
        response("201 Created", &"x".repeat(300 * 1024)),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let server = api_server(answer.clone()).await;
        let reviewer = reviewer(&server.url, None);
        for asked in 1..=2 {
            let refusal = ask(&reviewer, "a.b.c").await.unwrap_err();
            assert_eq!(refusal.reason, Reason::ReviewUnavailable, "{answer}");
            assert!(!refusal.text.contains("a.b.c"));
            assert_eq!(server.asked.load(Ordering::SeqCst), asked, "that nobody answered is not remembered");
        }
    }
    // Nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(ask(&reviewer(&url, None), "a.b.c").await.unwrap_err().reason, Reason::ReviewUnavailable);
}

#[tokio::test(start_paused = true)]
async fn g5_a_slow_api_server_is_not_waited_for_beyond_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let began = Instant::now();
    let reviewer = reviewer(&url, None);
    let refusal = ask(&reviewer, "a.b.c").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::ReviewUnavailable);
    assert!(began.elapsed() >= LIMIT && began.elapsed() < 2 * LIMIT);
    drop(listener);
}

#[tokio::test]
async fn a_token_that_has_ended_is_refused_without_a_question() {
    let server = api_server(good(web())).await;
    let reviewer = reviewer(&server.url, None);
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    assert_eq!(
        reviewer.review("a.b.c", Some(NOW - 1), now, &nobody()).await.unwrap_err().reason,
        Reason::TokenExpired
    );
    assert_eq!(
        reviewer.review("a.b.c", None, now, &nobody()).await.unwrap_err().reason,
        Reason::TokenMalformed
    );
    // Past the end of time: it is read before anybody is believed, so it must not be counted with.
    let never = reviewer.review("a.b.c", Some(u64::MAX), now, &nobody()).await;
    assert_eq!(never.unwrap_err().reason, Reason::TokenMalformed);
    // Nor is an answer used beyond the token's own end.
    assert!(reviewer.review("a.b.c", Some(NOW + 1), now, &nobody()).await.is_ok());
    let later = now + Duration::from_secs(2);
    assert_eq!(
        reviewer.review("a.b.c", Some(NOW + 1), later, &nobody()).await.unwrap_err().reason,
        Reason::TokenExpired
    );
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn an_address_that_would_show_tokens_to_others_is_refused() {
    let new = |url: &str| {
        Reviewer::new(&ReviewSettings { url: url.to_owned(), roots: None, credential: None })
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(new("http://127.0.0.1:6443"), Ok(()));
    assert_eq!(new("http://[::1]:6443/k8s"), Ok(()));
    for (url, expected) in [
        ("http://api.example:6443", "TLS"),
        ("https://api.example:6443", "--token-review-ca"),
        ("ftp://127.0.0.1", "https://HOST:PORT"),
        ("127.0.0.1:6443", "https://HOST:PORT"),
        ("https://user@api.example", "https://HOST:PORT"),
        ("", "https://HOST:PORT"),
    ] {
        let error = new(url).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
    let settings = ReviewSettings {
        url: "https://127.0.0.1".to_owned(),
        roots: Some("/nowhere/ca.crt".into()),
        credential: None,
    };
    assert!(Reviewer::new(&settings).unwrap_err().to_string().contains("/nowhere/ca.crt"));
}
