//! An origin's HTTP/2 connection.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Answer, Side, Then};
use crate::client::http2::{fields_of, map_of, send};
use crate::message::Received;

pub(super) async fn serve(socket: TcpStream, side: Side) -> Result<(), h2::Error> {
    let _ = socket.set_nodelay(true);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake::<_, Bytes>(socket).await?;
    let side = Arc::new(side);
    let (going, mut gone) = mpsc::channel::<()>(1);
    let mut streams = tokio::task::JoinSet::new();
    let mut nth = 0;
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { break };
                let (request, respond) = accepted?;
                nth += 1;
                streams.spawn(exchange(side.clone(), request, respond, nth, going.clone()));
            }
            Some(()) = gone.recv() => connection.graceful_shutdown(),
        }
    }
    Ok(())
}

async fn exchange(
    side: Arc<Side>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    nth: usize,
    going: mpsc::Sender<()>,
) {
    let Ok(received) = read(&side, request, nth).await else { return };
    let answer = (side.script)(&received);
    side.log.receive(received);
    if let Some(gate) = &answer.gate {
        tokio::select! {
            () = gate.opened() => {}
            _ = poll_fn(|context| respond.poll_reset(context)) => return side.log.abandon(),
        }
    }
    if answer.raw.is_some() {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    if answer.then == Then::GoAway {
        let _ = going.send(()).await;
    }
    if write(&mut respond, &answer).await.is_err() {
        side.log.abandon();
    }
}

async fn read(side: &Side, request: Request<RecvStream>, nth: usize) -> Result<Received, h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut received = Received {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: fields_of(&head.headers),
        connection: side.number,
        nth,
        ..Received::default()
    };
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.body.extend_from_slice(&data);
    }
    received.trailers = body.trailers().await?.as_ref().map(fields_of).unwrap_or_default();
    Ok(received)
}

async fn write(respond: &mut SendResponse<Bytes>, answer: &Answer) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.status_mut() = answer.status.try_into().expect("a status");
    *response.headers_mut() = map_of(&answer.headers);
    let only_head = answer.body.is_empty() && answer.trailers.is_empty();
    let mut stream = respond.send_response(response, only_head)?;
    if only_head {
        return Ok(());
    }
    let (pieces, pause) = answer.pieces();
    for (index, piece) in pieces.into_iter().enumerate() {
        if index > 0 {
            sleep(pause).await;
        }
        send(&mut stream, piece).await?;
    }
    match answer.trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true),
        false => stream.send_trailers(map_of(&answer.trailers)),
    }
}

const WINDOW: u32 = 1024 * 1024;
