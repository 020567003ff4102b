//! Which filter chain a connection is for, what comes before it, and who speaks first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sidegate_tests::certificates::{Authority, Leaf};
use sidegate_tests::gateway::{Gateway, Proxy, socket, tcp_proxy, typed};
use sidegate_tests::message::Call;
use sidegate_tests::origin::Origin;
use sidegate_tests::process::Process;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::{client, secure, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

/// A server of bytes: says a word to every connection, at once or after the first bytes, and keeps what comes.
struct Raw {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Raw {
    async fn start(word: &'static str, speaks_first: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback works");
        let address = listener.local_addr().expect("loopback works");
        let taken: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = taken.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = {
                    let mut all = all.lock().expect("loopback works");
                    all.push(Vec::new());
                    all.len() - 1
                };
                let all = all.clone();
                tokio::spawn(async move {
                    if speaks_first {
                        let _ = stream.write_all(word.as_bytes()).await;
                    }
                    let mut buffer = vec![0; 64 * 1024];
                    let mut said = speaks_first;
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        all.lock().expect("loopback works")[number].extend_from_slice(&buffer[..count]);
                        if !std::mem::replace(&mut said, true) {
                            let _ = stream.write_all(word.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { address, taken }
    }

    fn taken(&self) -> Vec<Vec<u8>> {
        self.taken.lock().expect("loopback works").iter().filter(|bytes| !bytes.is_empty()).cloned().collect()
    }
}

async fn word(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    wait::within("a word from upstream", stream.read_exact(&mut bytes)).await.expect("a whole word");
    String::from_utf8(bytes).expect("loopback works")
}

/// A ClientHello as rustls writes it.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("loopback works");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("loopback works");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("loopback works");
    bytes
}

/// A connection from an address of this host's own choice.
async fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("loopback works");
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0)).expect("loopback works");
    socket.connect(to).await.expect("loopback works")
}

/// Whether the other end resets the connection.
async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match wait::within("an end", stream.read_to_end(&mut rest)).await {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn ask(stream: &mut TcpStream, ahead: &[u8]) -> String {
    stream.write_all(ahead).await.expect("loopback works");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
        .await
        .expect("loopback works");
    let mut answer = Vec::new();
    let _ = wait::within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const INSPECTOR: &str = "listener_filters: [{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]";
const HEADER: &str = "listener_filters: [{name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]";

#[tokio::test]
async fn the_handshake_of_an_endpoint_is_no_word() {
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["app.test"]));
    let (secured, other) = (secure::Origin::start("app", &pair, None).await, Raw::start("two", false).await);
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": authority.pem}}},
    });
    let socket =
        json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}});
    let proxy = Gateway::new()
        .cluster_with("secured", &[secured.address()], &socket.to_string())
        .cluster("other", &[other.address])
        .listener(INSPECTOR)
        // For this client alone: the endpoint must not be dialled for who looks whether the proxy is there.
        .opaque_chain(
            "{transport_protocol: raw_buffer, source_prefix_ranges: [{address_prefix: 127.9.9.9, prefix_len: 32}]}",
            "secured",
        )
        .opaque_chain("{transport_protocol: tls}", "other")
        .start(&sandbox)
        .await;
    let mut stream = from(Ipv4Addr::new(127, 9, 9, 9), proxy.address).await;
    // The endpoint that might have a word was dialled: it shook hands, and that was all.
    wait::until("a handshake", async || (secured.connections() > 0).then_some(())).await;
    stream.write_all(&client_hello("app.test")).await.expect("loopback works");
    assert_eq!(word(&mut stream, 3).await, "two");
}

#[tokio::test]
async fn e4_server_names_choose_the_backend_and_the_hello_passes_untouched() {
    let sandbox = Sandbox::new();
    let (one, other) = (Raw::start("one", false).await, Raw::start("two", false).await);
    let proxy = Gateway::new()
        .cluster("one", &[one.address])
        .cluster("other", &[other.address])
        .listener(INSPECTOR)
        .opaque_chain("{server_names: [one.test]}", "one")
        .opaque_chain("{server_names: ['*.other.test']}", "other")
        .with_admin()
        .start(&sandbox)
        .await;
    for (name, expected, backend) in [("one.test", "one", &one), ("x.y.other.test", "two", &other)] {
        let hello = client_hello(name);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in hello.chunks(100) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(word(&mut stream, 3).await, expected);
        assert_eq!(backend.taken(), [hello]);
    }
    let mut stranger = TcpStream::connect(proxy.address).await.unwrap();
    stranger.write_all(&client_hello("third.test")).await.unwrap();
    assert!(is_reset(&mut stranger).await, "no chain for it");
    let counted = async || proxy.stat("listener.main.no_filter_chain_match").await;
    wait::until_equal("connections that no chain takes", 1, counted).await;
}

