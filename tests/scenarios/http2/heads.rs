//! B10 to B14: what is malformed or ambiguous is refused, whatever is spoken upstream; what is taken arrives as one clean request.

use sidegate_tests::frames::{Raw, code, data, flag, headers, ok, request};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::message::Received;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

use super::upstreams::{Played, request_end};
use super::{Stage, outcome};

/// Before a recording origin over HTTP/1.1, and before one over HTTP/2.
async fn both() -> [(Stage, bool); 2] {
    let one = Origin::recording(Answer::echo).await;
    let one_gateway = Gateway::to(&[one.address()]);
    let two = Origin::http2(Answer::echo).await;
    let two_gateway = Gateway::to_http2(&[two.address()]);
    [(Stage::start(one, one_gateway).await, true), (Stage::start(two, two_gateway).await, false)]
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A GET's pseudo-header fields with one of another value.
fn with<'a>(name: &'a str, value: &'a str) -> Fields<'a> {
    let field = |known: (&'a str, &'a str)| if known.0 == name { (name, value) } else { known };
    request("GET", "/attack").into_iter().map(field).collect()
}

fn without<'a>(name: &str) -> Fields<'a> {
    request("GET", "/attack").into_iter().filter(|(known, _)| *known != name).collect()
}

fn plus<'a>(fields: &[(&'a str, &'a str)]) -> Fields<'a> {
    [request("GET", "/attack"), fields.to_vec()].concat()
}

/// Refused: by a status, by a reset stream, or by the end of the connection.
fn is_refusal((status, reset): (Option<u16>, Option<u32>)) -> bool {
    let by_status = status.is_some_and(|status| [400, 404, 417, 431].contains(&status));
    by_status || status.is_none() && reset == Some(code::PROTOCOL_ERROR)
}

async fn refuses_all(table: &[(&str, Fields<'_>)]) {
    for (stage, clean) in both().await {
        for (case, fields) in table {
            let mut raw = stage.raw().await;
            raw.send(&headers(1, flag::WHOLE, fields)).await.expect("an open connection");
            let outcome = outcome(&mut raw, 1).await;
            assert!(is_refusal(outcome), "{case}: {outcome:?}");
            assert_eq!(stage.attacks(), 0, "{case} reached the origin");
        }
        assert_eq!(stage.attacks(), 0, "{:?}", stage.origin.received().last());
        if clean {
            stage.origin.strictly();
        }
        stage.finish().await;
    }
}

#[tokio::test]
async fn b10_authority() {
    refuses_all(&[
        ("another Host", plus(&[("host", "other.test")])),
        ("two Hosts", plus(&[("host", "app.test"), ("host", "app.test")])),
        ("two :authority", plus(&[(":authority", "app.test")])),
        ("two :authority in front", [vec![(":authority", "b.test")], request("GET", "/attack")].concat()),
        ("neither", without(":authority")),
        ("userinfo", with(":authority", "user@app.test")),
        ("userinfo in Host", [without(":authority"), vec![("host", "u:p@app.test")]].concat()),
        ("slash", with(":authority", "app.test/x")),
        ("query", with(":authority", "app.test?x")),
        ("list", with(":authority", "app.test, b.test")),
        ("bad port", with(":authority", "app.test:http")),
        ("port past 65535", with(":authority", "app.test:65536")),
        ("empty", with(":authority", "")),
        ("space", with(":authority", "app .test")),
        ("percent", with(":authority", "app%2etest")),
        ("zone", with(":authority", "[fe80::1%25eth0]")),
    ])
    .await;
}

#[tokio::test]
async fn b11_fields() {
    refuses_all(&[
        ("connection", plus(&[("connection", "close")])),
        ("keep-alive", plus(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", plus(&[("proxy-connection", "close")])),
        ("transfer-encoding", plus(&[("transfer-encoding", "chunked")])),
        ("upgrade", plus(&[("upgrade", "websocket")])),
        ("te: gzip", plus(&[("te", "gzip")])),
        ("te: trailers, gzip", plus(&[("te", "trailers, gzip")])),
        ("upper case", plus(&[("X-Upper", "1")])),
        ("colon in a name", plus(&[("x:y", "1")])),
        ("space in a name", plus(&[("x y", "1")])),
        ("CRLF in a name", plus(&[("x\r\nhost", "1")])),
        ("empty name", plus(&[("", "1")])),
        ("CR in a value", plus(&[("x-a", "1\r2")])),
        ("LF in a value", plus(&[("x-a", "1\nhost: b")])),
        ("CRLF in a value", plus(&[("x-a", "1\r\nhost: b")])),
        ("NUL in a value", plus(&[("x-a", "1\x002")])),
        ("leading space", plus(&[("x-a", " 1")])),
        ("trailing tab", plus(&[("x-a", "1\t")])),
        ("unknown expectation", plus(&[("expect", "200-ok")])),
        ("too many fields", plus(&[("x-a", "1"); 101])),
        ("crumbs past the bound", plus(&[("cookie", ""); 1_750])),
    ])
    .await;
}

#[tokio::test]
async fn b12_pseudo_headers() {
    refuses_all(&[
        ("unknown", plus(&[(":unknown", "1")])),
        ("unknown in front", [vec![(":unknown", "1")], request("GET", "/attack")].concat()),
        ("after a regular one", [vec![("x-a", "1")], request("GET", "/attack")].concat()),
        ("two methods", [vec![(":method", "GET")], request("GET", "/attack")].concat()),
        ("two paths", [vec![(":path", "/")], request("GET", "/attack")].concat()),
        ("two schemes", [vec![(":scheme", "http")], request("GET", "/attack")].concat()),
        (":status", [vec![(":status", "200")], request("GET", "/attack")].concat()),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("empty path", with(":path", "")),
        ("path without a slash", with(":path", "attack")),
        ("path with a space", with(":path", "/attack now")),
        ("path with CRLF", with(":path", "/ HTTP/1.1\r\nhost: b\r\n\r\n")),
        ("absolute path", with(":path", "http://b.test/attack")),
        ("star for GET", with(":path", "*")),
        ("method with a space", with(":method", "GET / HTTP/1.1\r\nx:")),
        ("empty method", with(":method", "")),
        ("weird scheme", with(":scheme", "gopher")),
        ("scheme with CRLF", with(":scheme", "http\r\nx: 1")),
        (
            ":protocol without SETTINGS",
            [vec![(":protocol", "websocket")], with(":method", "CONNECT")].concat(),
        ),
        (":protocol on GET", [vec![(":protocol", "websocket")], request("GET", "/attack")].concat()),
    ])
    .await;
}

/// The h2 crate drops pseudo-header fields in trailers and does not say that there were any. What is proven here: none is passed on, none
/// changes the request, and what must not trail goes no further either.
#[tokio::test]
async fn b12_pseudo_headers_in_trailers() {
    for (stage, clean) in both().await {
        let mut raw = stage.raw().await;
        let trailers = [(":path", "/evil"), ("x-good", "1"), ("content-length", "9"), ("host", "evil.test")];
        let mut bytes = headers(1, flag::END_HEADERS, &request("POST", "/attack"));
        bytes.extend(data(1, flag::NONE, b"content"));
        bytes.extend(headers(1, flag::WHOLE, &trailers));
        raw.send(&bytes).await.expect("an open connection");
        let (status, _) = outcome(&mut raw, 1).await;
        assert!(matches!(status, Some(200) | None), "{status:?}");
        if let Some(received) =
            stage.origin.received().into_iter().find(|received| received.target != "/victim")
        {
            assert_eq!((received.target.as_str(), received.authority.as_str()), ("/attack", "app.test"));
            assert!(received.trailers.iter().all(|(name, _)| name == "x-good"), "{:?}", received.trailers);
        }
        if clean {
            stage.origin.strictly();
        }
        drop(raw);
        stage.finish().await;
    }
}

/// Content that is longer, shorter or other than announced is never a whole request upstream.
#[tokio::test]
async fn b13_content_length() {
    let post = |length: &'static str| [request("POST", "/attack"), vec![("content-length", length)]].concat();
    let open = |fields: &Fields<'_>| headers(1, flag::END_HEADERS, fields);
    let twice = |one, two| {
        [request("POST", "/attack"), vec![("content-length", one), ("content-length", two)]].concat()
    };
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("longer", [open(&post("3")), data(1, flag::END_STREAM, b"four")].concat()),
        (
            "longer, in pieces",
            [open(&post("3")), data(1, flag::NONE, b"two"), data(1, flag::END_STREAM, b"x")].concat(),
        ),
        ("shorter", [open(&post("9")), data(1, flag::END_STREAM, b"four")].concat()),
        (
            "shorter, by an empty end",
            [open(&post("9")), data(1, flag::NONE, b"four"), data(1, flag::END_STREAM, b"")].concat(),
        ),
        (
            "shorter, by trailers",
            [open(&post("9")), data(1, flag::NONE, b"four"), headers(1, flag::WHOLE, &[("x-a", "1")])]
                .concat(),
        ),
        ("none came", headers(1, flag::WHOLE, &post("5"))),
        ("two that differ", [open(&twice("4", "5")), data(1, flag::END_STREAM, b"four")].concat()),
        ("two alike", [open(&twice("4", "4")), data(1, flag::END_STREAM, b"four")].concat()),
        ("a list", [open(&post("4, 4")), data(1, flag::END_STREAM, b"four")].concat()),
        ("signed", [open(&post("+4")), data(1, flag::END_STREAM, b"four")].concat()),
        ("empty", [open(&post("")), data(1, flag::END_STREAM, b"")].concat()),
        ("zero in front", [open(&post("04")), data(1, flag::END_STREAM, b"four")].concat()),
        ("past 64 bits", [open(&post("18446744073709551620")), data(1, flag::END_STREAM, b"four")].concat()),
    ];
    for (stage, clean) in both().await {
        for (case, bytes) in &table {
            let mut raw = stage.raw().await;
            raw.send(bytes).await.expect("an open connection");
            let outcome = outcome(&mut raw, 1).await;
            assert!(is_refusal(outcome), "{case}: {outcome:?}");
            assert_eq!(stage.attacks(), 0, "{case} reached the origin");
        }
        assert_eq!(stage.attacks(), 0, "{:?}", stage.origin.received().last());
        if clean {
            stage.origin.strictly();
        }
        stage.finish().await;
    }
}

/// One request, from HTTP/2 to HTTP/1.1, as a strict reader finds it.
async fn arrives(stage: &Stage, raw: &mut Raw, id: u32, bytes: &[u8]) -> Received {
    let before = stage.origin.received().len();
    raw.send(bytes).await.expect("an open connection");
    assert_eq!(outcome(raw, id).await, (Some(200), None));
    let all = stage.origin.received().split_off(before);
    all.into_iter().find(|received| received.target != "/victim").expect("the request")
}

#[tokio::test]
async fn b14_downgrade_is_one_clean_request() {
    let [(stage, _), (other, _)] = both().await;
    other.finish().await;
    let mut raw = stage.raw().await;
    let post = |more: &[(&'static str, &'static str)]| [request("POST", "/attack"), more.to_vec()].concat();

    // Content of unknown length is chunked; trailers come along.
    let mut bytes = headers(1, flag::END_HEADERS, &post(&[("te", "trailers")]));
    bytes.extend(data(1, flag::NONE, b"some "));
    bytes.extend(data(1, flag::NONE, b"content"));
    bytes.extend(headers(1, flag::WHOLE, &[("x-sum", "17"), ("authorization", "evil")]));
    let received = arrives(&stage, &mut raw, 1, &bytes).await;
    assert_eq!((received.body.as_slice(), received.authority.as_str()), (&b"some content"[..], "app.test"));
    assert_eq!(received.trailers, [("x-sum".to_owned(), "17".to_owned())]);
    assert!(received.header("content-length").is_none());

    // Content of known length keeps it, whatever its frames.
    let mut bytes = headers(3, flag::END_HEADERS, &post(&[("content-length", "4")]));
    b"four".iter().for_each(|byte| bytes.extend(data(3, flag::NONE, &[*byte])));
    bytes.extend(data(3, flag::END_STREAM, b""));
    let received = arrives(&stage, &mut raw, 3, &bytes).await;
    assert_eq!((received.body.as_slice(), received.header("content-length")), (&b"four"[..], Some("4")));

    // No content is no framing field, or a length of 0.
    let received = arrives(&stage, &mut raw, 5, &headers(5, flag::WHOLE, &request("GET", "/attack"))).await;
    assert!(received.header("content-length").is_none() && received.header("transfer-encoding").is_none());
    let received = arrives(&stage, &mut raw, 7, &headers(7, flag::WHOLE, &post(&[]))).await;
    assert!(received.header("transfer-encoding").is_none(), "{received:?}");

    // Crumbs are one cookie; `host` alone is an authority; case does not matter.
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
    let fields = [request("GET", "/attack"), crumbs.to_vec(), vec![("host", "APP.test")]].concat();
    let received = arrives(&stage, &mut raw, 9, &headers(9, flag::WHOLE, &fields)).await;
    assert_eq!((received.header("cookie"), received.authority.as_str()), (Some("a=1; b=2"), "app.test"));
    let fields = [without(":authority"), vec![("host", "other.test")]].concat();
    let received = arrives(&stage, &mut raw, 11, &headers(11, flag::WHOLE, &fields)).await;
    assert_eq!(received.authority, "other.test");

    // A client that waits for 100 gets it, and the origin never hears of it.
    raw.send(&headers(13, flag::END_HEADERS, &post(&[("expect", "100-continue"), ("content-length", "4")])))
        .await
        .expect("an open connection");
    let interim = wait::within("100", raw.next_of(13)).await.expect("a frame");
    assert_eq!(interim.status(), Some(100), "{interim:?}");
    let received = arrives(&stage, &mut raw, 13, &data(13, flag::END_STREAM, b"four")).await;
    assert!(received.header("expect").is_none());

    // One Host, one framing field at most, in every one of them.
    assert!(stage.origin.strictly().iter().all(|message| message.values("host").len() == 1));
    drop(raw);
    stage.finish().await;
}

#[tokio::test]
async fn the_log_knows_what_was_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.path().join("access.log");
    let log = format!(
        "{{access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
          path: {}, log_format: {{text_format_source: {{inline_string: \"%PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% %RESPONSE_CODE%\\n\"}}}}}}}}]}}",
        path.display()
    );
    let origin = Origin::http1(Answer::echo).await;
    let gateway = Gateway::to(&[origin.address()]).http(&log);
    let stage = Stage::start(origin, gateway).await;
    let many: Fields<'_> = (0..101).map(|_| ("x-a", "1")).collect();
    let table = [
        (plus(&[("host", "other.test")]), "app.test", 400),
        (with(":authority", "me:secret@a.test"), "a.test", 400),
        (plus(&many), "app.test", 431),
        (plus(&[("expect", "200-ok")]), "app.test", 417),
    ];
    let mut expected = Vec::new();
    for (fields, authority, status) in table {
        let mut raw = stage.raw().await;
        raw.send(&headers(1, flag::WHOLE, &fields)).await.unwrap();
        assert_eq!(outcome(&mut raw, 1).await, (Some(status), None), "{fields:?}");
        expected.push(format!("HTTP/2 GET {authority} /attack {status}"));
    }
    wait::until_equal("the access log", expected, async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().filter(|line| line.contains("/attack")).map(str::to_owned).collect()
    })
    .await;
    stage.finish().await;
}

fn many(count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|number| (format!("x-{number}"), "1".to_owned()))
        .chain([("grpc-status".into(), "0".into())])
        .collect()
}

fn trailers(stream: u32, fields: &[(String, String)]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers(stream, flag::WHOLE, &fields)
}

/// As over HTTP/1.1 (A12): trailers have no more fields than a head may have; they are refused, not cut.
#[tokio::test]
async fn b10_trailers_without_number() {
    for (stage, _) in both().await {
        for (count, expected) in [(50, 200), (150, 400)] {
            let mut raw = stage.raw().await;
            let head = headers(1, flag::END_HEADERS, &request("POST", "/attack"));
            let message = [head, data(1, flag::NONE, b"x"), trailers(1, &many(count))].concat();
            raw.send(&message).await.expect("an open connection");
            let outcome = outcome(&mut raw, 1).await;
            assert_eq!(outcome.0, Some(expected), "{count}: {outcome:?}");
        }
        stage.finish().await;
    }
    for (count, cut) in [(150, None), (300, Some(code::INTERNAL_ERROR))] {
        let endpoint = Played::start(&[], move |_, mut raw: Raw| async move {
            loop {
                let stream = request_end(&mut raw).await?.stream;
                let head = [ok(stream, flag::NONE), data(stream, flag::NONE, b"x")].concat();
                raw.send(&[head, trailers(stream, &many(count))].concat()).await.ok()?;
            }
        })
        .await;
        let sandbox = Sandbox::new();
        let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
        let mut raw = Raw::connect(proxy.address, &[]).await.expect("the proxy listens");
        raw.send(&headers(1, flag::WHOLE, &request("GET", "/"))).await.expect("an open connection");
        // The reset may overtake the head.
        assert_eq!(outcome(&mut raw, 1).await.1, cut, "{count}");
    }
}
