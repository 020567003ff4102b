//! A13, A14, A24, I7: which host and which resource are asked for, and what a client can make the proxy drop.

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::{Call, values};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;

#[tokio::test]
async fn a13_targets_that_are_no_target() {
    let targets = [
        "*",
        "a:80",
        "a",
        "a/b",
        "http:///x",
        "http://",
        "http:/a/",
        "http:a",
        "http://:80/",
        "http://u@a/",
        "http://u:p@a/",
        "ftp://a/",
        "https://a/",
        "ws://a/",
        "file:///etc/passwd",
        "://a/",
        "/#a",
        "/a#",
        "http://a/#b",
        "http://a#b",
        "http://a, b/",
        "http://a:x/",
        "http://a:99999/",
        "http://a\\b/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://a..b/",
        "?a",
        "\\",
        ".",
        "../a",
        "@a/",
        "http//a/",
        "http://%61/",
    ];
    let mut guarded = Guarded::http1().await;
    for target in targets {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        guarded.refuses(target, bytes.as_bytes(), 400, "bad_request").await;
    }
    for (case, bytes) in [
        ("absolute without Host", "GET http://a/ HTTP/1.1\r\n\r\n"),
        ("absolute with two Hosts", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("absolute with a bad Host", "GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("POST *", "POST * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        ("OPTIONS a:80", "OPTIONS a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("OPTIONS **", "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        guarded.refuses(case, bytes.as_bytes(), 400, "bad_request").await;
    }
    guarded.finish().await;
}

#[tokio::test]
async fn a13_the_target_says_which_host() {
    for mut guarded in Guarded::both().await {
        for (bytes, target, authority) in [
            ("GET http://inner/x HTTP/1.1\r\nHost: outer\r\n\r\n", "/x", "inner"),
            ("GET http://inner/x HTTP/1.1\r\nHost:\r\n\r\n", "/x", "inner"),
            ("GET HTTP://inner:80?q HTTP/1.1\r\nHost: outer\r\n\r\n", "/?q", "inner:80"),
            ("GET http://inner HTTP/1.1\r\nHost: outer\r\n\r\n", "/", "inner"),
            ("OPTIONS * HTTP/1.1\r\nHost: outer\r\n\r\n", "*", "outer"),
            ("OPTIONS http://inner HTTP/1.1\r\nHost: outer\r\n\r\n", "*", "inner"),
            ("OPTIONS http://inner/ HTTP/1.1\r\nHost: outer\r\n\r\n", "/", "inner"),
        ] {
            let method = bytes.split(' ').next().unwrap();
            // `*` has no route under `prefix: /`: it is answered, and goes nowhere.
            if target == "*" {
                let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
                client.send(bytes.as_bytes()).await.unwrap();
                let answer = wait::within("an answer", client.response(method)).await.unwrap();
                let record = guarded.records(1).await.remove(0);
                assert_eq!((answer.status, record.status), (404, 404), "{bytes:?}: {answer:?}");
                continue;
            }
            let (_, received) = guarded.serves(bytes, method, bytes.as_bytes()).await;
            assert_eq!(
                (received.target.as_str(), received.authority.as_str()),
                (target, authority),
                "{bytes:?}"
            );
        }
        guarded.finish().await;
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table")]
async fn a14_hosts_that_are_no_host() {
    let hosts = [
        "a, b",
        "a,a",
        "a b",
        "u@a",
        "u:p@a",
        "a@",
        "a/b",
        "a/",
        "/a",
        "a?b",
        "a#b",
        "a\\b",
        "a:http",
        "a:",
        "a:-1",
        "a:+80",
        "a:99999",
        "a:80:80",
        ":80",
        ".a",
        "a..b",
        ".",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[::1",
        "::1",
        "[::1]x",
        "[]",
        "a%41",
        "a;b",
        "a=b",
        "\"a\"",
        "<a>",
        "a|b",
        "*",
        "*.a",
        "http://a",
        "\u{e4}.test",
    ];
    for mut guarded in Guarded::both().await {
        for host in hosts {
            let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            guarded.refuses(&format!("Host: {host:?}"), bytes.as_bytes(), 400, "bad_request").await;
        }
        for (case, head) in [
            ("none", ""),
            ("empty", "Host:\r\n"),
            ("blank", "Host: \t \r\n"),
            ("two equal", "Host: a\r\nHost: a\r\n"),
            ("two different", "Host: a\r\nHost: b\r\n"),
            ("the second empty", "Host: a\r\nHost:\r\n"),
            ("folded", "Host: a\r\n b\r\n"),
            ("space before the colon", "Host : a\r\n"),
        ] {
            let bytes = format!("GET / HTTP/1.1\r\n{head}\r\n");
            guarded.refuses(case, bytes.as_bytes(), 400, "bad_request").await;
        }
        for host in ["a", "a.test:8080", "[::1]", "[2001:db8::1]:80", "10.0.0.1:1"] {
            let bytes = format!("GET / HTTP/1.1\r\nhOST: \t{host} \r\n\r\n");
            let (_, received) = guarded.serves(host, "GET", bytes.as_bytes()).await;
            assert_eq!(received.authority, host);
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn i7_one_host_has_one_form() {
    let origin = Origin::recording(|_| Answer::text("ok")).await;
    let gateway = Gateway::new().cluster("app", &[origin.address()]).http(
        "{route_config: {name: main, ignore_port_in_host_matching: true, virtual_hosts: [
          {name: secret, domains: [secret.test], routes: [{match: {prefix: /}, direct_response: {status: 403}}]},
          {name: wild, domains: ['*.wild.test'], routes: [{match: {prefix: /}, direct_response: {status: 202}}]},
          {name: address, domains: ['10.0.0.1', '[::1]'], routes: [{match: {prefix: /}, direct_response: {status: 201}}]},
          {name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}}",
    );
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    for (host, status) in [
        ("secret.test", 403),
        ("SECRET.test", 403),
        ("Secret.Test:80", 403),
        ("secret.test:443", 403),
        ("secret.test.", 403),
        ("SECRET.TEST.:8080", 403),
        ("asecret.test", 200),
        ("secret.test.evil.test", 200),
        ("xn--secret.test", 200),
        ("one.wild.test", 202),
        ("ONE.Wild.Test.:1", 202),
        ("wild.test", 200),
        (".wild.test", 400),
        ("notwild.test", 200),
        ("10.0.0.1:81", 201),
        ("[::1]:81", 201),
        ("10.0.0.10", 200),
    ] {
        for absolute in [false, true] {
            // The same host in the target, where it counts, beside another one.
            let call = match absolute {
                false => Call::get("/").host(host),
                true => Call::get(&format!("http://{host}/")).host("other.test"),
            };
            let answer = guarded.proxy.call(&call).await;
            assert_eq!(answer.status, status, "{host}, absolute: {absolute}");
            assert_eq!(guarded.records(1).await[0].status, status, "{host}");
        }
    }
    guarded.finish().await;
}

#[tokio::test]
async fn a24_what_is_for_one_hop_stays_and_nothing_else_can_be_made_to() {
    for mut guarded in Guarded::both().await {
        for (connection, field, stays) in [
            ("X-Hop", "X-Hop: 1", false),
            ("close, x-hop", "X-HOP: 1", false),
            ("x-a\r\nConnection: ,,X-Hop,", "x-hop: 1", false),
            ("keep-alive", "Keep-Alive: timeout=5", false),
            ("keep-alive", "Proxy-Connection: keep-alive", false),
            ("TE", "TE: trailers, gzip", false),
            ("X-Other", "X-Hop: 1", true),
            ("Authorization", "Authorization: Basic Zm9v", true),
            ("Cookie", "Cookie: a=b", true),
            ("X-Forwarded-Host", "X-Forwarded-Host: b", true),
            ("X-Request-Id", "X-Request-Id: one", true),
            ("Content-Type", "Content-Type: text/plain", true),
            ("Accept-Encoding", "Accept-Encoding: gzip", true),
            ("X-Api-Key", "X-Api-Key: k", true),
            ("If-Match", "If-Match: \"a\"", true),
            ("Range", "Range: bytes=0-1", true),
            ("Via", "Via: 1.1 a", true),
        ] {
            // HTTP/1.1 keeps the connection unless `close` is said.
            let bytes = format!(
                "GET /a24 HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n{field}\r\n\r\n",
                connection.replace("close, ", "")
            );
            let (_, received) = guarded.serves(connection, "GET", bytes.as_bytes()).await;
            let (name, _) = field.split_once(':').unwrap();
            assert_eq!(
                !values(&received.headers, name).is_empty(),
                stays,
                "Connection: {connection}; {field}: {received:?}"
            );
            let left = values(&received.headers, "connection");
            assert!(left.is_empty(), "Connection: {connection}: {left:?} went on");
        }
        for nominated in ["Host", "Content-Length", "Content-Length, Host", "Transfer-Encoding"] {
            let bytes = format!(
                "POST /a24 HTTP/1.1\r\nHost: a\r\nConnection: {nominated}\r\nContent-Length: 5\r\n\r\nhello"
            );
            let (_, received) = guarded.serves(nominated, "POST", bytes.as_bytes()).await;
            assert_eq!(
                (received.authority.as_str(), received.body.as_slice()),
                ("a", b"hello".as_slice()),
                "{nominated}"
            );
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "x,".repeat(10_000));
        guarded.refuses("10,000 options", many.as_bytes(), 400, "bad_request").await;
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a24_what_the_proxy_says_cannot_be_made_to_go() {
    let origin = Origin::recording(Answer::echo).await;
    let gateway = Gateway::to(&[origin.address()]).http("{use_remote_address: true}");
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    for name in ["X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "traceparent", "x-b3-traceid"] {
        let bytes = format!("GET /a24 HTTP/1.1\r\nHost: a\r\nConnection: {name}\r\n{name}: 6.6.6.6\r\n\r\n");
        let (_, received) = guarded.serves(name, "GET", bytes.as_bytes()).await;
        if let "X-Forwarded-For" | "X-Forwarded-Proto" | "X-Request-Id" = name {
            let said = values(&received.headers, name);
            assert!(said.len() == 1 && said[0] != "6.6.6.6", "{name}: {received:?}");
        }
    }
    guarded.finish().await;
}