#[tokio::test]
async fn e4_tls_and_plain_on_one_port() {
    let sandbox = Sandbox::new();
    let opaque = Raw::start("tls", false).await;
    let origin = Origin::named("plain").await;
    let proxy = Gateway::to(&[origin.address()])
        .cluster("opaque", &[opaque.address])
        .listener(INSPECTOR)
        .opaque_chain("{transport_protocol: tls}", "opaque")
        .http_chain("{transport_protocol: raw_buffer}")
        .start(&sandbox)
        .await;
    assert_eq!(proxy.get("/").await.text(), "plain");
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(&client_hello("a.test")).await.unwrap();
    assert_eq!(word(&mut stream, 3).await, "tls");
    // A request in single bytes is no TLS either, from its first byte on.
    let mut slow = TcpStream::connect(proxy.address).await.unwrap();
    slow.write_all(b"G").await.unwrap();
    assert!(ask(&mut slow, b"ET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n").await.contains("plain"));
}

#[tokio::test]
async fn e4_who_speaks_first_decides() {
    let sandbox = Sandbox::new();
    let (greeter, tls) = (Raw::start("220 hello", true).await, Raw::start("tls", false).await);
    let proxy = Gateway::new()
        .cluster("greeter", &[greeter.address])
        .cluster("tls", &[tls.address])
        .listener(INSPECTOR)
        .opaque_chain("{transport_protocol: tls}", "tls")
        .opaque_chain("{}", "greeter")
        .start(&sandbox)
        .await;
    let started = Instant::now();
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(word(&mut client, 9).await, "220 hello");
    assert!(started.elapsed() < Duration::from_secs(5), "the greeting waited for {:?}", started.elapsed());
    client.write_all(b"EHLO me\r\n").await.unwrap();
    wait::until("the client's word", async || {
        greeter.taken().contains(&b"EHLO me\r\n".to_vec()).then_some(())
    })
    .await;
    // A client that speaks at once, TLS or not, is never mistaken.
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(&client_hello("a.test")).await.unwrap();
    assert_eq!(word(&mut client, 3).await, "tls");
}

#[tokio::test]
async fn e4_a_slow_client_is_still_taken_for_what_it_says() {
    let sandbox = Sandbox::new();
    let (silent, tls) = (Raw::start("raw", false).await, Raw::start("tls", false).await);
    let proxy = Gateway::new()
        .cluster("silent", &[silent.address])
        .cluster("tls", &[tls.address])
        .opaque_chain("{transport_protocol: tls}", "tls")
        .opaque_chain("{}", "silent")
        .start(&sandbox)
        .await;
    let mut late = TcpStream::connect(proxy.address).await.unwrap();
    let dialled = async || (silent.taken.lock().unwrap().len() > 1).then_some(());
    wait::until("the opaque endpoint is dialled meanwhile", dialled).await;
    late.write_all(&client_hello("a.test")).await.unwrap();
    assert_eq!(word(&mut late, 3).await, "tls");
    let mut raw = TcpStream::connect(proxy.address).await.unwrap();
    let dialled = async || (silent.taken.lock().unwrap().len() > 2).then_some(());
    wait::until("it is dialled again", dialled).await;
    raw.write_all(b"hi").await.unwrap();
    assert_eq!(word(&mut raw, 3).await, "raw");
    assert_eq!(silent.taken(), [b"hi".to_vec()], "nothing of the other connection");
}

