//! HTTP/2 with prior knowledge: each request is read to its end and answered with a message and trailers, as gRPC does.

use std::rc::Rc;

use anyhow::Context;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Counter;
use crate::workload::MESSAGE;

/// Answers until the peer closes.
pub(super) async fn serve(stream: TcpStream, counter: Rc<Counter>) -> anyhow::Result<()> {
    let mut connection = Builder::new().handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let counter = counter.clone();
        spawn_local(async move {
            let _ = answer(request, respond, &counter).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    counter: &Counter,
) -> anyhow::Result<()> {
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        let length = piece?.len();
        body.flow_control().release_capacity(length)?;
    }
    let head =
        Response::builder().header("content-type", "application/grpc").body(()).context("a constant head")?;
    // Counted first: whoever has the answer may ask for the count.
    counter.add(1);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(&MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
