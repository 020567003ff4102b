//! One HTTP/2 connection with some requests at once.

use std::rc::Rc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, Version};
use tokio::task::{JoinSet, spawn_local};

use super::dial::Stream;
use super::pace::Pace;
use super::tally::Tally;
use crate::workload::MESSAGE;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// A GET of that many bytes
    Fetch(usize),
    /// A POST of a message, whose answer is one and ends in trailers
    Call,
}

pub(super) async fn ask(
    stream: Box<dyn Stream>,
    question: Question,
    streams: u32,
    pace: &Rc<Pace>,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let (sender, connection) = Builder::new().enable_push(false).handshake(stream).await?;
    spawn_local(async {
        // What goes wrong here goes wrong for a stream, which says so.
        let _ = connection.await;
    });
    let mut running = JoinSet::new();
    for _ in 0..streams {
        let (pace, tally, mut sender) = (pace.clone(), tally.clone(), sender.clone());
        running.spawn_local(async move {
            while let Some(due) = pace.turn().await {
                match exchange(&mut sender, question).await {
                    Ok(()) => tally.answered(due),
                    Err(error) => return tally.failed(&error),
                }
            }
        });
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn exchange(sender: &mut SendRequest<Bytes>, question: Question) -> anyhow::Result<()> {
    std::future::poll_fn(|context| sender.poll_ready(context)).await?;
    let answer = match question {
        Question::Fetch(bytes) => sender.send_request(fetch(bytes)?, true)?.0,
        Question::Call => {
            let (answer, mut body) = sender.send_request(call()?, false)?;
            body.send_data(Bytes::from_static(&MESSAGE), true)?;
            answer
        }
    };
    let (head, mut body) = answer.await?.into_parts();
    ensure!(head.status == 200, "answered {}", head.status);
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let piece = piece?.len();
        body.flow_control().release_capacity(piece)?;
        length += piece;
    }
    let expected = if let Question::Fetch(bytes) = question { bytes } else { MESSAGE.len() };
    // A proxy's own answer to gRPC is a head alone, which says why.
    ensure!(length == expected, "an answer of {length} bytes instead of {expected}: {:?}", head.headers);
    if matches!(question, Question::Call) {
        let trailers = body.trailers().await?.context("an answer without trailers")?;
        ensure!(
            trailers.get("grpc-status").is_some_and(|status| status == "0"),
            "trailers without `grpc-status: 0`"
        );
    }
    Ok(())
}

fn fetch(bytes: usize) -> anyhow::Result<Request<()>> {
    Request::builder()
        .version(Version::HTTP_2)
        .uri(format!("http://bench.example/{bytes}"))
        .header("user-agent", "sidegate-bench")
        .body(())
        .context("a constant request")
}

fn call() -> anyhow::Result<Request<()>> {
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri("http://bench.example/bench.Bench/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "sidegate-bench")
        .body(())
        .context("a constant request")
}