#[tokio::test]
async fn filter_chains_by_destination_and_source() {
    let sandbox = Sandbox::new();
    let (port, prefix, source, rest) = (
        Raw::start("port", true).await,
        Raw::start("dest", true).await,
        Raw::start("from", true).await,
        Raw::start("rest", true).await,
    );
    let (second, third) = (address(), SocketAddr::new(Ipv4Addr::new(127, 9, 9, 9).into(), address().port()));
    let proxy = Gateway::new()
        .cluster("port", &[port.address])
        .cluster("prefix", &[prefix.address])
        .cluster("source", &[source.address])
        .cluster("rest", &[rest.address])
        .listener(
            &json!({"additional_addresses": [{"address": socket(second)}, {"address": socket(third)}]})
                .to_string(),
        )
        .opaque_chain(&format!("{{destination_port: {}}}", second.port()), "port")
        .opaque_chain("{prefix_ranges: [{address_prefix: 127.9.0.0, prefix_len: 16}]}", "prefix")
        .opaque_chain("{source_prefix_ranges: [{address_prefix: 127.8.0.0, prefix_len: 16}]}", "source")
        .listener(&json!({"default_filter_chain": {"filters": [tcp_proxy("rest")]}}).to_string())
        .start(&sandbox)
        .await;
    let (here, there) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 8, 1, 1));
    for (source, to, expected) in [
        (here, second, "port"),
        (there, second, "port"),
        (there, third, "dest"),
        (there, proxy.address, "from"),
        (here, proxy.address, "rest"),
    ] {
        let mut stream = from(source, to).await;
        assert_eq!(word(&mut stream, 4).await, expected, "from {source} to {to}");
    }
}

/// A proxy before an origin, that wants a PROXY header and believes it.
async fn behind_a_balancer(sandbox: &Sandbox) -> (Origin, Proxy) {
    let origin = Origin::named("app").await;
    let gateway =
        Gateway::to(&[origin.address()]).http("{use_remote_address: true}").listener(HEADER).with_admin();
    (origin, gateway.start(sandbox).await)
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[tokio::test]
async fn e4_a_proxy_header_names_the_client() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = behind_a_balancer(&sandbox).await;
    let v2 = [SIGNATURE, b"\x21\x11\0\x0c\xc0\0\x02\x09\x7f\0\0\x01\0\x09\0\x50"].concat();
    let local = [SIGNATURE, b"\x20\0\0\0"].concat();
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 127.0.0.1 7 80\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 7 80\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&v2, "192.0.2.9"),
        (&local, "127.0.0.1"),
    ] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert!(ask(&mut stream, header).await.ends_with("app"), "{header:?}");
        assert_eq!(origin.last().header("x-forwarded-for"), Some(client));
        // In single bytes it means the same.
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in header {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(ask(&mut stream, b"").await.ends_with("app"), "{header:?} in pieces");
        assert_eq!(origin.last().header("x-forwarded-for"), Some(client));
    }
}

