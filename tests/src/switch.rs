//! Upstreams that switch to another protocol, and streams of HTTP/2 that are tunnels (RFC 8441). What comes through is sent back.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::http2::send;
use crate::sandbox;

/// An upstream that answers every head by script; after 101 it sends back what it gets.
#[derive(Debug)]
pub struct Switch {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The request's head, as it came; over HTTP/2 as `method :protocol path`, and the headers.
    pub head: String,
    /// What had come behind it when the answer was due.
    pub early: Vec<u8>,
    /// What came through.
    pub through: Vec<u8>,
    /// The other side has ended.
    pub ended: bool,
}

impl Switch {
    /// HTTP/1.1. `answer` gets the head and gives the bytes to answer with, after `pause`.
    pub async fn http1(pause: Duration, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(sandbox::address()).await.expect("an address");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                connections.spawn(async move { drop(serve_http1(socket, &log, pause, &*answer).await) });
            }
        });
        Self { address, seen, task }
    }

    /// As [`Switch::http1`]: agrees to whatever is asked, as a WebSocket server does.
    pub async fn agreeing() -> Self {
        Self::http1(Duration::ZERO, agree).await
    }

    /// HTTP/2; answers extended CONNECT with this status.
    pub async fn http2(status: u16) -> Self {
        let listener = TcpListener::bind(sandbox::address()).await.expect("an address");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let log = log.clone();
                connections.spawn(async move { drop(serve_http2(socket, log, status).await) });
            }
        });
        Self { address, seen, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What every connection brought so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The 101 that agrees to what the head asks for.
pub fn agree(head: &str) -> String {
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let upgrade = field("upgrade").unwrap_or_default();
    // The example of RFC 6455 §1.3; other keys are for real peers.
    let accept = match field("sec-websocket-key").as_deref() {
        Some("dGhlIHNhbXBsZSBub25jZQ==") => "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        _ => "",
    };
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n{accept}\r\n")
}

type Log = Mutex<Vec<Seen>>;

async fn serve_http1(
    mut socket: TcpStream,
    log: &Log,
    pause: Duration,
    answer: &(dyn Fn(&str) -> String + Send + Sync),
) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        // Whatever is sent too early comes within the pause.
        let _ = tokio::time::timeout(pause, async {
            while socket.read_buf(&mut bytes).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
        let early = bytes.split_off(end);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let reply = answer(&head);
        bytes = early.clone();
        let number = push(log, Seen { head, early, ..Seen::default() });
        socket.write_all(reply.as_bytes()).await?;
        if reply.starts_with("HTTP/1.1 101") {
            return echo(socket, log, number, bytes).await;
        }
    }
}

fn push(log: &Log, seen: Seen) -> usize {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.push(seen);
    log.len() - 1
}

fn note(log: &Log, number: usize, change: impl FnOnce(&mut Seen)) {
    change(&mut log.lock().unwrap_or_else(PoisonError::into_inner)[number]);
}

async fn echo(mut socket: TcpStream, log: &Log, number: usize, mut bytes: Vec<u8>) -> io::Result<()> {
    loop {
        socket.write_all(&bytes).await?;
        note(log, number, |seen| seen.through.extend_from_slice(&bytes));
        bytes.clear();
        let read = socket.read_buf(&mut bytes).await;
        if !matches!(read, Ok(1..)) {
            note(log, number, |seen| seen.ended = true);
            return socket.shutdown().await;
        }
    }
}

async fn serve_http2(socket: TcpStream, log: Arc<Log>, status: u16) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let mut connection = builder.handshake::<_, Bytes>(socket).await?;
    let mut streams = tokio::task::JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let (parts, received) = request.into_parts();
        let protocol = parts.extensions.get::<Protocol>().map_or("-", Protocol::as_str);
        let mut head = format!("{} {protocol} {}\r\n", parts.method, parts.uri.path());
        for (name, value) in &parts.headers {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        let number = push(&log, Seen { head, ..Seen::default() });
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().expect("a status");
        let stream = respond.send_response(response, false)?;
        let log = log.clone();
        streams.spawn(async move { drop(echo_http2(received, stream, &log, number).await) });
    }
    Ok(())
}

async fn echo_http2(
    mut received: RecvStream,
    mut stream: SendStream<Bytes>,
    log: &Log,
    number: usize,
) -> Result<(), h2::Error> {
    while let Some(data) = received.data().await {
        let data = data?;
        received.flow_control().release_capacity(data.len())?;
        note(log, number, |seen| seen.through.extend_from_slice(&data));
        send(&mut stream, &data).await?;
    }
    note(log, number, |seen| seen.ended = true);
    stream.send_data(Bytes::new(), true)
}

/// A tunnel over one stream of HTTP/2.
#[derive(Debug)]
pub struct Stream {
    /// The answer's status.
    pub status: u16,
    /// The answer's headers.
    pub headers: HeaderMap,
    received: RecvStream,
    sent: SendStream<Bytes>,
    driver: JoinHandle<()>,
}

impl Stream {
    /// Opens one on a connection of its own: extended CONNECT for `protocol`, plain CONNECT without.
    ///
    /// # Errors
    /// When the connection or the stream fails before an answer.
    pub async fn open(proxy: SocketAddr, protocol: Option<&str>, target: &str) -> Result<Self, h2::Error> {
        let socket = TcpStream::connect(proxy).await.expect("the proxy listens");
        let (mut sender, connection) = h2::client::handshake(socket).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        if protocol.is_some() {
            crate::wait::until("SETTINGS that allow extended CONNECT", async || {
                sender.is_extended_connect_protocol_enabled().then_some(())
            })
            .await;
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = target.parse().expect("a target");
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from(protocol));
            request.headers_mut().insert("sec-websocket-version", "13".parse().expect("a value"));
        }
        let (response, sent) = sender.send_request(request, false)?;
        let (head, received) = response.await?.into_parts();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, received, sent, driver })
    }

    /// Sends bytes through.
    ///
    /// # Errors
    /// When the stream was reset.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), h2::Error> {
        send(&mut self.sent, bytes).await
    }

    /// At least so many bytes, or fewer at the end.
    ///
    /// # Errors
    /// When the stream was reset.
    pub async fn read(&mut self, count: usize) -> Result<Vec<u8>, h2::Error> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let Some(data) = poll_fn(|context| self.received.poll_data(context)).await else { break };
            let data = data?;
            self.received.flow_control().release_capacity(data.len())?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn finish(&mut self) -> Result<(), h2::Error> {
        self.sent.send_data(Bytes::new(), true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
