//! The server behind the proxies. It does as little as it can, and counts what it answers.

mod bulk;
mod echo;
mod http1;
mod http2;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use clap::Args;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::lane::Service;

pub(crate) use self::http1::head_end;

/// What was answered, by service.
pub(crate) type Counts = BTreeMap<Service, u64>;
/// Where each service is.
pub(crate) type Addresses = BTreeMap<Service, SocketAddr>;

/// What the origin needs to know.
#[derive(Args)]
pub(crate) struct Order {
    /// The folder of certificates
    #[arg(long)]
    certificates: PathBuf,
}

/// Serves until standard input ends.
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Certificates::at(&order.certificates).server()?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let counters: BTreeMap<Service, Arc<AtomicU64>> =
        Service::ALL.into_iter().map(|service| (service, Arc::default())).collect();
    runtime.block_on(async {
        let mut addresses = Addresses::new();
        for (service, counter) in &counters {
            let listener = listen().context("the origin cannot listen")?;
            addresses.insert(*service, listener.local_addr()?);
            spawn_local(accept(listener, *service, acceptor.clone(), counter.clone()));
        }
        println!("{}", serde_json::to_string(&addresses)?);
        // Questions come rarely and must not wait for a runtime that is busy: they have a thread.
        tokio::task::spawn_blocking(move || answer_questions(&counters)).await?
    })
}

/// Each line of standard input asks for the counts.
fn answer_questions(counters: &BTreeMap<Service, Arc<AtomicU64>>) -> anyhow::Result<()> {
    for question in std::io::stdin().lines() {
        question?;
        let counts: Counts =
            counters.iter().map(|(service, counter)| (*service, counter.load(Ordering::Relaxed))).collect();
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

async fn accept(listener: TcpListener, service: Service, acceptor: TlsAcceptor, counter: Arc<AtomicU64>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let counter = Counter(counter.clone());
        match service {
            Service::Http1 => serve(http1::serve(stream, counter)),
            Service::Tls => serve(tls(stream, acceptor.clone(), counter)),
            Service::Http2 => serve(http2::serve(stream, Rc::new(counter))),
            Service::Echo => serve(echo::serve(stream, counter)),
            Service::Bulk => serve(bulk::serve(stream, counter)),
        }
    }
}

async fn tls(stream: TcpStream, acceptor: TlsAcceptor, counter: Counter) -> anyhow::Result<()> {
    http1::serve(acceptor.accept(stream).await?, counter).await
}

/// A connection that ends in an error is the proxy's doing; what it cost shows in the counts.
fn serve(connection: impl Future<Output = anyhow::Result<()>> + 'static) {
    spawn_local(async {
        let _ = connection.await;
    });
}

/// Counts answers of one service.
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn add(&self, answers: usize) {
        self.0.fetch_add(answers as u64, Ordering::Relaxed);
    }
}

/// Reads what is there; false at the end of the stream.
async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut bytes::BytesMut) -> std::io::Result<bool> {
    buffer.reserve(4_096);
    Ok(stream.read_buf(buffer).await? > 0)
}
