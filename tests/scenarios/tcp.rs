//! Opaque connections and how they end: what one side meets, the other sees, and the log says why.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy that passes everything on to an origin in the test's hands.
struct Stage {
    sandbox: Sandbox,
    origin: TcpListener,
    proxy: Proxy,
}

impl Stage {
    async fn new() -> Self {
        Self::with(json!({}), &[]).await
    }

    /// With these fields of the TCP proxy and flags of the program.
    async fn with(fields: Value, flags: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let origin = TcpListener::bind("127.0.0.1:0").await.expect("loopback works");
        let mut tcp = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": "app",
            "access_log": [{"name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": sandbox.path().join("access.log"),
                "log_format": {"text_format_source": {
                    "inline_string": "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT%\n"}},
            }}],
        });
        if let (Value::Object(tcp), Value::Object(fields)) = (&mut tcp, fields) {
            tcp.extend(fields);
        }
        let chains = json!({"filter_chains": [{"filters": [{"name": "tcp", "typed_config": tcp}]}]});
        let gateway = Gateway::new().cluster("app", &[origin.local_addr().expect("loopback works")]);
        let proxy = gateway.listener(&chains.to_string()).flags(flags).start(&sandbox).await;
        Self { sandbox, origin, proxy }
    }

    /// A connection's two ends, after a word in either direction.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.proxy.address).await.expect("the proxy listens");
        client.write_all(b"hello").await.expect("loopback works");
        let mut origin = wait::within("a connection", async {
            loop {
                let (mut origin, _) = self.origin.accept().await.expect("loopback works");
                // Whoever looked whether the proxy listens has nothing to say.
                if origin.read_exact(&mut [0; 5]).await.is_ok() {
                    return origin;
                }
            }
        })
        .await;
        origin.write_all(b"welcome").await.expect("loopback works");
        assert_eq!(take(&mut client, 7).await, b"welcome");
        (client, origin)
    }

    /// The log's one line about a connection that carried something.
    async fn line(&self) -> String {
        let path = self.sandbox.path().join("access.log");
        wait::until("a line", async || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines().find(|line| !line.ends_with(" 0 0")).map(str::to_owned)
        })
        .await
    }
}

async fn take(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    wait::within("bytes", stream.read_exact(&mut bytes)).await.expect("as many bytes");
    bytes
}

/// What comes until the end, and whether that is a reset.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match wait::within("an end", stream.read_to_end(&mut bytes)).await {
        Ok(_) => (bytes, false),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            (bytes, true)
        }
    }
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("an open socket");
    drop(stream);
}

#[tokio::test]
async fn an_origins_reset_is_one_for_the_client() {
    let stage = Stage::new().await;
    let (mut client, mut origin) = stage.connect().await;
    origin.write_all(b"last").await.unwrap();
    assert_eq!(take(&mut client, 4).await, b"last");
    reset(origin);
    assert_eq!(rest(&mut client).await, (Vec::new(), true));
    assert_eq!(stage.line().await, "UC 5 11");
}

#[tokio::test]
async fn a_reset_after_bulk_is_one() {
    let stage = Stage::new().await;
    let (mut client, mut origin) = stage.connect().await;
    let bulk = vec![b'x'; 8_000_000];
    let (sent, taken) = tokio::join!(origin.write_all(&bulk), take(&mut client, bulk.len()));
    sent.unwrap();
    assert_eq!(taken.len(), bulk.len());
    reset(origin);
    assert_eq!(rest(&mut client).await, (Vec::new(), true));
    assert_eq!(stage.line().await, "UC 5 8000007");
}

#[tokio::test]
async fn a_reset_within_an_upload_is_one() {
    let stage = Stage::new().await;
    let (client, mut origin) = stage.connect().await;
    let (mut reading, mut writing) = client.into_split();
    let upload = tokio::spawn(async move { while writing.write_all(&[b'x'; 50_000]).await.is_ok() {} });
    take(&mut origin, 1_000_000).await;
    origin.write_all(b"no more").await.unwrap();
    let mut last = [0; 7];
    wait::within("the last word", reading.read_exact(&mut last)).await.unwrap();
    reset(origin);
    let end = wait::within("an end", reading.read(&mut last)).await;
    // The error may be told to the writing half instead, but the end is none of these: data, or an end before it.
    wait::within("the upload's end", upload).await.unwrap();
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert!(stage.line().await.starts_with("UC "));
}

#[tokio::test]
async fn a_clients_reset_is_one_for_the_origin() {
    let stage = Stage::new().await;
    let (client, mut origin) = stage.connect().await;
    reset(client);
    assert_eq!(rest(&mut origin).await, (Vec::new(), true));
    assert_eq!(stage.line().await, "DC 5 7");
}

#[tokio::test]
async fn each_direction_ends_by_itself_and_in_order() {
    let stage = Stage::new().await;
    let (mut client, mut origin) = stage.connect().await;
    client.write_all(b" there").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut origin).await, (b" there".to_vec(), false));
    origin.write_all(b"goodbye").await.unwrap();
    drop(origin);
    assert_eq!(rest(&mut client).await, (b"goodbye".to_vec(), false));
    assert_eq!(stage.line().await, "- 11 14");
}

#[tokio::test]
async fn what_was_whole_stays_so_when_the_other_direction_fails() {
    let stage = Stage::new().await;
    let (mut client, mut origin) = stage.connect().await;
    origin.write_all(b"goodbye").await.unwrap();
    origin.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, (b"goodbye".to_vec(), false));
    reset(origin);
    // The proxy finds out with the second write at the latest.
    while client.write_all(b"more").await.is_ok() {
        // Not a flood: what is waited for is an error of the write, which the loop asks for.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(stage.line().await.starts_with("UC "));
}

#[tokio::test]
async fn silence_is_cut_on_both_sides() {
    let stage = Stage::with(json!({"idle_timeout": "0.5s"}), &[]).await;
    let (mut client, mut origin) = stage.connect().await;
    assert_eq!(rest(&mut client).await, (Vec::new(), true));
    assert_eq!(rest(&mut origin).await, (Vec::new(), true));
    assert_eq!(stage.line().await, "SI 5 7");
}

#[tokio::test]
async fn what_lasts_too_long_is_cut_on_both_sides() {
    let stage = Stage::with(json!({"max_downstream_connection_duration": "0.5s"}), &[]).await;
    let (mut client, mut origin) = stage.connect().await;
    assert_eq!(rest(&mut client).await, (Vec::new(), true));
    assert_eq!(rest(&mut origin).await, (Vec::new(), true));
    assert_eq!(stage.line().await, "DT 5 7");
}

#[tokio::test]
async fn the_shutdowns_deadline_cuts_both_sides() {
    let mut stage = Stage::with(json!({}), &["--shutdown-delay-s", "0", "--drain-time-s", "1"]).await;
    let (mut client, mut origin) = stage.connect().await;
    stage.proxy.process.terminate();
    assert_eq!(rest(&mut client).await, (Vec::new(), true));
    assert_eq!(rest(&mut origin).await, (Vec::new(), true));
    stage.proxy.process.ended().await;
    assert_eq!(stage.line().await, "OM 5 7");
}