#[tokio::test]
async fn i3_a_mapped_address_is_the_client_that_it_maps() {
    let sandbox = Sandbox::new();
    let (inside, outside) = (Raw::start("one", false).await, Raw::start("two", false).await);
    let proxy = Gateway::new()
        .cluster("inside", &[inside.address])
        .cluster("outside", &[outside.address])
        .listener(HEADER)
        .opaque_chain("{source_prefix_ranges: [{address_prefix: 192.0.2.0, prefix_len: 24}]}", "inside")
        .opaque_chain("{}", "outside")
        .start(&sandbox)
        .await;
    // As balancers write that have one socket for both families.
    for (header, expected) in [
        (&b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:127.0.0.1 7 80\r\nhello"[..], "one"),
        (b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:127.0.0.1 7 80\r\nhello", "two"),
    ] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(header).await.unwrap();
        assert_eq!(word(&mut stream, 3).await, expected);
    }
}

#[tokio::test]
async fn i3_what_is_no_proxy_header_is_reset() {
    let sandbox = Sandbox::new();
    let (origin, proxy) = behind_a_balancer(&sandbox).await;
    let unix = [SIGNATURE, b"\x21\x31\0\xd8", &[b'/'; 216]].concat();
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
    let bad: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", b"PROXY TCP4 a b 1 2\r\n", &unix, &long];
    for (number, bytes) in bad.iter().enumerate() {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_reset(&mut stream).await, "{bytes:?}");
        let counted = async || proxy.stat("listener.main.downstream_pre_cx_malformed").await;
        wait::until_equal("malformed ones", number as u64 + 1, counted).await;
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn listener_filters_are_bounded_in_time() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let proxy = Gateway::to(&[origin.address()])
        .listener(HEADER)
        .listener("listener_filters_timeout: 0.2s")
        .with_admin()
        .start(&sandbox)
        .await;
    let before = proxy.stat("listener.main.downstream_pre_cx_timeout").await;
    let mut silent = TcpStream::connect(proxy.address).await.unwrap();
    silent.write_all(b"PROXY TCP4").await.unwrap();
    assert!(is_reset(&mut silent).await);
    let counted = async || proxy.stat("listener.main.downstream_pre_cx_timeout").await > before;
    wait::until_equal("counted", true, counted).await;
}

/// Starts HAProxy with this configuration, when it is installed.
fn haproxy(sandbox: &Sandbox, text: &str) -> Option<Process> {
    let program = std::path::Path::new("/usr/sbin/haproxy");
    if !program.exists() {
        eprintln!("haproxy is not installed: nothing is shown here");
        return None;
    }
    let defaults = "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n";
    let config = sandbox.write("haproxy.cfg", &format!("{defaults}{text}"));
    Some(Process::start(sandbox, "haproxy", program, ["-db", "-f", &config.display().to_string()]))
}

#[tokio::test]
async fn e4_haproxy_tells_us_who_the_client_is() {
    let sandbox = Sandbox::new();
    for version in ["send-proxy", "send-proxy-v2"] {
        let (origin, proxy) = behind_a_balancer(&sandbox).await;
        let front = address();
        let text = format!("listen l\n bind {front}\n server s {} {version}\n", proxy.address);
        let Some(_haproxy) = haproxy(&sandbox, &text) else { return };
        wait::until("haproxy listens", async || TcpStream::connect(front).await.ok()).await;
        let mut stream = from(Ipv4Addr::new(127, 7, 7, 7), front).await;
        assert!(ask(&mut stream, b"").await.ends_with("app"), "{version}");
        assert_eq!(origin.last().header("x-forwarded-for"), Some("127.7.7.7"), "{version}");
    }
}

#[tokio::test]
async fn ipv6() {
    let sandbox = Sandbox::new();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this host has no IPv6: nothing is shown here");
        return;
    }
    let origin = Origin::named("app").await;
    let six = SocketAddr::new("::1".parse().unwrap(), address().port());
    // Bound on every address: not one of the ports that other tests have on addresses of their own.
    let both = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let both_address = json!({"socket_address": {"address": "::", "port_value": both, "ipv4_compat": true}});
    let (chain, two) = (json!([]), json!({"additional_addresses": [{"address": socket(six)}]}));
    drop(chain);
    let gateway = Gateway::to(&[origin.address()]).http("{use_remote_address: true}");
    let proxy = gateway.listener(&two.to_string()).start(&sandbox).await;
    assert_eq!(client::call(six, &Call::get("/")).await.text(), "app");
    assert_eq!(origin.last().header("x-forwarded-for"), Some("::1"));
    drop(proxy);
    let other = Sandbox::new();
    let gateway = Gateway::to(&[origin.address()]).http("{use_remote_address: true}");
    let wild = gateway.listener(&json!({"additional_addresses": [{"address": both_address}]}).to_string());
    let _proxy = wild.start(&other).await;
    let four = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), both);
    assert_eq!(client::call(four, &Call::get("/")).await.text(), "app");
    assert_eq!(origin.last().header("x-forwarded-for"), Some("127.0.0.1"), "not ::ffff:127.0.0.1");
}

/// A listener that is not bound, for what others hand over.
fn virtual_listener(number: usize, destination: SocketAddr, cluster: &str) -> serde_json::Value {
    json!({
        "name": format!("virtual-{number}"),
        "address": socket(destination),
        "bind_to_port": false,
        "filter_chains": [{"filters": [tcp_proxy(cluster)]}],
    })
}

