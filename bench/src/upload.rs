//! Uploads that are larger than anything in between can hold: each sends as fast as it is read.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{ArgAction, Args};
use h2::client::{Builder, SendRequest};
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{self, LocalOptions};
use tokio::task::{JoinSet, spawn_local};
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
    uploads: u32,
    /// All on one connection of HTTP/2 instead of each on one of HTTP/1.1
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    http2: bool,
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
    let dialer = Rc::new(Dialer::plain(order.target));
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let taken = runtime.block_on(send(order, dialer))?;
    println!("{}", serde_json::to_string(&taken)?);
    Ok(())
}

async fn send(order: &Order, dialer: Rc<Dialer>) -> anyhow::Result<Taken> {
    let bytes = Rc::new(Cell::new(0));
    let shared = if order.http2 { Some(connect(&dialer).await?) } else { None };
    let mut uploads = JoinSet::new();
    let length = Duration::from_secs_f64(order.seconds);
    for _ in 0..order.uploads {
        let (dialer, bytes, total) = (dialer.clone(), bytes.clone(), order.bytes);
        let shared = shared.clone();
        uploads.spawn_local(timeout(length, async move {
            match shared {
                Some(shared) => on_a_stream(shared, total, &bytes).await,
                None => on_a_connection(&dialer, total, &bytes).await,
            }
        }));
    }
    let mut taken = Taken::default();
    while let Some(upload) = uploads.join_next().await {
        match upload? {
            Err(_still_sending) => taken.open += 1,
            Ok(Err(error)) => drop(taken.first_error.get_or_insert_with(|| format!("{error:#}"))),
            Ok(Ok(())) => {}
        }
    }
    taken.bytes = bytes.get();
    Ok(taken)
}

async fn on_a_connection(dialer: &Dialer, total: u64, sent: &Cell<u64>) -> anyhow::Result<()> {
    let mut stream = dialer.dial().await?;
    let head = format!("POST {SLOW_PATH} HTTP/1.1\r\nhost: bench.example\r\ncontent-length: {total}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut left = total;
    while left > 0 {
        let written = stream.write(piece(left)).await?;
        ensure!(written > 0, "the proxy takes no more");
        left -= written as u64;
        sent.set(sent.get() + written as u64);
    }
    for_ever().await
}

async fn connect(dialer: &Dialer) -> anyhow::Result<SendRequest<Bytes>> {
    let (sender, connection) = Builder::new().enable_push(false).handshake(dialer.dial().await?).await?;
    spawn_local(async {
        // What goes wrong here goes wrong for a stream, which says so.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn on_a_stream(mut sender: SendRequest<Bytes>, total: u64, sent: &Cell<u64>) -> anyhow::Result<()> {
    std::future::poll_fn(|context| sender.poll_ready(context)).await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://bench.example{SLOW_PATH}"))
        .header("content-length", total)
        .body(())?;
    let (_answer, mut body) = sender.send_request(request, false)?;
    let mut left = total;
    while left > 0 {
        let piece = piece(left);
        body.reserve_capacity(piece.len());
        let room = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        let room = room.context("the stream has ended")??.min(piece.len());
        if room == 0 {
            tokio::task::yield_now().await;
            continue;
        }
        body.send_data(Bytes::from_static(&piece[..room]), false)?;
        left -= room as u64;
        sent.set(sent.get() + room as u64);
    }
    for_ever().await
}

/// An answer is not awaited: there is none.
async fn for_ever() -> anyhow::Result<()> {
    loop {
        sleep(Duration::from_secs(1)).await;
    }
}

/// What to write next.
fn piece(left: u64) -> &'static [u8] {
    let room = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
    &PIECE[..room]
}

static PIECE: [u8; 64 * 1_024] = [b'u'; 64 * 1_024];
