//! A2, A11, A12, A22: content, its chunks and trailers, and what follows when nobody wants it.

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::{Call, values};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;

#[tokio::test]
async fn a2_content_is_content_whatever_the_method_and_whatever_it_says() {
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for mut guarded in Guarded::both().await {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "QUERY"] {
            let length = inner.len();
            for (case, bytes) in [
                (
                    "length",
                    format!("{method} /outer HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}"),
                ),
                (
                    "chunked",
                    format!(
                        "{method} /outer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"
                    ),
                ),
            ] {
                let (_, received) =
                    guarded.serves(&format!("{method}, {case}"), method, bytes.as_bytes()).await;
                assert_eq!(
                    (received.target.as_str(), received.body.as_slice()),
                    ("/outer", inner.as_bytes()),
                    "{method}"
                );
            }
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a2_an_upload_that_breaks_off_is_never_taken_for_whole() {
    for mut guarded in Guarded::both().await {
        for upload in [
            "POST /broken HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this",
            "GET /broken HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
            "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
            "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly",
            "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            "POST /broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n",
        ] {
            let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
            client.send(upload.as_bytes()).await.unwrap();
            client.finish().await.unwrap();
            wait::within("the end of the connection", async {
                while client.readable().await.unwrap_or(false) {}
            })
            .await;
            let record = &guarded.records(1).await[0];
            assert_eq!(record.reason, "downstream_closed", "{upload:?}: {record:?}");
        }
        assert!(guarded.received().is_empty(), "upstream {}: {:?}", guarded.upstream, guarded.received());
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a2_a_connection_upstream_is_not_used_again_before_the_content_has_left() {
    let origin = Origin::eager(|_| Answer::text("early")).await;
    let gateway = Gateway::to(&[origin.address()]);
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    for _ in 0..20 {
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        // The content that was announced would swallow, or become, the next request on the same connection.
        client.send(b"POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf").await.unwrap();
        let answer = wait::within("the early answer", client.response("POST")).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
        let beside = guarded.proxy.get("/beside").await;
        assert_eq!((beside.status, beside.text().as_str()), (200, "early"));
        drop(client);
        guarded.records(2).await;
    }
    let whole: Vec<String> = guarded.origin.strictly().into_iter().map(|message| message.target).collect();
    assert!(whole.iter().all(|target| target != "/half"), "{whole:?}");
    guarded.finish().await;
}

#[tokio::test]
async fn a11_chunks_that_are_not_plain() {
    let long = "a".repeat(17 << 10);
    let many = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(1_100);
    let table = [
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("LF after an extension", "5;a\nhello\r\n0\r\n\r\n".to_owned()),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("DEL in an extension", "5;a\x7fb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("a long extension", format!("5;{long}\r\nhello\r\n0\r\n\r\n")),
        ("a long extension of the last chunk", format!("5\r\nhello\r\n0;{long}\r\n\r\n")),
        ("many extensions", format!("{many}0\r\n\r\n")),
        ("LF after the size", "5\nhello\r\n0\r\n\r\n".to_owned()),
        ("CR after the size", "5\rhello\r\n0\r\n\r\n".to_owned()),
        ("CR CR LF after the size", "5\r\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("space before the size", " 5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("tab before the size", "\t5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("space after the size", "5 \r\nhello\r\n0\r\n\r\n".to_owned()),
        ("0x5", "0x5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("+5", "+5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("-1", "-1\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("-0", "5\r\nhello\r\n-0\r\n\r\n".to_owned()),
        ("0_5", "0_5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("5h", "5h\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("5,5", "5,5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("17 digits, too large", "10000000000000005\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("100 zeros", format!("{}\r\n\r\n", "0".repeat(100))),
        ("empty size", "\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("empty size, extension", ";a\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("data longer", "5\r\nhello there\r\n0\r\n\r\n".to_owned()),
        ("data longer by one", "4\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("data shorter", "9\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("data shorter by one", "6\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("data ends in LF", "5\r\nhello\n0\r\n\r\n".to_owned()),
        ("data ends in CR", "5\r\nhello\r0\r\n\r\n".to_owned()),
        ("LF at the end", "5\r\nhello\r\n0\n\n".to_owned()),
        ("CRLF, LF at the end", "5\r\nhello\r\n0\r\n\n".to_owned()),
        ("CR at the end", "5\r\nhello\r\n0\r\n\rX".to_owned()),
    ];
    for mut guarded in Guarded::both().await {
        for (case, content) in &table {
            let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{content}");
            guarded.refuses(case, bytes.as_bytes(), 400, "bad_request").await;
        }
        for (case, content) in [
            ("extensions", "5;ext=1;b=\"c;d\"\r\nhello\r\n0;last\r\n\r\n"),
            ("a space before an extension", "5 ;ext=1\r\nhello\r\n0\r\n\r\n"),
            ("16 digits", "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n"),
            ("small pieces", "1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n"),
        ] {
            let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{content}");
            // The origin's strict reading takes no extension.
            let (_, received) = guarded.serves(case, "POST", bytes.as_bytes()).await;
            assert_eq!(received.body, b"hello", "{case}");
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a12_trailers_decide_nothing() {
    let forbidden = [
        "Content-Length: 50",
        "Transfer-Encoding: chunked",
        "Host: evil",
        "Authorization: Basic Zm9v",
        "Cookie: a=b",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "Forwarded: for=6.6.6.6",
        "Connection: close",
        "Upgrade: foo",
        "Trailer: X-Good",
        "Content-Type: text/html",
        "Content-Encoding: gzip",
        "X-Envoy-Retry-On: 5xx",
        "Proxy-Authorization: Basic Zm9v",
        "TE: trailers",
        "Expect: 100-continue",
        "Cache-Control: no-store",
    ];
    for mut guarded in Guarded::both().await {
        for line in forbidden {
            let bytes = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Good: 1\r\n{line}\r\n\r\n"
            );
            let (_, received) = guarded.serves(line, "POST", bytes.as_bytes()).await;
            let (name, value) = line.split_once(": ").unwrap();
            assert!(values(&received.trailers, name).is_empty(), "{line}: {received:?}");
            assert!(
                !values(&received.headers, name).contains(&value) || value == "chunked",
                "{line}: {received:?}"
            );
            assert_eq!(values(&received.trailers, "x-good"), ["1"], "{line}: {received:?}");
            assert_eq!((received.body.as_slice(), received.authority.as_str()), (b"hello".as_slice(), "a"));
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a12_trailers_are_bounded_and_well_formed() {
    let large = format!("X-A: {}\r\n", "a".repeat(128 << 10));
    let many: String = (0..10_000).map(|number| format!("X-{number}: 1\r\n")).collect();
    let names = "a,".repeat(10_000);
    for mut guarded in Guarded::both().await {
        for (case, trailers) in [
            ("128 KiB", large.as_str()),
            ("10,000 lines", many.as_str()),
            ("a pseudo-header", ":path: /\r\n"),
            ("no colon", "X-A\r\n"),
            ("a space before the colon", "X-A : 1\r\n"),
            ("folded", "X-A: 1\r\n 2\r\n"),
            ("bare LF", "X-A: 1\n"),
            ("bare CR", "X-A: 1\rX-B: 2\r\n"),
            ("NUL", "X-A: 1\x002\r\n"),
            ("an imitation", "content_length: 5\r\n"),
        ] {
            let bytes = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
            );
            guarded.refuses(case, bytes.as_bytes(), 400, "bad_request").await;
        }
        let announced = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Undeclared: 1\r\n\r\n"
        );
        let (_, received) = guarded.serves("10,000 names announced", "POST", announced.as_bytes()).await;
        assert_eq!(values(&received.trailers, "x-undeclared"), ["1"]);
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a22_an_early_answer_never_turns_content_into_a_request() {
    let origin = Origin::recording(|_| Answer::text("origin")).await;
    let gateway = Gateway::to(&[origin.address()]).routes(
        "[{match: {prefix: /deny}, direct_response: {status: 403}}, {match: {prefix: /moved}, redirect: {path_redirect: /}},
          {match: {prefix: /none}, route: {cluster: nothing}}, {match: {prefix: /inner}, route: {cluster: app}},
          {match: {prefix: /first}, route: {cluster: app}}, {match: {prefix: /last}, route: {cluster: app}},
          {match: {prefix: /next}, direct_response: {status: 204}}]",
    );
    let gateway = gateway.cluster("nothing", &[]);
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for (target, status) in [("/deny", 403), ("/moved", 301), ("/none", 503), ("/nowhere", 404)] {
        for (size, repeat) in [("small", 10), ("1 MiB", (1 << 20) / inner.len())] {
            for chunked in [false, true] {
                let content = inner.repeat(repeat);
                let length = content.len();
                let outer = match chunked {
                    false => format!(
                        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{content}"
                    ),
                    true => format!(
                        "POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{content}\r\n0\r\n\r\n"
                    ),
                };
                let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
                // The connection may close before everything is written.
                let _ = client.send(outer.as_bytes()).await;
                let answer = wait::within("an answer", client.response("POST")).await.unwrap();
                assert_eq!(answer.status, status, "{target}, {size}");
                let next = wait::within("the next answer", client.call(&Call::get("/next"))).await;
                let served = next.as_ref().is_ok_and(|next| next.status == 204);
                assert!(served || (size == "1 MiB" && next.is_err()), "{target}, {size}: {next:?}");
                let records = guarded.records(1 + usize::from(served)).await;
                assert_eq!(records[0].status, status, "{target}, {size}: {records:?}");
                assert_eq!(records.len() == 2, records.iter().any(|record| record.path == "/next"));
            }
        }
    }
    assert!(guarded.received().is_empty(), "{:?}", guarded.received());
    guarded.finish().await;
}