#[tokio::test]
async fn a_thousand_virtual_listeners_behind_one_socket() {
    let sandbox = Sandbox::new();
    let (odd, even, rest) =
        (Raw::start("odd", true).await, Raw::start("even", true).await, Raw::start("rest", true).await);
    let destination = |number: usize| -> SocketAddr {
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        // Every tenth is for its port on any address.
        let ip =
            if number.is_multiple_of(10) { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::new(10, 0, high, low) };
        (ip, 10_000 + u16::try_from(number).unwrap()).into()
    };
    let mut gateway = Gateway::opaque(&[rest.address])
        .cluster("odd", &[odd.address])
        .cluster("even", &[even.address])
        .listener(HEADER)
        .listener("use_original_dst: true")
        .with_admin();
    for number in 0..1000 {
        let cluster = if number % 2 == 0 { "even" } else { "odd" };
        gateway = gateway.other_listener(virtual_listener(number, destination(number), cluster));
    }
    let proxy = gateway.start(&sandbox).await;
    let id = proxy.process.id();
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    assert!(files < 64, "{files} descriptors: virtual listeners have no sockets");
    for (to, expected) in [
        (destination(1), "odd"),
        (destination(998), "even"),
        ("10.77.0.1:10990".parse().unwrap(), "even"),
        ("10.0.0.1:9".parse().unwrap(), "rest"),
    ] {
        let header = format!("PROXY TCP4 192.0.2.1 {} 1 {}\r\n", to.ip(), to.port());
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(header.as_bytes()).await.unwrap();
        assert_eq!(word(&mut stream, expected.len()).await, expected, "{to}");
    }
}

/// Processor time that a process has used, in hundredths of a second.
fn ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("loopback works");
    let fields = stat.rsplit_once(") ").expect("loopback works").1;
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("loopback works")).sum()
}

/// Sets the soft and the hard limit of a running process.
fn limit_files(id: u32, limits: &str) {
    let limit = format!("--nofile={limits}");
    let status = std::process::Command::new("prlimit").args(["--pid", &id.to_string(), &limit]).status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit failed");
}

#[tokio::test]
async fn d3_without_descriptors_admin_answers_and_service_comes_back() {
    let sandbox = Sandbox::new();
    let (origin, other) = (Origin::named("app").await, Origin::named("other").await);
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .cluster("other", &[other.address()])
        .routes("[{match: {prefix: /other}, route: {cluster: other}}, {match: {prefix: /}, route: {cluster: app}}]")
        .with_admin()
        .start(&sandbox)
        .await;
    let mut kept = client::Http1::connect(proxy.address).await.unwrap();
    assert_eq!(kept.call(&Call::get("/")).await.unwrap().text(), "app");
    let id = proxy.process.id();
    let used = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    limit_files(id, &format!("{0}:{0}", used + 20));
    let mut crowd = Vec::new();
    for _ in 0..500 {
        crowd.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    let scarce = async || {
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
        (files >= used + 20).then_some(())
    };
    wait::until("no descriptor is left", scarce).await;
    let before = ticks(id);
    let asked = Instant::now();
    for _ in 0..4 {
        assert_eq!(proxy.admin("/ready").await.status, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let share = (ticks(id) - before) as f64 / (asked.elapsed().as_secs_f64() * 100.0);
    assert!(share < 0.1, "{share} of a core while descriptors are scarce");
    assert_eq!(kept.call(&Call::get("/")).await.unwrap().text(), "app", "what is open goes on");
    let refused = wait::within("an answer, not a hang", kept.call(&Call::get("/other"))).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.header("x-sidegate-reason").is_some_and(|reason| reason.starts_with("connect_failure")));
    drop(crowd);
    let gone = Instant::now();
    assert_eq!(proxy.get("/").await.text(), "app");
    assert!(gone.elapsed() < Duration::from_secs(3), "it came back after {:?}", gone.elapsed());
}

/// The log's file is opened anew just when there is no descriptor for it.
#[tokio::test]
async fn d3_without_descriptors_lines_are_lost_and_counted_and_requests_are_not() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let path = sandbox.path().join("access.log");
    let config =
        json!({"path": path, "log_format": {"text_format_source": {"inline_string": "%REQ(:PATH)%\n"}}});
    let log = typed("log", "envoy.extensions.access_loggers.file.v3.FileAccessLog", config);
    let gateway = Gateway::to(&[origin.address()]).http(&json!({"access_log": [log]}).to_string());
    let proxy = gateway.with_admin().start(&sandbox).await;
    let mut kept = client::Http1::connect(proxy.address).await.unwrap();
    assert_eq!(kept.call(&Call::get("/before")).await.unwrap().text(), "app");
    let logged = async |path: &std::path::Path, target: &str| {
        wait::until(target, async || std::fs::read_to_string(path).ok()?.contains(target).then_some(()))
            .await;
    };
    logged(&path, "/before").await;
    std::fs::rename(&path, sandbox.path().join("moved.log")).unwrap();
    let admin = proxy.admin_address();
    let mut operator = client::Http1::connect(admin).await.unwrap();
    let mut ask = async |call: Call| operator.call(&call.host(&admin.to_string())).await.unwrap();
    assert_eq!(ask(Call::get("/ready")).await.status, 200);
    // What is open stays, and nothing can be opened.
    limit_files(proxy.process.id(), "3:1024");
    assert_eq!(ask(Call::post("/reopen_logs", "")).await.status, 200);
    wait::until("a line that is lost", async || {
        assert_eq!(kept.call(&Call::get("/during")).await.unwrap().text(), "app");
        let stats = ask(Call::get("/stats?filter=access_log_lines_failed")).await.text();
        (!stats.contains("access_log_lines_failed: 0")).then_some(())
    })
    .await;
    limit_files(proxy.process.id(), "1024:1024");
    wait::until("a line again", async || {
        assert_eq!(kept.call(&Call::get("/after")).await.unwrap().text(), "app");
        std::fs::read_to_string(&path).ok()?.contains("/after").then_some(())
    })
    .await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains("/before"));
}

