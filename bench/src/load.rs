//! The load: one workload for some seconds at one address, on one thread.

mod bulk;
mod dial;
mod echo;
mod http1;
mod http2;
mod pace;
mod tally;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::{ArgAction, Args};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;

pub(crate) use self::dial::{Dialer, Stream};
pub(crate) use self::http1::{answer, request};
use self::pace::Pace;
pub(crate) use self::tally::Report;
use self::tally::Tally;
use crate::workload::Ask;

/// What to send, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// What is asked
    #[arg(long, value_enum)]
    pub(crate) ask: Ask,
    /// Where
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Body of an answer
    #[arg(long)]
    pub(crate) bytes: usize,
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
    /// Speak mutual TLS, with the certificates of this folder
    #[arg(long)]
    pub(crate) certificates: Option<PathBuf>,
    /// Show no certificate all the same
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub(crate) anonymous: bool,
}

/// Opens the connections, says that it is ready, waits for a line on standard input, and prints a [`Report`] at the end.
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let dialer = Rc::new(Dialer::new(order.target, order.certificates.as_deref(), order.anonymous)?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let report = runtime.block_on(async {
        let tally = Rc::new(Tally::default());
        let connections = open(order, &dialer, &tally).await;
        println!("{}", serde_json::to_string(READY)?);
        std::io::stdin().read_line(&mut String::new())?;
        anyhow::Ok(send(order, dialer, connections, tally).await)
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// All connections that stay: their handshakes are not what is measured. None where each request has its own.
async fn open(order: &Order, dialer: &Rc<Dialer>, tally: &Tally) -> Vec<Option<Box<dyn Stream>>> {
    if order.ask == Ask::Fresh {
        return (0..order.connections).map(|_| None).collect();
    }
    let mut dials = JoinSet::new();
    for _ in 0..order.connections {
        let dialer = dialer.clone();
        dials.spawn_local(async move { dialer.dial().await });
    }
    let mut connections = Vec::new();
    while let Some(dial) = dials.join_next().await {
        match dial.map_err(anyhow::Error::from).and_then(|dial| dial) {
            Ok(stream) => connections.push(Some(stream)),
            Err(error) => tally.failed(&error),
        }
    }
    connections
}

async fn send(
    order: &Order,
    dialer: Rc<Dialer>,
    connections: Vec<Option<Box<dyn Stream>>>,
    tally: Rc<Tally>,
) -> Report {
    let pace = Rc::new(Pace::start(Duration::from_secs_f64(order.seconds), order.rate));
    let mut running = JoinSet::new();
    for stream in connections {
        let (pace, tally, dialer, order) = (pace.clone(), tally.clone(), dialer.clone(), order.clone());
        running.spawn_local(async move {
            let asked = match stream {
                Some(stream) => on_a_connection(stream, &order, &pace, &tally).await,
                None => http1::ask_on_new_connections(&dialer, order.bytes, &pace, &tally).await,
            };
            if let Err(error) = asked {
                tally.failed(&error);
            }
        });
    }
    while running.join_next().await.is_some() {}
    tally.report(pace.begun())
}

async fn on_a_connection(
    stream: Box<dyn Stream>,
    order: &Order,
    pace: &Rc<Pace>,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let (bytes, streams) = (order.bytes, order.streams);
    match order.ask {
        Ask::Get | Ask::Fresh => http1::ask(stream, bytes, pace, tally).await,
        Ask::Fetch => http2::ask(stream, http2::Question::Fetch(bytes), streams, pace, tally).await,
        Ask::Call => http2::ask(stream, http2::Question::Call, streams, pace, tally).await,
        Ask::Echo => echo::ask(stream, pace, tally).await,
        Ask::Bulk => bulk::ask(stream, bytes, pace, tally).await,
    }
}

/// What the load says when its connections are open.
pub(crate) const READY: &str = "ready";
