//! The load: one workload for some seconds at one address, on one thread.

mod echo;
mod http1;
mod http2;
mod pace;
mod tally;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;

use self::pace::Pace;
pub(crate) use self::tally::Report;
use self::tally::Tally;
use crate::workload::Protocol;

/// What to send, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// What is spoken
    #[arg(long, value_enum)]
    pub(crate) protocol: Protocol,
    /// Where to
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// How many connections
    #[arg(long)]
    pub(crate) connections: u32,
    /// How many requests at once on each connection (HTTP/2)
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: u32,
    /// Requests a second, arriving evenly; without it, as fast as answers come
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// How long; requests under way at the end are waited for
    #[arg(long)]
    pub(crate) seconds: f64,
}

/// Prints a [`Report`].
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let report = runtime.block_on(send(order));
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn send(order: &Order) -> Report {
    let tally = Rc::new(Tally::default());
    let pace = Rc::new(Pace::start(Duration::from_secs_f64(order.seconds), order.rate));
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let (pace, tally, order) = (pace.clone(), tally.clone(), order.clone());
        connections.spawn_local(async move {
            if let Err(error) = connection(&order, &pace, &tally).await {
                tally.failed(&error);
            }
        });
    }
    while connections.join_next().await.is_some() {}
    tally.report(pace.begun())
}

async fn connection(order: &Order, pace: &Rc<Pace>, tally: &Rc<Tally>) -> anyhow::Result<()> {
    let stream = tokio::net::TcpStream::connect(order.target).await?;
    stream.set_nodelay(true)?;
    match order.protocol {
        Protocol::Http1 => http1::ask(stream, pace, tally).await,
        Protocol::Http2 => http2::ask(stream, order.streams, pace, tally).await,
        Protocol::Tcp => echo::ask(stream, pace, tally).await,
    }
}
