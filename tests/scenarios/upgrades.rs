//! WebSocket, CONNECT and other tunnels, over either version on either side: held until the other side has agreed (R1), counted and
//! logged like any exchange, bounded and ended in order.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::Call;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::switch::{Stream, Switch, agree};
use sidegate_tests::wait;

const WEBSOCKET: &str =
    "{upgrade_configs: [{upgrade_type: websocket}], http2_protocol_options: {allow_connect: true}}";
/// The example of RFC 6455 §1.2.
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

async fn gateway(sandbox: &Sandbox, origin: SocketAddr) -> Proxy {
    Gateway::to(&[origin]).http(WEBSOCKET).with_admin().start(sandbox).await
}

/// Says something through the tunnel and hears it back, large and small; then ends.
async fn echoes(client: &mut Http1) {
    for piece in [b"ping".to_vec(), vec![b'x'; 300_000]] {
        client.send(&piece).await.expect("the tunnel takes bytes");
        let heard = wait::within("the echo", client.read(piece.len())).await;
        assert!(heard.expect("the tunnel is open") == piece);
    }
    client.finish().await.expect("the tunnel is open");
    assert_eq!(wait::within("the end", client.rest()).await.expect("an orderly end"), b"");
}

/// How many requests are in flight to the upstream, as the statistics say it.
async fn active(proxy: &Proxy) -> String {
    let stats = proxy.admin("/stats").await.text();
    stats
        .lines()
        .find(|line| line.starts_with("cluster.app.upstream_rq_active"))
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a15_websocket_over_http1_to_http1() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(ASK.as_bytes()).await.unwrap();
    let answer = wait::within("101", client.response("GET")).await.unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(active(&proxy).await.ends_with(" 1"), "the tunnel counts");
    echoes(&mut client).await;
    let seen = origin.seen();
    assert_eq!((seen.len(), seen[0].through.len(), seen[0].ended), (1, 300_004, true));
    assert_eq!(seen[0].head.matches("pgrade").count(), 2, "{}", seen[0].head);
    wait::until_equal("the tunnel's place", true, async || active(&proxy).await.ends_with(" 0")).await;
}

#[tokio::test]
async fn a15_nothing_goes_through_before_the_101() {
    let sandbox = Sandbox::new();
    let origin = Switch::http1(Duration::from_millis(300), agree).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(wait::within("101", client.response("GET")).await.unwrap().status, 101);
    // Once it is a tunnel, they are its bytes.
    assert!(wait::within("the echo", client.read(35)).await.unwrap().starts_with(b"GET /smuggled"));
    assert_eq!(origin.seen()[0].early, b"", "held until the upstream had agreed");
}

#[tokio::test]
async fn a15_an_answer_other_than_101_is_an_answer_and_the_last_one() {
    for status in ["200 OK", "403 Forbidden"] {
        let sandbox = Sandbox::new();
        let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
        let origin = Switch::http1(Duration::ZERO, move |_| reply.clone()).await;
        let proxy = gateway(&sandbox, origin.address()).await;
        let mut client = Http1::connect(proxy.address).await.unwrap();
        client.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = wait::within("an answer", client.response("GET")).await.unwrap();
        assert_eq!((&*answer.text(), answer.header("connection")), ("no", Some("close")), "{answer:?}");
        assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
        assert_eq!(origin.seen().len(), 1, "what stood behind was not run");
    }
}