#[tokio::test]
async fn d3_few_descriptors_leave_half_for_upstreams() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let gateway = Gateway::to(&[origin.address()]).with_admin();
    let proxy = gateway.under(&["prlimit", "--nofile=128:128"]).start(&sandbox).await;
    let mut crowd = Vec::new();
    for _ in 0..500 {
        // The refusal may come before this end has noticed that it was connected.
        crowd.extend(TcpStream::connect(proxy.address).await);
    }
    let refused = async || proxy.stat("listener.main.downstream_cx_overflow").await > 400;
    wait::until_equal("connections past the bound are refused", true, refused).await;
    assert_eq!(proxy.admin("/ready").await.status, 200);
    drop(crowd);
    wait::until("service is back", async || {
        let answer = client::try_call(proxy.address, &Call::get("/")).await.ok()?;
        (answer.text() == "app").then_some(())
    })
    .await;
}

const HEADER_OUT: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// The transport socket that tells an upstream who the client is.
fn introducing(version: &str) -> String {
    let raw = json!({"name": "raw", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}});
    let wrapper = json!({
        "@type": format!("type.googleapis.com/{HEADER_OUT}"),
        "config": {"version": version},
        "transport_socket": raw,
    });
    json!({"transport_socket": {"name": "introducing", "typed_config": wrapper}}).to_string()
}

#[tokio::test]
async fn e4_upstreams_are_told_who_the_client_is() {
    let sandbox = Sandbox::new();
    for version in ["V1", "V2"] {
        let backend = Raw::start("ok", false).await;
        let proxy = Gateway::opaque(&[])
            .cluster_with("app2", &[backend.address], &introducing(version))
            .opaque_chain("{}", "app2")
            .start(&sandbox)
            .await;
        let mut stream = from(Ipv4Addr::new(127, 5, 5, 5), proxy.address).await;
        let own = stream.local_addr().unwrap();
        stream.write_all(b"hi").await.unwrap();
        assert_eq!(word(&mut stream, 2).await, "ok");
        let expected = match version {
            "V1" => {
                let (ip, port) = (proxy.address.ip(), proxy.address.port());
                format!("PROXY TCP4 127.5.5.5 {ip} {} {port}\r\n", own.port()).into_bytes()
            }
            _ => {
                let IpAddr::V4(ip) = proxy.address.ip() else { panic!() };
                let ports = [own.port().to_be_bytes(), proxy.address.port().to_be_bytes()].concat();
                [SIGNATURE, b"\x21\x11\0\x0c\x7f\x05\x05\x05", &ip.octets(), &ports].concat()
            }
        };
        let whole = [&expected[..], b"hi"].concat();
        let seen = async || backend.taken().contains(&whole).then_some(());
        wait::until("header and bytes", seen).await;
    }
}

