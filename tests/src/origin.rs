//! Origins: upstreams in this process that record what they get and answer by script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::message::{Fields, Received};
use crate::wire::Tape;
use crate::{sandbox, strict};

mod http1;
mod http2;

/// An upstream. It stops listening, and drops its connections, with its value.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

/// What an origin has seen.
#[derive(Debug, Default)]
struct Log {
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    abandoned: AtomicUsize,
    /// Connections that are open.
    open: AtomicUsize,
    /// Every byte of every connection, where that was asked for.
    tapes: Option<Mutex<Vec<Tape>>>,
    eager: bool,
    forgets: bool,
}

impl Log {
    fn tape(&self) -> Option<Tape> {
        let tape = Tape::default();
        let tapes = self.tapes.as_ref()?;
        tapes.lock().unwrap_or_else(PoisonError::into_inner).push(tape.clone());
        Some(tape)
    }

    fn receive(&self, received: Received) {
        if self.forgets {
            return;
        }
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    }

    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }
}

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

impl Origin {
    /// HTTP/1.1; answers every request with 200 and its own name.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::http1(move |_| Answer::text(&name)).await
    }

    /// HTTP/1.1, by script.
    pub async fn http1(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Protocol::Http1, Arc::new(script), sandbox::address()).await
    }

    /// HTTP/1.1, by script; keeps every byte that comes, for [`Origin::strictly`].
    pub async fn recording(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let log = Log { tapes: Some(Mutex::default()), ..Log::default() };
        Self::start_with(Protocol::Http1, Arc::new(script), sandbox::address(), log).await
    }

    /// HTTP/1.1, by script, keeping nothing of what it gets: for a great many requests, which the script itself may note.
    pub async fn forgetful(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let log = Log { forgets: true, ..Log::default() };
        Self::start_with(Protocol::Http1, Arc::new(script), sandbox::address(), log).await
    }

    /// As [`Origin::recording`]; answers as soon as it has a head, and reads the content afterwards.
    pub async fn eager(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let log = Log { tapes: Some(Mutex::default()), eager: true, ..Log::default() };
        Self::start_with(Protocol::Http1, Arc::new(script), sandbox::address(), log).await
    }

    /// HTTP/1.1, by script, at an address that was told to others before.
    pub async fn http1_at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Protocol::Http1, Arc::new(script), address).await
    }

    /// HTTP/2 without TLS and without upgrade, by script.
    pub async fn http2(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Protocol::Http2, Arc::new(script), sandbox::address()).await
    }

    async fn start(protocol: Protocol, script: Script, address: SocketAddr) -> Self {
        Self::start_with(protocol, script, address, Log::default()).await
    }

    async fn start_with(protocol: Protocol, script: Script, address: SocketAddr, log: Log) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address for an origin");
        let log = Arc::new(log);
        let task = tokio::spawn(accept(listener, protocol, script, log.clone()));
        Self { address, log, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn received(&self) -> Vec<Received> {
        self.log.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The request that came last.
    ///
    /// # Panics
    /// When none came.
    pub fn last(&self) -> Received {
        self.received().pop().expect("the origin has got a request")
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.log.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many requests of a method came.
    pub fn count_of(&self, method: &str) -> usize {
        self.received().iter().filter(|received| received.method == method).count()
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.log.open.load(Ordering::Relaxed)
    }

    /// Every whole request that a second, strict reading finds in what a recording origin got, connection by connection.
    ///
    /// # Panics
    /// When something among it could be read in two ways, or must not have been passed on.
    pub fn strictly(&self) -> Vec<strict::Message> {
        let tapes = self.log.tapes.as_ref().expect("a recording origin");
        let tapes = tapes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        for tape in tapes {
            let tape = tape.lock().unwrap_or_else(PoisonError::into_inner);
            let (messages, end) = strict::read_all(&tape);
            if let Err(error) = end {
                panic!("the origin got what is not clean: {error}\n{}", tape.escape_ascii());
            }
            all.extend(messages);
        }
        all
    }

    /// How many requests were given up by the other side before they were answered.
    pub fn abandoned(&self) -> usize {
        self.log.abandoned.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, protocol: Protocol, script: Script, log: Arc<Log>) {
    // Dropped with this task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let number = log.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let side = Side { script: script.clone(), log: log.clone(), number, eager: log.eager };
        connections.spawn(serve(protocol, socket, side));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(protocol: Protocol, socket: TcpStream, side: Side) {
    let _open = Open::new(side.log.clone());
    // An error is the other side's, or scripted; what matters is recorded.
    match protocol {
        Protocol::Http1 => drop(http1::serve(socket, side).await),
        Protocol::Http2 => drop(http2::serve(socket, side).await),
    }
}

/// Counts a connection while it is served.
struct Open(Arc<Log>);

impl Open {
    fn new(log: Arc<Log>) -> Self {
        log.open.fetch_add(1, Ordering::Relaxed);
        Self(log)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's share of the origin.
struct Side {
    script: Script,
    log: Arc<Log>,
    number: usize,
    /// Answers come before the content is read.
    eager: bool,
}

/// A gate that answers wait for.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everything through, from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn opened(&self) {
        // The sender is held by `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What an origin does about a request.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Fields,
    body: Vec<u8>,
    trailers: Fields,
    framing: Framing,
    gate: Option<Gate>,
    pace: Option<(usize, Duration)>,
    then: Then,
    linger: Duration,
    raw: Option<Vec<u8>>,
    /// Said after a pause, though nobody asked.
    late: Option<(Duration, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Go,
    Close,
    GoAway,
    Reset,
}

impl Answer {
    /// A status, nothing else.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            framing: Framing::Length,
            gate: None,
            pace: None,
            then: Then::Go,
            linger: Duration::ZERO,
            raw: None,
            late: None,
        }
    }

    /// 200 with a body.
    pub fn text(body: &str) -> Self {
        Self::status(200).body(body)
    }

    /// What was received, as the body.
    pub fn echo(received: &Received) -> Self {
        Self::status(200).body(received.body.clone())
    }

    /// These bytes instead of a response, then the connection closes. Over HTTP/2 the stream is reset.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(bytes.into()), then: Then::Close, ..Self::status(0) }
    }

    /// The connection closes without a response. Over HTTP/2 the stream is reset.
    pub fn nothing() -> Self {
        Self::raw("")
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body's length is not told beforehand.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// The body ends with the connection.
    #[must_use]
    pub fn until_close(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self.then = Then::Close;
        self
    }

    /// One more trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self.chunked()
    }

    /// Not before the gate opens.
    #[must_use]
    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The body in so many pieces with a pause before each but the first.
    #[must_use]
    pub fn paced(mut self, pieces: usize, pause: Duration) -> Self {
        self.pace = Some((pieces, pause));
        self
    }

    /// Then the connection closes without having said so.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    /// Then the connection goes on, though the bytes may not look so.
    #[must_use]
    pub fn then_go(mut self) -> Self {
        self.then = Then::Go;
        self
    }

    /// More bytes after a pause.
    #[must_use]
    pub fn and_then_bytes(mut self, pause: Duration, bytes: impl Into<Vec<u8>>) -> Self {
        self.late = Some((pause, bytes.into()));
        self
    }

    /// Then the connection is reset.
    #[must_use]
    pub fn then_reset(mut self) -> Self {
        self.then = Then::Reset;
        self
    }

    /// Then, after so long, the connection closes without having said so.
    #[must_use]
    pub fn then_close_after(mut self, pause: Duration) -> Self {
        self.linger = pause;
        self.then_close()
    }

    /// Then the HTTP/2 connection says GOAWAY; streams that are open are finished.
    #[must_use]
    pub fn then_go_away(mut self) -> Self {
        self.then = Then::GoAway;
        self
    }

    fn pieces(&self) -> (Vec<&[u8]>, Duration) {
        match self.pace {
            Some((pieces, pause)) => {
                (self.body.chunks(self.body.len().div_ceil(pieces).max(1)).collect(), pause)
            }
            None => (vec![&self.body], Duration::ZERO),
        }
    }
}
