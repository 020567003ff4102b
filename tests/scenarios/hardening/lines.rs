//! A5, A8, A9, A10, A17, A23, A25: lines, the bytes in them, their sizes, and requests one after another.

use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n";

async fn refused(table: &[(&str, Vec<u8>)]) {
    let mut guarded = Guarded::http1().await;
    for (case, bytes) in table {
        guarded.refuses(case, bytes, 400, "bad_request").await;
    }
    guarded.finish().await;
}

/// A request with one more line.
fn with(line: &str) -> Vec<u8> {
    format!("{HEAD}{line}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a5_lines_that_are_no_fields() {
    let lines = [
        "X-A : 1",
        "X-A\t: 1",
        "X A: 1",
        ": 1",
        ":",
        "X-Nothing",
        "(X): 1",
        "X(: 1",
        "X\0A: 1",
        "X\"A: 1",
        "X,A: 1",
        "X/A: 1",
        "X;A: 1",
        "X<A: 1",
        "X=A: 1",
        "X@A: 1",
        "X[A: 1",
        "X\\A: 1",
        "X{A: 1",
        "\u{e4}: 1",
        "X\x7fA: 1",
        "Content-Length : 5",
        "Host : b",
        "X-A",
        "\"X-A\": 1",
    ];
    let table: Vec<(&str, Vec<u8>)> = lines.iter().map(|line| (*line, with(line))).collect();
    refused(&table).await;
}

#[tokio::test]
async fn a8_folded_lines() {
    let mut table: Vec<(&str, Vec<u8>)> = [
        "X-A: 1\r\n two",
        "X-A: 1\r\n\ttwo",
        "X-A:\r\n two",
        "X-A: 1\r\n  \r\nX-B: 2",
        "X-A: 1\r\n : b",
        "X-A: 1\r\n \tHost: b",
    ]
    .iter()
    .map(|line| (*line, with(line)))
    .collect();
    table.push(("first line", b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n".to_vec()));
    table.push(("first line, a blank one", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n".to_vec()));
    table.push(("within the request line", b"GET /\r\n HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()));
    refused(&table).await;
}

#[tokio::test]
async fn a9_line_ends_of_half_a_kind() {
    let table = [
        ("LF only", "GET / HTTP/1.1\nHost: a\n\n"),
        ("LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        ("LF after one field", "GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n"),
        ("LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("LF LF at the end", "GET / HTTP/1.1\r\nHost: a\n\n"),
        ("CR in a value", "GET / HTTP/1.1\r\nHost: a\rX-A: 1\r\n\r\n"),
        ("CR in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\r-A: 1\r\n\r\n"),
        ("CR after the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n"),
        ("CR in a target", "GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("CR CR LF after the request line", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
        ("CR CR LF after a field", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
        ("CR CR LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"),
        ("LF CR", "GET / HTTP/1.1\n\rHost: a\n\r\n\r"),
        ("CR first", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("LF first", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("many empty lines first", "\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    let table: Vec<(&str, Vec<u8>)> =
        table.iter().map(|(case, text)| (*case, text.as_bytes().to_vec())).collect();
    refused(&table).await;
}

#[tokio::test]
async fn a10_control_characters_are_refused_and_obs_text_passes() {
    let mut table: Vec<(String, Vec<u8>)> = Vec::new();
    for byte in (0..=0x1f_u8).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for (place, before, after) in [
            ("value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: a", "b\r\n\r\n"),
            ("end of a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: a", "\r\n\r\n"),
            ("name", "GET / HTTP/1.1\r\nHost: a\r\nX-", "A: b\r\n\r\n"),
            ("target", "GET /a", "b HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("method", "GE", "T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("Host", "GET / HTTP/1.1\r\nHost: a", "b\r\n\r\n"),
        ] {
            table.push((
                format!("{byte:#04x} in the {place}"),
                [before.as_bytes(), &[byte], after.as_bytes()].concat(),
            ));
        }
    }
    for (place, bytes) in [
        ("name", &b"GET / HTTP/1.1\r\nHost: a\r\nX-\xe4: b\r\n\r\n"[..]),
        ("method", b"G\xe4T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("Host", b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n"),
        ("target", b"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        table.push((format!("a byte above 0x7f, or TAB, in the {place}"), bytes.to_vec()));
    }
    let mut guarded = Guarded::http1().await;
    for (case, bytes) in &table {
        guarded.refuses(case, bytes, 400, "bad_request").await;
    }
    guarded.finish().await;
    for mut guarded in Guarded::both().await {
        let obs_text = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: \xc3\xa4\xff\t\x80\r\n\r\n";
        let (_, received) = guarded.serves("obs-text in a value", "GET", obs_text).await;
        let value: Vec<u8> =
            received.header("x-a").expect("the field").chars().map(|one| one as u8).collect();
        assert_eq!(value, b"\xc3\xa4\xff\t\x80", "upstream {}", guarded.upstream);
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a17_what_is_too_large() {
    let fields = |count: usize| (0..count).map(|number| format!("X-{number}: 1\r\n")).collect::<String>();
    let field = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "a".repeat(length));
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(count));
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length));
    let mut guarded = Guarded::http1().await;
    for (case, bytes, status, reason) in [
        ("a field of 128 KiB", field(128 << 10), 431, "headers_too_large"),
        ("a field of 1 MiB", field(1 << 20), 431, "headers_too_large"),
        ("101 fields", many(100), 431, "headers_too_large"),
        ("1,000 fields", many(999), 431, "headers_too_large"),
        ("10,000 fields", many(9_999), 431, "headers_too_large"),
        ("a target of 128 KiB", target(128 << 10), 414, "target_too_long"),
        ("a target of 17 KiB", target(17 << 10), 414, "target_too_long"),
        (
            "a method of 32 KiB",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(32 << 10)),
            400,
            "bad_request",
        ),
        (
            "a host of 64 KiB",
            format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(50 << 10)),
            400,
            "bad_request",
        ),
    ] {
        guarded.refuses(case, bytes.as_bytes(), status, reason).await;
    }
    guarded.finish().await;
    for mut guarded in Guarded::both().await {
        for (case, bytes) in [
            ("a field of 16 KiB", field(16 << 10)),
            ("100 fields", many(99)),
            ("a target of 8 KiB", target(8 << 10)),
        ] {
            guarded.serves(case, "GET", bytes.as_bytes()).await;
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a17_one_byte_at_a_time() {
    let mut guarded = Guarded::http1().await;
    let bytes = b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n";
    let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
    for byte in bytes {
        client.send(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = wait::within("an answer", client.response("POST")).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(guarded.records(1).await[0].status, 200);
    drop(client);
    guarded.finish().await;
}

#[tokio::test]
async fn a17_a_client_that_holds_back_its_head_holds_little_memory() {
    let mut guarded = Guarded::http1().await;
    let before = guarded.proxy.process.resident();
    // Just below the limit, and no end to it.
    let part = format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}", "a".repeat(59 << 10));
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        client.send(part.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // Served after all of those were read: one worker takes them in turn.
    assert_eq!(guarded.proxy.get("/beside").await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let grown = guarded.proxy.process.resident().saturating_sub(before);
    assert!(grown <= COUNT * (64 + 32 + 32), "{grown} KiB for {COUNT} connections");
    guarded.records(1).await;
    drop(clients);
    guarded.finish().await;
}

const COUNT: usize = 100;

#[tokio::test]
async fn a23_pipelined_requests_are_answered_in_order() {
    for mut guarded in Guarded::both().await {
        for count in [3, 1_000] {
            let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
            let bytes: String = (0..count)
                .map(|number| {
                    format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n{number:06}")
                })
                .collect();
            // Small enough for the buffers between.
            client.send(bytes.as_bytes()).await.unwrap();
            for number in 0..count {
                let answer = wait::within("an answer", client.response("POST")).await.unwrap();
                assert_eq!((answer.status, answer.text()), (200, format!("{number:06}")));
            }
            guarded.records(count).await;
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a23_nothing_runs_after_a_malformed_request() {
    let mut guarded = Guarded::http1().await;
    let before = guarded.origin.count();
    let bytes = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers = guarded.answers("a malformed second request", bytes.as_bytes()).await;
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 400]);
    assert_eq!(guarded.origin.count() - before, 1);
    let records = guarded.records(2).await;
    assert_eq!((records[0].status, records[1].status), (200, 400));
    guarded.finish().await;
}

#[tokio::test]
async fn a23_who_does_not_read_is_not_read_from() {
    let origin = Origin::recording(|_| Answer::text(&"a".repeat(64 << 10))).await;
    let gateway = Gateway::to(&[origin.address()]);
    let guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    let before = guarded.proxy.process.resident();
    let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
    let mut sent = 0;
    // Until nothing goes any more: the socket buffers of both sides are full.
    while sent < 200 {
        match tokio::time::timeout(Duration::from_millis(500), client.send(bytes.as_bytes())).await {
            Ok(sending) => sending.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    let grown = guarded.proxy.process.resident().saturating_sub(before);
    assert!(grown <= 4 << 10, "{grown} KiB for one client that does not read");
    assert!(guarded.origin.count() < 200, "{} requests ran ahead of their answers", guarded.origin.count());
    drop(client);
    wait::until_equal("requests in flight", 0, async || guarded.origin.open_connections().saturating_sub(1))
        .await;
    assert_eq!(guarded.proxy.call(&Call::get("/")).await.status, 200);
}

#[tokio::test]
async fn a25_versions() {
    let table: Vec<(String, Vec<u8>)> = [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/1.01",
        "HTTP/01.1",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3",
        "http/1.1",
        "HTTP/1,1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP1.1",
        "HTTP/11",
        "HTTPS/1.1",
        "ICY/1.1",
        "HTTP/-1.1",
        "HTTP/1.1x",
        "xHTTP/1.1",
    ]
    .iter()
    .map(|version| ((*version).to_owned(), format!("GET / {version}\r\nHost: a\r\n\r\n").into_bytes()))
    .chain([
        ("0.9".to_owned(), b"GET /\r\n\r\n".to_vec()),
        ("two spaces".to_owned(), b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a tab".to_owned(), b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a space behind".to_owned(), b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_vec()),
        ("a space before".to_owned(), b" GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("no method".to_owned(), b"/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a response".to_owned(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("another protocol".to_owned(), b"SSH-2.0-OpenSSH_9.7\r\n\r\n".to_vec()),
        ("TLS".to_owned(), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n".to_vec()),
    ])
    .collect();
    let mut guarded = Guarded::http1().await;
    for (case, bytes) in &table {
        guarded.refuses(case, bytes, 400, "bad_request").await;
    }
    guarded.finish().await;
}