#[tokio::test]
async fn e4_haproxy_takes_our_word_for_the_client_of_each_request() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let middle = address();
    let text = format!(
        "listen l\n mode http\n bind {middle} accept-proxy\n http-request set-header x-client %[src]\n server s {}\n",
        origin.address()
    );
    let Some(_haproxy) = haproxy(&sandbox, &text) else { return };
    wait::until("haproxy listens", async || TcpStream::connect(middle).await.ok()).await;
    let proxy = Gateway::new()
        .cluster_with("app", &[middle], &introducing("V2"))
        .routes("[{match: {prefix: /}, route: {cluster: app}}]")
        .start(&sandbox)
        .await;
    for last in [1, 2, 1] {
        let source = Ipv4Addr::new(127, 6, 6, last);
        let mut stream = from(source, proxy.address).await;
        assert!(ask(&mut stream, b"").await.ends_with("app"));
        assert_eq!(
            origin.last().header("x-client"),
            Some(source.to_string().as_str()),
            "no connection is shared"
        );
    }
}

#[tokio::test]
async fn e2_another_endpoint_is_dialled_and_a_connection_ends_in_time() {
    let sandbox = Sandbox::new();
    let backend = Raw::start("ok", true).await;
    let dead = address();
    let tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "weighted_clusters": {"clusters": [{"name": "app", "weight": 1}]},
        "max_connect_attempts": 3,
        "max_downstream_connection_duration": "1s",
    });
    let chains = json!({"filter_chains": [{"filters": [{"name": "tcp", "typed_config": tcp}]}]});
    let gateway = Gateway::new().cluster("app", &[dead, backend.address]).listener(&chains.to_string());
    let proxy = gateway.with_admin().start(&sandbox).await;
    for _ in 0..4 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(word(&mut stream, 2).await, "ok");
        let mut rest = Vec::new();
        let _ = wait::within("its end", stream.read_to_end(&mut rest)).await;
    }
    let page = proxy.admin("/stats/prometheus").await.text();
    assert!(page.contains("istio_tcp_connections_opened_total{"), "{page}");
}

#[tokio::test]
async fn tcp_connections_are_shared_out_by_weight_and_end_when_idle() {
    let sandbox = Sandbox::new();
    let (one, two) = (Raw::start("one", true).await, Raw::start("two", true).await);
    let tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "weighted_clusters": {"clusters": [{"name": "one", "weight": 1}, {"name": "two", "weight": 3}]},
        "idle_timeout": "0.4s",
    });
    let chains = json!({"filter_chains": [{"filters": [{"name": "tcp", "typed_config": tcp}]}]});
    let gateway = Gateway::new().cluster("one", &[one.address]).cluster("two", &[two.address]);
    let proxy = gateway.listener(&chains.to_string()).start(&sandbox).await;
    let mut twos = 0;
    let mut last = None;
    for _ in 0..200 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        twos += usize::from(word(&mut stream, 3).await == "two");
        last = Some((stream, Instant::now()));
    }
    // Three quarters of them, and five standard deviations to either side.
    assert!((120..=180).contains(&twos), "{twos} of 200");
    let (mut stream, begun) = last.unwrap();
    let _ = wait::within("the end of silence", stream.read_to_end(&mut Vec::new())).await;
    assert!(begun.elapsed() >= Duration::from_millis(350), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_version_that_is_spoken_chooses_the_chain() {
    let sandbox = Sandbox::new();
    let (one, two, rest) =
        (Raw::start("1.1", false).await, Raw::start("two", false).await, Raw::start("bin", false).await);
    let inspector = "listener_filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}]";
    let proxy = Gateway::new()
        .cluster("one", &[one.address])
        .cluster("two", &[two.address])
        .cluster("rest", &[rest.address])
        .listener(inspector)
        .opaque_chain("{application_protocols: ['http/1.1']}", "one")
        .opaque_chain("{application_protocols: [h2c]}", "two")
        .listener(&json!({"default_filter_chain": {"filters": [tcp_proxy("rest")]}}).to_string())
        .start(&sandbox)
        .await;
    for (first, expected) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "1.1"),
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], "two"),
        (&b"\x00\x01\x02 something else\r\n"[..], "bin"),
    ] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        // However it is cut.
        for piece in first.chunks(5) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(word(&mut stream, 3).await, expected);
    }
}