#[tokio::test]
async fn a15_what_is_not_allowed_is_refused() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let routes = "[{match: {prefix: /off}, route: {cluster: app, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}},
        {match: {prefix: /spdy}, route: {cluster: app, upgrade_configs: [{upgrade_type: SPDY/3.1}]}},
        {match: {prefix: /}, route: {cluster: app}}]";
    let proxy = Gateway::to(&[origin.address()]).http(WEBSOCKET).routes(routes).start(&sandbox).await;
    let table = [
        ("/", "foo", "", 403),
        ("/", "websocket, foo", "", 403),
        ("/off", "websocket", "", 403),
        ("/spdy", "SPDY/3.1", "", 101),
        ("/", "spdy/3.1", "", 403),
        ("/", "websocket", "Content-Length: 2\r\n", 400),
        ("/", "websocket", "Transfer-Encoding: chunked\r\n", 400),
    ];
    for (path, protocol, field, expected) in table {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        let ask = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n{field}\r\n"
        );
        client.send(format!("{ask}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = wait::within("an answer", client.response("GET")).await.unwrap();
        assert_eq!(answer.status, expected, "{path} {protocol} {field}");
        if expected != 101 {
            assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
        }
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a15_h2c_is_not_passed_on() {
    let sandbox = Sandbox::new();
    let origin =
        Switch::http1(Duration::ZERO, |_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let call = Call::get("/").header("Connection", "Upgrade, HTTP2-Settings").header("Upgrade", "h2c");
    assert_eq!(proxy.call(&call.header("HTTP2-Settings", "AAMAAABkAAQAAP__")).await.status, 200);
    let head = origin.seen()[0].head.to_ascii_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[tokio::test]
async fn a19_a_101_to_another_protocol_is_refused() {
    let sandbox = Sandbox::new();
    let origin = Switch::http1(Duration::ZERO, |_| {
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".to_owned()
    })
    .await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(ASK.as_bytes()).await.unwrap();
    assert_eq!(wait::within("an answer", client.response("GET")).await.unwrap().status, 502);
    assert_eq!(proxy.get("/").await.status, 502, "nor one that nobody asked for");
}

#[tokio::test]
async fn websocket_over_http2_to_http1_and_to_http2() {
    let sandbox = Sandbox::new();
    // Its key is the proxy's: only a server that answers it rightly is believed.
    let origin = Switch::http1(Duration::ZERO, agree).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let stream = Stream::open(proxy.address, Some("websocket"), "http://a/chat").await.unwrap();
    assert_eq!(stream.status, 502, "no proof");
    let head = &origin.seen()[0].head;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\nhost: a\r\n"), "{head}");
    assert!(head.contains("sec-websocket-key: ") && head.contains("upgrade: websocket"), "{head}");

    // One that ignores the upgrade: over HTTP/2 its 200 would be the tunnel.
    let sandbox = Sandbox::new();
    let origin =
        Switch::http1(Duration::ZERO, |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_owned()).await;
    let proxy = gateway(&sandbox, origin.address()).await;
    let stream = Stream::open(proxy.address, Some("websocket"), "http://a/chat").await.unwrap();
    assert_eq!(stream.status, 502);

    let sandbox = Sandbox::new();
    let origin = Switch::http2(200).await;
    let proxy = Gateway::to_http2(&[origin.address()]).http(WEBSOCKET).start(&sandbox).await;
    let mut stream = Stream::open(proxy.address, Some("websocket"), "http://a/chat").await.unwrap();
    assert_eq!(stream.status, 200);
    for piece in [b"ping".to_vec(), vec![b'x'; 40_000]] {
        stream.send(&piece).await.unwrap();
        assert!(wait::within("the echo", stream.read(piece.len())).await.unwrap() == piece);
    }
    stream.finish().unwrap();
    assert_eq!(wait::within("the end", stream.read(1)).await.unwrap(), b"");
    let seen = &origin.seen()[0];
    assert!(seen.head.starts_with("CONNECT websocket /chat"), "{}", seen.head);
    assert_eq!((seen.through.len(), seen.ended), (40_004, true));
}

#[tokio::test]
async fn websocket_over_http1_to_http2() {
    let sandbox = Sandbox::new();
    let origin = Switch::http2(200).await;
    let proxy = Gateway::to_http2(&[origin.address()]).http(WEBSOCKET).start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(ASK.as_bytes()).await.unwrap();
    let answer = wait::within("101", client.response("GET")).await.unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some(ACCEPT)), "{answer:?}");
    echoes(&mut client).await;
    assert!(origin.seen()[0].head.starts_with("CONNECT websocket /chat"), "{}", origin.seen()[0].head);

    let sandbox = Sandbox::new();
    let origin = Switch::http2(403).await;
    let proxy = Gateway::to_http2(&[origin.address()]).http(WEBSOCKET).start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(ASK.as_bytes()).await.unwrap();
    assert_eq!(wait::within("an answer", client.response("GET")).await.unwrap().status, 403);
}

/// CONNECT ends at the proxy; everything goes to one address.
async fn connect_gateway(sandbox: &Sandbox, to: SocketAddr, fields: &str) -> Proxy {
    Gateway::new()
        .cluster("app", &[to])
        .routes("[{match: {connect_matcher: {}}, route: {cluster: app, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]")
        .http(fields)
        .start(sandbox)
        .await
}

#[tokio::test]
async fn a16_connect_over_either_version() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let proxy = connect_gateway(&sandbox, origin.address(), "{}").await;

    let mut client = Http1::connect(proxy.address).await.unwrap();
    // What is sent with the request is held until the connection is there.
    client.send(format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n{ASK}").as_bytes()).await.unwrap();
    assert_eq!(wait::within("200", client.response("CONNECT")).await.unwrap().status, 200);
    assert_eq!(wait::within("101", client.response("GET")).await.unwrap().status, 101);
    echoes(&mut client).await;
    assert!(origin.seen()[0].head.starts_with("GET /chat"), "untouched: {}", origin.seen()[0].head);

    let mut stream = Stream::open(proxy.address, None, "a:80").await.unwrap();
    assert_eq!(stream.status, 200);
    stream.send(ASK.as_bytes()).await.unwrap();
    assert!(wait::within("101", stream.read(20)).await.unwrap().starts_with(b"HTTP/1.1 101"));
    stream.send(b"ping").await.unwrap();
    assert_eq!(wait::within("the echo", stream.read(4)).await.unwrap(), b"ping");
    stream.finish().unwrap();
    assert_eq!(wait::within("the end", stream.read(1)).await.unwrap(), b"");
}

#[tokio::test]
async fn a16_a_connect_tunnel_holds_its_places_for_as_long_as_it_lasts() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let limits = "{circuit_breakers: {thresholds: [{max_connections: 1}]}}";
    let proxy = Gateway::new()
        .cluster_with("app", &[origin.address()], limits)
        .routes("[{match: {connect_matcher: {}}, route: {cluster: app, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    let in_flight = async || {
        let page = proxy.admin("/clusters").await.text();
        let name = format!("app::{}::rq_active::", origin.address());
        page.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default().to_owned()
    };
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await.unwrap();
    assert_eq!(wait::within("200", client.response("CONNECT")).await.unwrap().status, 200);
    assert_eq!(in_flight().await, "1", "balanced by");
    let mut second = Http1::connect(proxy.address).await.unwrap();
    second.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await.unwrap();
    assert_eq!(wait::within("503", second.response("CONNECT")).await.unwrap().status, 503);
    drop(client);
    wait::until_equal("connections", 0, async || proxy.stat("cluster.app.upstream_cx_active").await).await;
    wait::until_equal("requests in flight", "0".to_owned(), in_flight).await;
}

#[tokio::test]
async fn a16_connect_that_fails_runs_nothing_behind_it() {
    let sandbox = Sandbox::new();
    let proxy = connect_gateway(&sandbox, address(), "{}").await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client
        .send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(wait::within("503", client.response("CONNECT")).await.unwrap().status, 503);
    assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
    assert_eq!(Stream::open(proxy.address, None, "a:80").await.unwrap().status, 503);
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_one_that_moves_does_not() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let proxy = Gateway::to(&[origin.address()])
        .http(WEBSOCKET)
        .http("{stream_idle_timeout: 0.5s}")
        .start(&sandbox)
        .await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    client.send(ASK.as_bytes()).await.unwrap();
    assert_eq!(wait::within("101", client.response("GET")).await.unwrap().status, 101);
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_millis(1_200) {
        client.send(b"x").await.unwrap();
        assert_eq!(wait::within("the echo", client.read(1)).await.unwrap(), b"x");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait::within("the end", async { while client.readable().await.unwrap_or(false) {} }).await;
    wait::until_equal("upstream's end", true, async || origin.seen()[0].ended).await;
}

#[tokio::test]
async fn a_tunnel_is_logged_with_its_bytes_and_ends_with_the_shutdown() {
    let sandbox = Sandbox::new();
    let origin = Switch::agreeing().await;
    let log = sandbox.path().join("access.log");
    let fields = format!(
        "{{access_log: [{{name: file, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog,
          path: {}, log_format: {{text_format_source: {{inline_string: '%RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS%'}}}}}}}}]}}",
        log.display()
    );
    let mut proxy = Gateway::to(&[origin.address()])
        .http(WEBSOCKET)
        .http(&fields)
        .flags(&["--shutdown-delay-s", "0", "--drain-time-s", "1"])
        .start(&sandbox)
        .await;
    for _ in 0..2 {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        client.send(ASK.as_bytes()).await.unwrap();
        assert_eq!(wait::within("101", client.response("GET")).await.unwrap().status, 101);
        client.send(b"twelve bytes").await.unwrap();
        assert_eq!(wait::within("the echo", client.read(12)).await.unwrap(), b"twelve bytes");
        if proxy.process.is_running() && origin.seen().len() == 1 {
            client.finish().await.unwrap();
            assert_eq!(wait::within("the end", client.rest()).await.unwrap(), b"");
            continue;
        }
        proxy.process.terminate();
        wait::within("the cut", async { while client.readable().await.unwrap_or(false) {} }).await;
    }
    assert!(wait::within("the proxy's end", proxy.process.ended()).await.success());
    let lines = std::fs::read_to_string(log).unwrap();
    assert_eq!(lines.lines().collect::<Vec<_>>(), ["101 12 12 -", "101 12 12 OM"], "{lines}");
}

