//! Uploads that are larger than anything in between can hold: each connection sends as fast as it is read.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::load::Dialer;
use crate::workload::SLOW_PATH;

/// What to send, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// Where
    #[arg(long)]
    target: SocketAddr,
    /// How many at once
    #[arg(long)]
    connections: u32,
    /// Of each body
    #[arg(long)]
    bytes: u64,
    /// How long; nothing is finished by then
    #[arg(long)]
    seconds: f64,
}

/// What was taken.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Still being sent at the end
    pub(crate) open: u32,
    /// Bytes of bodies that left this process, of all
    pub(crate) bytes: u64,
    pub(crate) first_error: Option<String>,
}

/// Prints [`Taken`].
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let dialer = Rc::new(Dialer::new(order.target, None)?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let taken = runtime.block_on(send(order, dialer));
    println!("{}", serde_json::to_string(&taken)?);
    Ok(())
}

async fn send(order: &Order, dialer: Rc<Dialer>) -> Taken {
    let bytes = Rc::new(Cell::new(0));
    let mut uploads = JoinSet::new();
    let length = Duration::from_secs_f64(order.seconds);
    for _ in 0..order.connections {
        let (dialer, bytes, total) = (dialer.clone(), bytes.clone(), order.bytes);
        uploads.spawn_local(async move { timeout(length, upload(&dialer, total, &bytes)).await });
    }
    let mut taken = Taken::default();
    while let Some(upload) = uploads.join_next().await {
        match upload {
            Ok(Err(_still_sending)) => taken.open += 1,
            Ok(Ok(Err(error))) => drop(taken.first_error.get_or_insert_with(|| format!("{error:#}"))),
            Ok(Ok(Ok(()))) => {}
            Err(error) => drop(taken.first_error.get_or_insert_with(|| error.to_string())),
        }
    }
    taken.bytes = bytes.get();
    taken
}

async fn upload(dialer: &Dialer, total: u64, sent: &Cell<u64>) -> anyhow::Result<()> {
    let mut stream = dialer.dial().await?;
    let head = format!("POST {SLOW_PATH} HTTP/1.1\r\nhost: bench.example\r\ncontent-length: {total}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let piece = vec![b'u'; 64 * 1_024];
    let mut left = total;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let written = stream.write(&piece[..room]).await? as u64;
        anyhow::ensure!(written > 0, "the proxy takes no more");
        left -= written;
        sent.set(sent.get() + written);
    }
    // An answer is not awaited: there is none.
    loop {
        sleep(Duration::from_secs(1)).await;
    }
}