/// Runs a program; whether it succeeded, and what it wrote.
fn run(line: &str) -> (bool, String) {
    let words: Vec<&str> = line.split(' ').collect();
    match std::process::Command::new(words[0]).args(&words[1..]).output() {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => (false, error.to_string()),
    }
}

/// A network namespace; it goes with its value.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip netns delete {}", self.0));
    }
}

/// One with two addresses of its own, where what user 1338 sends there is redirected to port 15001. `None` without the right or the
/// tools for it.
fn namespace() -> Option<Namespace> {
    let name = format!("sidegate-{}", std::process::id());
    if !run(&format!("ip netns add {name}")).0 {
        return None;
    }
    let namespace = Namespace(name.clone());
    let steps = [
        "ip link set lo up",
        "ip address add 10.99.0.1/32 dev lo",
        "ip address add 10.99.0.2/32 dev lo",
        "iptables -t nat -A OUTPUT -p tcp -d 10.99.0.0/16 -m owner --uid-owner 1338 -j REDIRECT --to-ports 15001",
    ];
    let prepared = steps.iter().all(|step| run(&format!("ip netns exec {name} {step}")).0);
    prepared.then_some(namespace)
}

#[tokio::test]
async fn redirected_connections_reach_what_they_wanted() {
    let Some(namespace) = namespace() else {
        eprintln!("no network namespace or no iptables: nothing is shown here");
        return;
    };
    let inside = |line: &str| run(&format!("ip netns exec {} {line}", namespace.0));
    let sandbox = Sandbox::new();
    let ip = std::path::Path::new("/usr/sbin/ip");
    let sidegate = sidegate_tests::process::program("sidegate").display().to_string();
    let app = [
        "netns",
        "exec",
        &namespace.0,
        &sidegate,
        "sample-app",
        "--name",
        "web",
        "--version",
        "v1",
        "--listen",
        "10.99.0.1:8080",
    ];
    let _app = Process::start(&sandbox, "app", ip, app);
    let listener = "127.0.0.1:15001".parse().unwrap();
    let original = "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}";
    let bootstrap = Gateway::opaque(&[])
        .cluster_with("through", &[], "{type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}")
        .cluster("fixed", &["10.99.0.1:8080".parse().unwrap()])
        .listener(&format!("{{use_original_dst: true, listener_filters: [{{name: o, {original}}}]}}"))
        .opaque_chain("{destination_port: 81}", "fixed")
        .opaque_chain("{}", "through")
        .other_listener(virtual_listener(1, "10.99.0.2:80".parse().unwrap(), "fixed"))
        .bootstrap(listener, None);
    let config = sandbox.write("redirect.json", &bootstrap.to_string());
    let proxy = sidegate_tests::process::program("sidegate-proxy").display().to_string();
    let config = config.display().to_string();
    let arguments = ["netns", "exec", &namespace.0, &proxy, "-c", &config, "--concurrency", "1"];
    let _proxy = Process::start(&sandbox, "proxy", ip, arguments);
    let direct = async || inside("curl -s -m 5 http://10.99.0.1:8080/").0.then_some(());
    wait::until("the app answers by itself", direct).await;
    let redirected = "setpriv --reuid 1338 --clear-groups curl -s -m 5 http";
    let listens = async || inside(&format!("{redirected}://10.99.0.1:8080/")).0.then_some(());
    wait::until("the proxy passes on what it was not asked for", listens).await;
    // Nothing listens on these two: a virtual listener has one, a filter chain the other.
    assert!(!inside("curl -s -m 5 http://10.99.0.2/").0);
    for target in ["10.99.0.2/", "10.99.0.1:81/"] {
        assert!(inside(&format!("{redirected}://{target}")).0, "{target}");
    }
    assert!(!inside(&format!("{redirected}://10.99.0.2:82/")).0, "it is passed on to where nothing listens");
}
