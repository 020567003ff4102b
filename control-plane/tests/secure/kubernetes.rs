//! A scripted Kubernetes API server that reviews tokens.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use crate::plane::{Plane, pod, request};

/// What the server does with the next question.
#[derive(Clone)]
enum Script {
    /// Answers with this status.
    Say(Value),
    /// Fails.
    Fail,
    /// Says nothing.
    Hang,
}

struct ApiServer {
    url: String,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl ApiServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::Fail));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (read, kept) = (Arc::clone(&script), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for connection in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    let field = line.to_ascii_lowercase();
                    if let Some(text) = field.strip_prefix("content-length:") {
                        length = text.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                kept.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                let (status, body) = match read.lock().unwrap().clone() {
                    Script::Say(status) => ("201 Created", json!({ "status": status }).to_string()),
                    Script::Fail => ("500 Internal Server Error", String::new()),
                    Script::Hang => {
                        hanging.push(connection);
                        continue;
                    }
                };
                let mut connection = connection;
                let _ =
                    write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { url, script, asked }
    }

    fn will(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A token in the form of Kubernetes'; only the API server knows whether it is good. {"alg":"RS256"}
fn token(serial: u32) -> String {
    // {"iss":"https://kubernetes.default.svc","exp":4000000000}
    let payload = "eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMiLCJleHAiOjQwMDAwMDAwMDB9";
    format!("eyJhbGciOiJSUzI1NiJ9.{payload}.c2lnbmF0dXJl{serial:04}")
}

fn good(pod: &str) -> Value {
    json!({
        "authenticated": true, "audiences": ["sidegate"],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "extra": {"authentication.kubernetes.io/pod-name": [pod]},
        },
    })
}

#[tokio::test]
async fn g5_kubernetes_decides_about_its_tokens_and_is_asked_once_a_minute() {
    let server = ApiServer::start();
    let plane = Plane::start(&["--token-review", &server.url]);
    server.will(Script::Say(good("web-1")));
    let (message, _) = request(&["spiffe://cluster.local/ns/shop/sa/web"]);
    plane.certificate(None, Some(&token(1)), message.clone()).await.unwrap();
    plane.stream(None, Some(&token(1)), pod("web-1")).await.unwrap().hear().await.unwrap();
    assert_eq!(server.asked(), 1);
    assert_eq!(
        server.asked.lock().unwrap()[0]["spec"],
        json!({"token": token(1), "audiences": ["sidegate"]})
    );

    // The token of another Pod of the same account.
    server.will(Script::Say(good("web-2")));
    let status = plane.stream(None, Some(&token(2)), pod("web-1")).await.unwrap().hear().await.unwrap_err();
    assert_eq!((status.code(), plane.refused("token-pod")), (Code::PermissionDenied, 1));

    for (number, answer, reason) in [
        (3, json!({"authenticated": false, "error": "pod is gone"}), "token-rejected"),
        (4, json!({"authenticated": true, "audiences": ["api"], "user": {}}), "token-audience"),
        (
            5,
            json!({"authenticated": true, "audiences": ["sidegate"], "user": {"username": "admin"}}),
            "token-subject",
        ),
    ] {
        server.will(Script::Say(answer));
        let status = plane.certificate(None, Some(&token(number)), message.clone()).await.unwrap_err();
        assert!(matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied), "{status}");
        plane.logged(reason).await;
        assert_eq!(plane.refused(reason), 1);
    }

    // Our own tokens are not Kubernetes' business.
    let before = server.asked();
    plane.certificate(None, Some(&plane.token("web", &[])), message).await.unwrap();
    assert_eq!(server.asked(), before);
}

#[tokio::test]
async fn g5_without_kubernetes_its_tokens_let_nobody_in() {
    let server = ApiServer::start();
    let plane = Plane::start(&["--token-review", &server.url]);
    let (message, _) = request(&[]);
    for (number, script) in [(1, Script::Fail), (2, Script::Hang)] {
        server.will(script);
        let began = std::time::SystemTime::now();
        let status = plane.certificate(None, Some(&token(number)), message.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(began.elapsed().unwrap() < Duration::from_secs(9), "the wait has a limit");
        assert_eq!(plane.refused("review-unavailable"), u64::from(number));
    }
    // It is well again, and so is the token.
    server.will(Script::Say(good("web-1")));
    plane.certificate(None, Some(&token(1)), message.clone()).await.unwrap();

    let none = Plane::start(&[]);
    let status = none.certificate(None, Some(&token(1)), message).await.unwrap_err();
    assert_eq!((status.code(), none.refused("token-issuer")), (Code::Unauthenticated, 1));
    assert!(status.message().contains("--token-review"), "{status}");
}