/// Peers that nobody here wrote: Node's WebSocket client and HTTP/2 client, on both sides of the proxy. Says `ok` for each way.
const PEERS: &str = r#"
const http = require('http'), http2 = require('http2'), crypto = require('crypto');
const [proxyHost, proxyPort, host, port] = process.argv.slice(1);
const accept = key => crypto.createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
// Short text frames, as both sides send them here (RFC 6455 section 5.2).
const frame = text => Buffer.concat([Buffer.from([0x81, text.length]), Buffer.from(text)]);
const masked = text => Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
const unmask = bytes => bytes.subarray(6).map((byte, at) => byte ^ bytes[2 + at % 4]).toString();
const server = http.createServer();
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    'Sec-WebSocket-Accept: ' + accept(request.headers['sec-websocket-key']) + '\r\n\r\n');
  socket.on('data', bytes => { if ((bytes[0] & 15) === 1) socket.write(frame('echo ' + unmask(bytes))); else socket.end(); });
  socket.on('error', () => {});
});
const fail = what => { console.log('failed: ' + what); process.exit(1); };
server.listen(+port, host, () => {
  const client = new WebSocket(`ws://${proxyHost}:${proxyPort}/chat`);
  client.onopen = () => client.send('hello');
  client.onerror = error => fail('HTTP/1.1 ' + error.message);
  client.onmessage = message => {
    if (message.data !== 'echo hello') fail(message.data);
    console.log('ok');
    client.close();
    const session = http2.connect(`http://${proxyHost}:${proxyPort}`);
    session.on('error', error => fail('HTTP/2 ' + error));
    session.on('remoteSettings', settings => {
      if (!settings.enableConnectProtocol) fail('no extended CONNECT');
      const stream = session.request({':method': 'CONNECT', ':protocol': 'websocket', ':path': '/chat', 'sec-websocket-version': '13'});
      stream.on('response', headers => { if (headers[':status'] !== 200) fail(headers[':status']); stream.write(masked('again')); });
      stream.on('data', bytes => {
        if (bytes.subarray(2).toString() !== 'echo again') fail(bytes.toString());
        console.log('ok');
        process.exit(0);
      });
    });
  };
});
"#;

#[tokio::test]
async fn a15_websocket_between_peers_that_nobody_here_wrote() {
    if Command::new("node").arg("--version").output().is_err() {
        return;
    }
    let sandbox = Sandbox::new();
    let origin = address();
    let proxy = gateway(&sandbox, origin).await;
    let to = [proxy.address, origin].map(|one| [one.ip().to_string(), one.port().to_string()]);
    let mut node = tokio::process::Command::new("node");
    let node =
        node.args(["--experimental-websocket", "-e", PEERS]).args(to.as_flattened()).kill_on_drop(true);
    let output = wait::within("the peers", node.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "ok\nok\n", "{}", String::from_utf8_lossy(&output.stderr));
}
