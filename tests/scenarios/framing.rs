//! What a gate must refuse, so that no origin ever reads a request differently from the gate (R5).

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

/// What a case may be answered with.
const REFUSED: &[u16] = &[400, 403, 408, 411, 413, 414, 417, 431, 501, 505];

async fn gate(sandbox: &Sandbox) -> (Origin, Proxy) {
    let origin = Origin::http1(Answer::echo).await;
    let proxy = Gateway::to(&[origin.address()]).start(sandbox).await;
    (origin, proxy)
}

/// Sends bytes, and gives the statuses of everything that comes back.
async fn statuses(proxy: &Proxy, name: &str, bytes: &[u8]) -> Vec<u16> {
    let mut client = Http1::connect(proxy.address).await.expect("the proxy listens");
    // The refusal may come, and the connection close, before everything is written.
    let _ = client.send(bytes).await;
    let mut statuses = Vec::new();
    let reading = async {
        while let Ok(response) = client.response("GET").await {
            statuses.push(response.status);
        }
    };
    wait::within(&format!("the end of the connection after {name}"), reading).await;
    statuses
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table")]
async fn ambiguous_requests_are_refused_and_nothing_behind_them_runs() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox).await;
    for (name, mut bytes) in ambiguous_bodies().into_iter().chain(ambiguous_heads()) {
        bytes.push_str("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let seen = statuses(&proxy, name, bytes.as_bytes()).await;
        assert!(seen.len() == 1 && REFUSED.contains(&seen[0]), "{name}: answered {seen:?}");
        assert_eq!(origin.count(), 0, "{name}: reached the origin as {:?}", origin.received());
    }
}

fn ambiguous_bodies() -> Vec<(&'static str, String)> {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    vec![
        ("CL.TE", format!("{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("TE.CL", format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n")),
        ("two lengths", format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")),
        ("length list", format!("{head}Content-Length: 5, 6\r\n\r\nhello!")),
        ("length +5", format!("{head}Content-Length: +5\r\n\r\nhello")),
        ("length -1", format!("{head}Content-Length: -1\r\n\r\n")),
        ("length 0x5", format!("{head}Content-Length: 0x5\r\n\r\nhello")),
        ("empty length", format!("{head}Content-Length:\r\n\r\nhello")),
        ("length 5 6", format!("{head}Content-Length: 5 6\r\n\r\nhello!")),
        ("length 2^64+5", format!("{head}Content-Length: 18446744073709551621\r\n\r\nhello")),
        ("space before the colon", format!("{head}Content-Length : 5\r\n\r\nhello")),
        ("space in a name", format!("{head}X Y: 1\r\n\r\n")),
        ("empty name", format!("{head}: 1\r\n\r\n")),
        ("no colon", format!("{head}X-Nothing\r\n\r\n")),
        ("xchunked", format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("chunked, identity", format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        ("gzip, chunked", format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")),
        (
            "chunked twice",
            format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("chunked with VT", format!("{head}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n")),
        (
            "chunked on HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
    ]
}

fn ambiguous_heads() -> Vec<(&'static str, String)> {
    let long = |count: usize| "a".repeat(count);
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    vec![
        ("folded line", format!("{head}X-A: 1\r\n two\r\nContent-Length: 0\r\n\r\n")),
        ("bare LF", "GET / HTTP/1.1\nHost: a\n\n".to_owned()),
        ("one bare LF", "GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n".to_owned()),
        ("bare CR", "GET / HTTP/1.1\r\nHost: a\rX-A: 1\r\n\r\n".to_owned()),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: a\0b\r\n\r\n".to_owned()),
        ("control in a target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        ("Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned()),
        ("Host with userinfo", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned()),
        ("Host with a slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned()),
        ("Host with a bad port", "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n".to_owned()),
        ("fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("userinfo in a target", "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned()),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned()),
        ("http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        ("head too large", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", long(70_000))),
        ("target too long", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(40_000))),
        ("too many fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned()),
        (
            "unknown upgrade",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n".to_owned(),
        ),
        ("unknown expectation", format!("{head}Expect: 200-ok\r\nContent-Length: 0\r\n\r\n")),
    ]
}

#[tokio::test]
async fn a_broken_chunk_ends_the_request_on_both_sides() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox).await;
    let table = [
        ("LF after the size", "5\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("0x5", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("+5", "+5\r\nhello\r\n0\r\n\r\n"),
        ("-1", "-1\r\nhello\r\n0\r\n\r\n"),
        ("0_5", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("data longer", "5\r\nhello there\r\n0\r\n\r\n"),
        ("data shorter", "9\r\nhello\r\n0\r\n\r\n"),
        ("LF at the end", "5\r\nhello\r\n0\n\n"),
    ];
    for (name, body) in table {
        let bytes = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let mut client = Http1::connect(proxy.address).await.unwrap();
        let _ = client.send(bytes.as_bytes()).await;
        let _ = client.finish().await;
        let mut statuses = Vec::new();
        while let Ok(response) = wait::within(name, client.response("POST")).await {
            statuses.push(response.status);
        }
        assert!(
            statuses.iter().all(|status| REFUSED.contains(status)) && statuses.len() <= 1,
            "{name}: {statuses:?}"
        );
        assert_eq!(
            origin.count(),
            0,
            "{name}: the origin took it for a whole request: {:?}",
            origin.received()
        );
    }
}

#[tokio::test]
async fn a_body_is_a_body_whatever_the_method_and_whatever_it_says() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox).await;
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for method in ["GET", "OPTIONS", "DELETE", "POST"] {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        for call in
            [Call::new(method, "/outer").body(inner), Call::new(method, "/outer").body(inner).chunked()]
        {
            let response = client.call(&call).await.unwrap();
            assert_eq!((response.status, response.text().as_str()), (200, inner), "{method}");
            let next = client.call(&Call::get("/next")).await.unwrap();
            assert_eq!((next.status, next.text().as_str()), (200, ""), "after {method}");
        }
    }
    assert!(origin.received().iter().all(|received| received.target != "/inner"));
}

#[tokio::test]
async fn chunk_extensions_and_forbidden_trailers_go_no_further() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = gate(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client
        .send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-Good: 1\r\n\
              Content-Length: 50\r\nHost: evil\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        )
        .await
        .unwrap();
    let response = wait::within("a response", client.response("POST")).await.unwrap();
    if response.status == 200 {
        let received = origin.last();
        assert_eq!((received.body.as_slice(), received.authority.as_str()), (b"hello".as_slice(), "a"));
        for name in ["content-length", "host", "x-forwarded-for"] {
            assert!(!received.trailers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)), "{name}");
        }
    } else {
        assert_eq!(response.status, 400);
    }
}

