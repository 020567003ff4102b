//! The server behind the proxies. It does as little as it can, and counts what it answers.

mod echo;
mod http1;
mod http2;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use crate::workload::Protocol;

pub(crate) use self::http1::head_end;

/// What was answered, by protocol.
pub(crate) type Counts = BTreeMap<Protocol, u64>;
/// Where each protocol is answered.
pub(crate) type Addresses = BTreeMap<Protocol, SocketAddr>;

/// Serves until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let counters: BTreeMap<Protocol, Arc<AtomicU64>> =
        Protocol::ALL.into_iter().map(|protocol| (protocol, Arc::default())).collect();
    runtime.block_on(async {
        let mut addresses = Addresses::new();
        for (protocol, counter) in &counters {
            let listener = listen().context("the origin cannot listen")?;
            addresses.insert(*protocol, listener.local_addr()?);
            spawn_local(accept(listener, *protocol, counter.clone()));
        }
        println!("{}", serde_json::to_string(&addresses)?);
        // Questions come rarely and must not wait for a runtime that is busy: they have a thread.
        tokio::task::spawn_blocking(move || answer_questions(&counters)).await?
    })
}

/// Each line of standard input asks for the counts.
fn answer_questions(counters: &BTreeMap<Protocol, Arc<AtomicU64>>) -> anyhow::Result<()> {
    for question in std::io::stdin().lines() {
        question?;
        let counts: Counts =
            counters.iter().map(|(protocol, counter)| (*protocol, counter.load(Ordering::Relaxed))).collect();
        println!("{}", serde_json::to_string(&counts)?);
    }
    Ok(())
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?; // connections inherit it
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(1_024)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, protocol: Protocol, counter: Arc<AtomicU64>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let counter = Counter(counter.clone());
        match protocol {
            Protocol::Http1 => serve(http1::serve(stream, counter)),
            Protocol::Http2 => serve(http2::serve(stream, Rc::new(counter))),
            Protocol::Tcp => serve(echo::serve(stream, counter)),
        }
    }
}

/// A connection that ends in an error is the proxy's doing; what it cost shows in the counts.
fn serve(connection: impl Future<Output = anyhow::Result<()>> + 'static) {
    spawn_local(async {
        let _ = connection.await;
    });
}

/// Counts answers of one protocol.
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn add(&self, answers: usize) {
        self.0.fetch_add(answers as u64, Ordering::Relaxed);
    }
}

/// Reads what is there; false at the end of the stream.
async fn read(stream: &mut TcpStream, buffer: &mut bytes::BytesMut) -> std::io::Result<bool> {
    use tokio::io::AsyncReadExt;
    buffer.reserve(4_096);
    Ok(stream.read_buf(buffer).await? > 0)
}
