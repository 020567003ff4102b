//! A18, A21, A26: what an origin may say, and what must not come of it.

use std::time::Duration;

use sidegate_tests::client::{self, Http1, Protocol};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;

/// An origin that answers `/N` with the bytes of row N, and everything else with `fine`.
async fn says(rows: &[(&str, Vec<u8>)]) -> Guarded {
    let rows: Vec<Vec<u8>> = rows.iter().map(|(_, bytes)| bytes.clone()).collect();
    Guarded::scripted(move |received: &Received| {
        let row = received.target.trim_start_matches('/').parse::<usize>().ok();
        row.and_then(|row| rows.get(row))
            .map_or_else(|| Answer::text("fine"), |bytes| Answer::raw(bytes.clone()))
    })
    .await
}

/// Every row is a 502, to either protocol, and what follows on the same connection is served.
async fn refused(rows: &[(&str, Vec<u8>)]) {
    let mut guarded = says(rows).await;
    let mut client = Http1::connect(guarded.proxy.address).await.expect("the proxy listens");
    for (number, (case, _)) in rows.iter().enumerate() {
        let call = Call::get(&format!("/{number}"));
        let bad =
            wait::within(case, client.call(&call)).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(bad.status, 502, "{case}: {bad:?}");
        let reason = bad.reason().map(|(reason, _)| reason.to_owned()).unwrap_or_default();
        assert!(matches!(reason.as_str(), "upstream_protocol_error" | "upstream_reset"), "{case}: {bad:?}");
        let good = wait::within(case, client.call(&Call::get("/"))).await.expect("the next answer");
        assert_eq!((good.status, good.text().as_str()), (200, "fine"), "after {case}");
        let over_http2 = guarded.proxy.call_over(Protocol::Http2, &call).await;
        assert_eq!(over_http2.status, 502, "{case}, over HTTP/2: {over_http2:?}");
        let records = guarded.records(3).await;
        assert_eq!(
            (records[0].status, records[0].reason.as_str()),
            (502, reason.as_str()),
            "{case}: {records:?}"
        );
        assert_eq!((records[1].status, records[2].status), (200, 502), "{case}: {records:?}");
    }
    drop(client);
    guarded.finish().await;
}

/// A response with one more line, and content.
fn with(line: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", line, b"\r\n\r\nok"].concat()
}

