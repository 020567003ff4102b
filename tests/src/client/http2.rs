//! An HTTP/2 client connection, by prior knowledge.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::message::{Call, Fields, Response};

/// A connection. Calls may run beside each other.
#[derive(Debug)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Http2 {
    /// Connects.
    ///
    /// # Errors
    /// When the other side does not listen or does not speak HTTP/2.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        let _ = socket.set_nodelay(true);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        // Until the other side has told its limit, what RFC 9113 §6.5.2 asks of everybody.
        builder.initial_max_send_streams(100);
        let (sender, connection) = builder.handshake(socket).await.map_err(io::Error::other)?;
        // Errors of the connection are errors of its streams too.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// When the stream ends before a response head.
    pub async fn call(&self, call: &Call) -> io::Result<Response> {
        self.exchange(call).await.map_err(io::Error::other)
    }

    async fn exchange(&self, call: &Call) -> Result<Response, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let only_head = call.body.is_none() && call.trailers.is_empty();
        let (response, mut stream) = sender.send_request(request(call), only_head)?;
        if !only_head {
            // The other side may have answered without reading everything: what the response says counts.
            let _ = send_body(&mut stream, call).await;
        }
        read(response.await?).await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn request(call: &Call) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = call.method.parse().expect("a method");
    *request.uri_mut() = format!("http://{}{}", call.host, call.target).parse().expect("a target");
    *request.headers_mut() = map_of(&call.headers);
    if let (Some(body), false) = (&call.body, call.chunked) {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, body.len().into());
    }
    request
}

async fn send_body(stream: &mut SendStream<Bytes>, call: &Call) -> Result<(), h2::Error> {
    send(stream, call.body.as_deref().unwrap_or_default()).await?;
    match call.trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true),
        false => stream.send_trailers(map_of(&call.trailers)),
    }
}

async fn read(response: http::Response<RecvStream>) -> Result<Response, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut response =
        Response { status: head.status.as_u16(), headers: fields_of(&head.headers), ..Response::default() };
    while let Some(data) = stream.data().await {
        let Ok(data) = data else { return Ok(response) };
        stream.flow_control().release_capacity(data.len())?;
        response.body.extend_from_slice(&data);
    }
    if let Ok(trailers) = stream.trailers().await {
        response.trailers = trailers.as_ref().map(fields_of).unwrap_or_default();
        response.complete = true;
    }
    Ok(response)
}

/// Sends a piece as the other side's window allows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, piece: &[u8]) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(piece);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Err(Reason::CANCEL.into()),
        };
        let now = rest.split_to(room.min(rest.len()));
        stream.send_data(now, false)?;
    }
    Ok(())
}

pub(crate) fn fields_of(map: &HeaderMap) -> Fields {
    // One character for each byte, as over HTTP/1.1.
    let text = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
    map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

pub(crate) fn map_of(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.to_ascii_lowercase().parse().expect("a field name");
        map.append(name, value.parse().expect("a field value"));
    }
    map
}

const WINDOW: u32 = 1024 * 1024;
