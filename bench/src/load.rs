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

/// Prints a [`Report`].
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let dialer = Rc::new(Dialer::new(order.target, order.certificates.as_deref(), order.anonymous)?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let report = runtime.block_on(send(order, dialer));
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn send(order: &Order, dialer: Rc<Dialer>) -> Report {
    let tally = Rc::new(Tally::default());
    let pace = Rc::new(Pace::start(Duration::from_secs_f64(order.seconds), order.rate));
    let mut connections = JoinSet::new();
    for _ in 0..order.connections {
        let (pace, tally, dialer, order) = (pace.clone(), tally.clone(), dialer.clone(), order.clone());
        connections.spawn_local(async move {
            if let Err(error) = connection(&order, &dialer, &pace, &tally).await {
                tally.failed(&error);
            }
        });
    }
    while connections.join_next().await.is_some() {}
    tally.report(pace.begun())
}

async fn connection(
    order: &Order,
    dialer: &Dialer,
    pace: &Rc<Pace>,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let bytes = order.bytes;
    match order.ask {
        Ask::Get => http1::ask(dialer.dial().await?, bytes, pace, tally).await,
        Ask::Fresh => http1::ask_on_new_connections(dialer, bytes, pace, tally).await,
        Ask::Fetch => {
            let question = http2::Question::Fetch(bytes);
            http2::ask(dialer.dial().await?, question, order.streams, pace, tally).await
        }
        Ask::Call => {
            let question = http2::Question::Call;
            http2::ask(dialer.dial().await?, question, order.streams, pace, tally).await
        }
        Ask::Echo => echo::ask(dialer.dial().await?, pace, tally).await,
        Ask::Bulk => bulk::ask(dialer.dial().await?, bytes, pace, tally).await,
    }
}