#[tokio::test]
async fn an_early_refusal_never_turns_a_body_into_a_request() {
    let sandbox = Sandbox::new();
    let proxy = Gateway::new()
        .routes("[{match: {prefix: /deny}, direct_response: {status: 403}}, {match: {prefix: /}, direct_response: {status: 200}}]")
        .start(&sandbox)
        .await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
    let outer = format!("POST /deny HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    // The connection may close before everything is written.
    let _ = client.send(outer.as_bytes()).await;
    assert_eq!(client.response("POST").await.unwrap().status, 403);
    let next = async {
        client.call(&Call::get("/next")).await?;
        client.finish().await?;
        client.rest().await
    };
    if let Ok(rest) = wait::within("the next response", next).await {
        assert!(rest.is_empty(), "more was answered than asked: {}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_never_taken_for_whole() {
    for upstream_is_http2 in [false, true] {
        let sandbox = Sandbox::new();
        let (origin, proxy) = match upstream_is_http2 {
            false => gate(&sandbox).await,
            true => {
                let origin = Origin::http2(Answer::echo).await;
                let proxy = Gateway::to_http2(&[origin.address()]).start(&sandbox).await;
                (origin, proxy)
            }
        };
        for upload in
            ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"]
        {
            let mut client = Http1::connect(proxy.address).await.unwrap();
            client.send(format!("POST /broken HTTP/1.1\r\nHost: a\r\n{upload}").as_bytes()).await.unwrap();
            client.finish().await.unwrap();
            wait::within("the end of the connection", async {
                while client.readable().await.unwrap_or(false) {}
            })
            .await;
        }
        assert_eq!(proxy.get("/whole").await.status, 200);
        let seen: Vec<String> = origin.received().into_iter().map(|received| received.target).collect();
        assert_eq!(seen, ["/whole"], "upstream over HTTP/2: {upstream_is_http2}");
    }
}
