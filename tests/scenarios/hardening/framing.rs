//! A1, A3, A4, A6, A7: how long a request is. Two servers that answer this differently are how requests are smuggled.

use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::origin::{Answer, Origin};

/// Sends `POST / HTTP/1.1` with these fields and this content, to an origin of either protocol.
async fn refused(table: &[(&str, &str)]) {
    for mut guarded in Guarded::both().await {
        for (fields, content) in table {
            let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{content}");
            guarded.refuses(&format!("{fields:?}"), bytes.as_bytes(), 400, "bad_request").await;
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a1_content_length_with_transfer_encoding() {
    refused(&[
        ("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\nG"),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "5c\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
        ),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Content-Length: 5\r\nX: y\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\nContent-Length: 5", "hello"),
        ("Connection: Content-Length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a3_more_than_one_content_length() {
    refused(&[
        ("Content-Length: 5\r\nContent-Length: 6", "hello!"),
        ("Content-Length: 6\r\nContent-Length: 5", "hello!"),
        ("Content-Length: 5\r\nContent-Length: 5", "hello"),
        ("Content-Length: 5\r\ncontent-length: 5", "hello"),
        ("Content-Length: 5, 5", "hello"),
        ("Content-Length: 5, 6", "hello!"),
        ("Content-Length: 5,", "hello"),
        ("Content-Length: ,5", "hello"),
        ("Content-Length: 0\r\nContent-Length: 5", "hello"),
    ])
    .await;
}

#[tokio::test]
async fn a4_what_is_no_plain_length() {
    let lengths = [
        "+5",
        "-1",
        "-0",
        "0x5",
        "",
        "5 6",
        "5\t6",
        "18446744073709551621",
        "18446744073709551616",
        "0005",
        "00",
        "5.0",
        "5e0",
        "5;",
        "\"5\"",
        "five",
        "\u{ff15}",
        "1_0",
        "5 , 5",
        "0b101",
        "∞",
    ];
    for mut guarded in Guarded::both().await {
        for length in lengths {
            let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nhello");
            guarded
                .refuses(&format!("Content-Length: {length:?}"), bytes.as_bytes(), 400, "bad_request")
                .await;
        }
        let plain = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t 5 \t\r\n\r\nhello";
        let (_, received) = guarded.serves("white space around a length", "POST", plain).await;
        assert_eq!(received.body, b"hello");
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a6_any_transfer_encoding_but_one_chunked() {
    let codings = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: chunked;param",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding: chun\0ked",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\r\n\tchunked",
        "Transfer-Encoding: x\r\n chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "transfer_encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r",
    ];
    let table: Vec<(&str, &str)> = codings.iter().map(|coding| (*coding, "0\r\n\r\n")).collect();
    refused(&table).await;
    for mut guarded in Guarded::both().await {
        for coding in ["chunked", "CHUNKED", "cHuNkEd", "\t chunked \t"] {
            let bytes = format!(
                "POST / HTTP/1.1\r\nHost: a\r\ntRANSFER-eNCODING: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            );
            let (_, received) = guarded.serves(coding, "POST", bytes.as_bytes()).await;
            assert_eq!(received.body, b"hello", "{coding:?}");
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a7_http_1_0_has_neither_chunks_nor_open_ends() {
    let mut plain = Guarded::http1().await;
    plain.refuses("HTTP/1.0 at all", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 400, "bad_request").await;
    plain.finish().await;
    let accepted = "{http_protocol_options: {accept_http_10: true}}";
    let origin = Origin::recording(Answer::echo).await;
    let gateway = Gateway::to(&[origin.address()]).http(accepted);
    let http1 = Guarded::start("HTTP/1.1", origin, gateway).await;
    let origin = Origin::http2(Answer::echo).await;
    let gateway = Gateway::to_http2(&[origin.address()]).http(accepted);
    for mut guarded in [http1, Guarded::start("HTTP/2", origin, gateway).await] {
        for (case, bytes) in [
            ("chunked", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (
                "chunked, connection kept",
                "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            ("chunked without Host", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (
                "both lengths",
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            ),
        ] {
            guarded.refuses(case, bytes.as_bytes(), 400, "bad_request").await;
        }
        // Without a length there is no content: what follows is not sent on, and the connection ends with the answer.
        let before = guarded.origin.count();
        let open = b"POST /open HTTP/1.0\r\nHost: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let answers = guarded.answers("content without length", open).await;
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200], "{answers:?}");
        let received = guarded.origin.received().split_off(before);
        assert_eq!(
            (received.len(), received[0].target.as_str(), received[0].body.len()),
            (1, "/open", 0),
            "{received:?}"
        );
        assert_eq!(guarded.records(1).await[0].status, 200);
        guarded.finish().await;
    }
}
