//! Handshakes and records that no honest client sends (battery C7): refused or bounded, and what they held is given back.

use std::process::{Output, Stdio};

use sidegate_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::*;

/// A ClientHello for `edge.test`, as one record.
fn client_hello() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("edge.test").expect("a name");
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a vector takes everything");
    bytes
}

/// A record with this content.
fn record(kind: u8, version: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short record").to_be_bytes();
    [&[kind, 3, version][..], &length, content].concat()
}

/// All that the proxy answers, until it closes or has been silent for long enough to be waiting.
async fn answer_to(proxy: &Proxy, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    // It may have closed in the middle.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(15), stream.read_to_end(&mut answer));
    let closed = read.await.is_ok();
    (answer, closed)
}

#[tokio::test]
async fn c7_odd_records_are_refused_or_bounded() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    let hello = client_hello();
    let body = &hello[5..];
    let fragments: Vec<u8> = body.iter().flat_map(|byte| record(22, 1, &[*byte])).collect();
    let (answer, closed) = answer_to(&proxy, &fragments).await;
    assert!(closed, "one that never goes on is closed in time");
    assert_eq!(answer.first(), Some(&22), "a ClientHello of one-byte records is still one");
    let flood = |one: &[u8]| one.repeat(10_000);
    let mut long = vec![1, 0, 0x50, 0];
    long.resize(0x4000, 0);
    let cases = [
        ("empty records", flood(&record(22, 1, &[]))),
        ("empty records of data", flood(&record(23, 3, &[]))),
        ("ChangeCipherSpec first", flood(&record(20, 3, &[1]))),
        ("ChangeCipherSpec after the hello", [hello.clone(), flood(&record(20, 3, &[1]))].concat()),
        ("a hello of 20 KiB", [record(22, 1, &long), record(22, 1, &long)].concat()),
        ("another version", record(22, 9, body)),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec()),
        ("alerts", flood(&record(21, 3, &[1, 90]))),
    ];
    for (what, bytes) in &cases {
        let (answer, closed) = answer_to(&proxy, bytes).await;
        assert!(closed, "{what}: still open");
        assert!(!answer.windows(5).any(|window| window == b"hello"), "{what}: {answer:?}");
    }
    // Keys that are changed without end, by a client that is otherwise in order.
    let client = Client::new(&authority, None);
    let mut connection = client.connect(proxy.address, "edge.test").await.unwrap();
    for _ in 0..10_000 {
        connection.stream.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
        if connection.stream.flush().await.is_err() {
            break;
        }
    }
    // Served or cut: either way others are.
    let _ = connection.get("edge.test", "/").await;
    assert!(client.get(proxy.address, "edge.test", "/").await.unwrap().ends_with("hello"));
    drop(connection);
    nothing_is_left(&proxy).await;
}

/// As many connections as before there were any.
async fn nothing_is_left(proxy: &Proxy) {
    let active = async || proxy.stat("listener.main.downstream_cx_active").await;
    wait::until_equal("open connections", 0, active).await;
    assert!(!proxy.process.log().contains("panicked"));
}

/// The ClientHello with one extension replaced, or added at the end.
fn with_extension(hello: &[u8], kind: u16, content: &[u8]) -> Vec<u8> {
    // Record, message, version, random: then the session, the cipher suites, the compressions, each after its length.
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + number(at);
    at += 1 + usize::from(hello[at]);
    let (mut extensions, begin) = (Vec::new(), at + 2);
    let mut here = begin;
    while here < begin + number(at) {
        let end = here + 4 + number(here + 2);
        if number(here) != usize::from(kind) {
            extensions.extend_from_slice(&hello[here..end]);
        }
        here = end;
    }
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("a short one").to_be_bytes();
    extensions.extend([&kind.to_be_bytes()[..], &length(content), content].concat());
    let body = [&hello[9..at], &length(&extensions), &extensions].concat();
    record(22, 1, &[&[1, 0][..], &length(&body), &body].concat())
}

/// How often a server asked for another ClientHello.
fn retries(answer: &[u8]) -> usize {
    // SHA-256 of `HelloRetryRequest`, which stands where a ServerHello has its random.
    let random =
        [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91];
    answer.windows(random.len()).filter(|window| *window == random).count()
}

#[tokio::test]
async fn c7_another_hello_is_asked_for_once() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    // Groups that both have, and a share of none of them.
    let hello = with_extension(&client_hello(), 51, &[0, 0]);
    for again in [1, 2, 1_000] {
        let (answer, closed) = answer_to(&proxy, &hello.repeat(1 + again)).await;
        assert!(closed, "{again} more: still open");
        assert_eq!(retries(&answer), 1, "{again} more: {answer:?}");
        // The last thing said is an alert, or nothing at all: a reset took it along.
        assert!(!answer.windows(5).any(|window| window == b"hello"));
    }
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn c7_early_data_is_never_taken() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let origin = Origin::named("app").await;
    let proxy = Gateway::to(&[origin.address()]).tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    let seen = origin.count();
    // Announced and sent without being asked, until somebody has had enough: nothing of it can be read, and it is not skipped for ever.
    let hello = with_extension(&client_hello(), 42, &[]);
    let (answer, closed) =
        answer_to(&proxy, &[hello, record(23, 3, &[7; 1_000]).repeat(1_000)].concat()).await;
    assert!(closed && answer.first() == Some(&22), "{closed} {answer:?}");
    assert_eq!(origin.count(), seen);
    // By openssl, with a session that could carry it if the server allowed any.
    let session = sandbox.path().join("session").display().to_string();
    let request = b"GET / HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n";
    let early = sandbox.write("early", &String::from_utf8_lossy(request)).display().to_string();
    let first = s_client(proxy.address, &["-tls1_3", "-ign_eof", "-sess_out", &session], request).await;
    let text = said(&first);
    assert!(text.contains("200 OK") && text.contains("Max Early Data: 0"), "{text}");
    let arguments = ["-tls1_3", "-ign_eof", "-sess_in", &session, "-early_data", &early];
    let second = s_client(proxy.address, &arguments, request).await;
    let text = said(&second);
    assert!(!text.contains("Early data was accepted") && text.contains("Early data was"), "{text}");
    assert_eq!(origin.count(), seen + 2, "once for each handshake");
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn c7_nothing_is_negotiated_twice_and_no_certificate_is_taken_afterwards() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    // `R` asks s_client to begin another handshake.
    let renegotiated = s_client(proxy.address, &["-tls1_2"], b"R\n").await;
    let text = said(&renegotiated);
    assert!(text.contains("RENEGOTIATING"), "{text}");
    assert!(text.contains("no renegotiation") || text.contains("unexpected"), "{text}");
    // A client that would show a certificate later is served without being asked.
    let request = b"GET / HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n";
    let willing = s_client(proxy.address, &["-tls1_3", "-enable_pha", "-ign_eof"], request).await;
    assert!(said(&willing).contains("200 OK"), "{}", said(&willing));
    nothing_is_left(&proxy).await;
}

/// `openssl s_client` with this input, to its end. Its stdin stays open: at its end s_client would leave by itself.
async fn s_client(address: SocketAddr, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "edge.test"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may have ended before.
    let _ = stdin.write_all(input).await;
    let _ = stdin.flush().await;
    let output = wait::within("the end of openssl", child.wait_with_output()).await;
    drop(stdin);
    output.expect("its output")
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}