#[tokio::test]
async fn a18_an_origin_cannot_split_a_response() {
    refused(&[
        ("CR in a value", with(b"X-A: a\rX-B: b")),
        ("CR CR LF", with(b"X-A: a\r\r\nX-B: b")),
        ("LF in a value", with(b"X-A: a\nX-B: b")),
        ("NUL in a value", with(b"X-A: a\0b")),
        ("DEL in a value", with(b"X-A: a\x7fb")),
        ("escape in a value", with(b"X-A: a\x1bb")),
        ("folded", with(b"X-A: a\r\n b")),
        ("CR in a name", with(b"X\rA: a")),
        ("space in a name", with(b"X A: a")),
        ("space before the colon", with(b"X-A : a")),
        ("no colon", with(b"X-A")),
        ("CR in the phrase", b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("NUL in the phrase", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("LF after the status line", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n".to_vec()),
        ("LF at the end", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n".to_vec()),
    ])
    .await;
}

#[tokio::test]
async fn a18_what_the_proxy_builds_from_a_request_stays_one_line() {
    let origin = Origin::recording(|_| Answer::text("ok")).await;
    let gateway = Gateway::new().cluster("app", &[origin.address()]).routes(
        "[{match: {prefix: /moved}, redirect: {host_redirect: b.test}},
          {match: {prefix: /}, route: {cluster: app}}]",
    );
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    for escaped in ["%0d%0aSet-Cookie:%20a=b", "%0D%0A%0D%0Ahtml", "%00", "%0a"] {
        let moved = guarded.proxy.get(&format!("/moved?{escaped}")).await;
        assert_eq!(moved.status, 301, "{moved:?}");
        assert_eq!(
            moved.header("location"),
            Some(format!("http://b.test/moved?{escaped}").as_str()),
            "{moved:?}"
        );
        assert_eq!(moved.header("set-cookie"), None, "{moved:?}");
        // The log's line is one, and JSON: else the record would not be read.
        assert_eq!(guarded.records(1).await[0].path, format!("/moved?{escaped}"));
    }
    for id in ["a\\r\\nb", "\"}\",{\"status\":\"200", "%0d%0a", "\t{}", "\\", "\u{2028}"] {
        let answer = guarded.proxy.call(&Call::get("/").header("x-id", id)).await;
        let record = guarded.records(1).await.remove(0);
        assert_eq!((answer.status, record.status, record.id.trim()), (200, 200, id.trim()));
    }
    guarded.finish().await;
}

#[tokio::test]
async fn a21_content_where_none_may_be_never_reaches_a_client() {
    let rows: [(&str, &str, u16, &str); 7] = [
        ("HEAD", "GET", 200, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        (
            "HEAD, chunked",
            "GET",
            200,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
        ),
        ("204 with a length", "GET", 204, "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison"),
        (
            "204, chunked",
            "GET",
            204,
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
        ),
        (
            "204 with a response behind",
            "GET",
            204,
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        ("304 with content", "GET", 304, "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"),
        (
            "304 with a response behind",
            "GET",
            304,
            "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
    ];
    let bytes: Vec<String> = rows.iter().map(|row| row.3.to_owned()).collect();
    let mut guarded = Guarded::scripted(move |received| {
        let row =
            received.target.trim_start_matches('/').parse::<usize>().ok().and_then(|row| bytes.get(row));
        // Open afterwards: what was said too much waits there for the next request.
        row.map_or_else(|| Answer::text("fine"), |bytes| Answer::raw(bytes.clone()).then_go())
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (number, (case, _, status, _)) in rows.iter().enumerate() {
            let method = if case.starts_with("HEAD") { "HEAD" } else { "GET" };
            let answer = guarded.proxy.call_over(protocol, &Call::new(method, &format!("/{number}"))).await;
            assert_eq!((answer.status, answer.body.len()), (*status, 0), "{case}: {answer:?}");
            let spoiled = guarded.origin.last().connection;
            for _ in 0..3 {
                let next = guarded.proxy.call_over(protocol, &Call::get("/next")).await;
                assert_eq!((next.status, next.text().as_str()), (200, "fine"), "after {case}: {next:?}");
                assert!(guarded.origin.last().connection != spoiled, "{case}: the connection was used again");
            }
            guarded.records(4).await;
        }
    }
    guarded.finish().await;
}

#[tokio::test]
async fn a26_what_is_no_response_is_a_502_and_spoils_nothing() {
    let ok =
        |fields: &str, content: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{content}").into_bytes();
    let line = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let many: String = (0..10_000).map(|number| format!("X-{number}: 1\r\n")).collect();
    refused(&[
        ("nothing", Vec::new()),
        ("garbage", b"SSH-2.0-OpenSSH_9.7\r\n\r\n".to_vec()),
        ("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("content alone", b"<html></html>\r\n".to_vec()),
        ("TLS", b"\x15\x03\x03\x00\x02\x02\x28".to_vec()),
        ("an HTTP/2 preface", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec()),
        ("both lengths", ok("Content-Length: 1\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("two lengths", ok("Content-Length: 1\r\nContent-Length: 2", "ab")),
        ("two equal lengths", ok("Content-Length: 2\r\nContent-Length: 2", "ab")),
        ("a list of lengths", ok("Content-Length: 2, 2", "ab")),
        ("length +2", ok("Content-Length: +2", "ab")),
        ("length -1", ok("Content-Length: -1", "ab")),
        ("length 2^64", ok("Content-Length: 18446744073709551616", "ab")),
        ("an empty length", ok("Content-Length:", "ab")),
        ("xchunked", ok("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        ("gzip, chunked", ok("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        ("identity", ok("Transfer-Encoding: identity", "ab")),
        ("chunked twice", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("chunked by HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("an imitated length", ok("Content_Length: 2", "ab")),
        ("status 99", line("HTTP/1.1 99 What")),
        ("status 1000", line("HTTP/1.1 1000 What")),
        ("status 600", line("HTTP/1.1 600 What")),
        ("status 20", line("HTTP/1.1 20 What")),
        ("status +20", line("HTTP/1.1 +20 What")),
        ("status abc", line("HTTP/1.1 abc What")),
        ("status 000", line("HTTP/1.1 000 What")),
        ("no status", line("HTTP/1.1")),
        ("two spaces", line("HTTP/1.1  200 OK")),
        ("HTTP/2.0", line("HTTP/2.0 200 OK")),
        ("HTTP/1.2", line("HTTP/1.2 200 OK")),
        ("http/1.1", line("http/1.1 200 OK")),
        ("an empty line first", b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("a header of 1 MiB", ok(&format!("X-A: {}", "a".repeat(1 << 20)), "")),
        ("10,000 headers", ok(many.trim_end(), "")),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ("a head without end", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_vec()),
        ("an interim response alone", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec()),
    ])
    .await;
}

#[tokio::test]
async fn a26_content_that_breaks_off_never_looks_complete() {
    let rows: [(&str, &str); 9] = [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
        ("length, nothing came", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        ("chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nonly this"),
        ("after a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"),
        (
            "last chunk without end",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n0\r\n",
        ),
        (
            "trailers without end",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n0\r\nX-T: 1\r\n",
        ),
        ("bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nxyz\r\n\r\n"),
        ("chunk of bare LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\nonly this\n0\n\n"),
        (
            "bad trailer",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n0\r\nX T: 1\r\n\r\n",
        ),
    ];
    for reset in [false, true] {
        let bytes: Vec<String> = rows.iter().map(|row| row.1.to_owned()).collect();
        let mut guarded = Guarded::scripted(move |received| {
            let row =
                received.target.trim_start_matches('/').parse::<usize>().ok().and_then(|row| bytes.get(row));
            let Some(bytes) = row else { return Answer::text("fine") };
            let answer = Answer::raw(bytes.clone());
            if reset { answer.then_reset() } else { answer }
        })
        .await;
        for (number, (case, _)) in rows.iter().enumerate() {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let call = Call::get(&format!("/{number}"));
                // Or the connection or stream ended, perhaps before the head had left: that is no end of a response either.
                if let Ok(answer) = client::try_call_over(protocol, guarded.proxy.address, &call).await {
                    assert!(!answer.complete || answer.status == 502, "{case}, reset {reset}: {answer:?}");
                }
                let record = guarded.records(1).await.remove(0);
                assert!(record.reason.starts_with("upstream_"), "{case}, reset {reset}: {record:?}");
                assert_eq!(guarded.proxy.get("/fine").await.text(), "fine", "after {case}");
                guarded.records(1).await;
            }
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a26_what_an_origin_says_too_much_is_nobodys_answer() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (case, first, late) in [
        ("at once", format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine{poison}"), ""),
        ("one byte", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine!".to_owned(), ""),
        ("an empty line", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine\r\n".to_owned(), ""),
        (
            "after chunks",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n{poison}"),
            "",
        ),
        ("later", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_owned(), poison),
    ] {
        let late_bytes = late.to_owned();
        let mut guarded = Guarded::scripted(move |_| {
            Answer::raw(first.clone()).and_then_bytes(Duration::from_millis(2), late_bytes.clone()).then_go()
        })
        .await;
        for method in ["GET", "POST"] {
            for number in 0..20 {
                // On a connection each, so that the pool is what is shared.
                let answer = guarded.proxy.call(&Call::new(method, "/")).await;
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, "fine"),
                    "{case}, {method} {number}: {answer:?}"
                );
                // Until what comes later has come.
                tokio::time::sleep(Duration::from_millis(if late.is_empty() { 0 } else { 10 })).await;
                guarded.records(1).await;
            }
        }
        assert_eq!(
            guarded.origin.connections(),
            guarded.origin.count(),
            "{case}: a spoiled connection was used again"
        );
        guarded.finish().await;
    }
}
