//! A crowd: many connections that ask once and then stay, doing nothing.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::{Dialer, Stream, answer, request};
use crate::workload::ANSWER_BYTES;

/// Who comes, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// Where
    #[arg(long)]
    target: SocketAddr,
    /// How many stay
    #[arg(long)]
    connections: u32,
    /// How many come at the same time
    #[arg(long)]
    at_once: usize,
    /// How long each waits for its answer
    #[arg(long)]
    patience: f64,
    /// Speak mutual TLS, with the certificates of this folder
    #[arg(long)]
    certificates: Option<PathBuf>,
}

/// How they were received.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) answered: u32,
    /// Connected, asked and still waiting
    pub(crate) waiting: u32,
    /// Not connected, or answered with an error
    pub(crate) failed: u32,
    pub(crate) first_error: Option<String>,
}

/// Prints a [`Crowd`] when all have come, and keeps them until standard input ends.
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let dialer = Rc::new(Dialer::new(order.target, order.certificates.as_deref(), false)?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let (crowd, connections) = runtime.block_on(gather(order, dialer));
    println!("{}", serde_json::to_string(&crowd)?);
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    drop(connections);
    Ok(())
}

async fn gather(order: &Order, dialer: Rc<Dialer>) -> (Crowd, Vec<Box<dyn Stream>>) {
    let mut arrivals = JoinSet::new();
    let room = Rc::new(Semaphore::new(order.at_once));
    let patience = Duration::from_secs_f64(order.patience);
    for _ in 0..order.connections {
        let (dialer, room) = (dialer.clone(), room.clone());
        arrivals.spawn_local(async move {
            let _place = room.acquire().await.context("never closed")?;
            arrive(&dialer, patience).await
        });
    }
    let (mut crowd, mut connections) = (Crowd::default(), Vec::new());
    while let Some(arrival) = arrivals.join_next().await {
        let error = match arrival.map_err(anyhow::Error::from).and_then(|arrival| arrival) {
            Ok((stream, answer)) => {
                connections.push(stream);
                match answer {
                    Some(Ok(())) => {
                        crowd.answered += 1;
                        continue;
                    }
                    None => {
                        crowd.waiting += 1;
                        continue;
                    }
                    Some(Err(error)) => error,
                }
            }
            Err(error) => error,
        };
        crowd.failed += 1;
        crowd.first_error.get_or_insert_with(|| format!("{error:#}"));
    }
    (crowd, connections)
}

/// One connection, and whether its question was answered well in time. It stays whatever the answer is, until the proxy ends it.
async fn arrive(
    dialer: &Dialer,
    patience: Duration,
) -> anyhow::Result<(Box<dyn Stream>, Option<anyhow::Result<()>>)> {
    let mut stream = dialer.dial().await?;
    stream.write_all(&request(ANSWER_BYTES)).await?;
    stream.flush().await?;
    let mut buffer = BytesMut::new();
    let answer = timeout(patience, answer(&mut stream, ANSWER_BYTES, &mut buffer)).await.ok();
    Ok((stream, answer))
}
