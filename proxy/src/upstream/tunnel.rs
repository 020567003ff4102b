//! Tunnels: CONNECT to a plain connection, upgrades over either version. Once there, each is a message whose two bodies run at once: what the
//! client sends is the request's, what comes back the response's. Nothing of the client's goes out before that (R1).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, StatusCode};

use super::connect::{ConnectionPlace, Want, connect};
use super::http1::Upgraded;
use super::pool::Pools;
use super::watch::Watched;
use super::{Attempt, Destination, SendError};
use crate::error::Reason;
use crate::io::{Io, give_buffer, take_buffer};
use crate::message::{
    Body, BodyError, BodyStream, Frame, Headers, RequestHead, Response, ResponseHead, Tunnel, Version,
    accept_of, new_key,
};

impl Pools {
    /// Opens what the request asks for. An upgrade that came about is answered with 101, whatever version carried it.
    pub(super) async fn open_tunnel(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
        tunnel: &Tunnel,
        http2: bool,
    ) -> Result<Response, SendError> {
        match tunnel {
            Tunnel::Connect => self.open_plain(destination, attempt.body).await,
            Tunnel::Upgrade(protocol) if http2 => {
                self.upgrade_over_http2(destination, attempt, protocol).await
            }
            Tunnel::Upgrade(protocol) => self.upgrade_over_http1(destination, attempt, protocol).await,
        }
    }

    /// CONNECT ends here: a connection to the endpoint, and the 200 that says so.
    async fn open_plain(&self, destination: &Destination, upload: Body) -> Result<Response, SendError> {
        let cluster = &destination.cluster;
        let Some(place) = ConnectionPlace::take(cluster, false) else {
            let detail = format!("{} connections open to {}", cluster.limits.connections, cluster.name);
            return Err(SendError::not_sent(Reason::UpstreamOverflow, detail));
        };
        let opened = connect(cluster, &destination.endpoint, Want::OPAQUE, &self.recorder).await?;
        destination.took(opened.session.as_ref());
        let held = (place.opened(&self.recorder), self.watch.add(cluster, opened.session.as_ref()));
        let head = ResponseHead { status: StatusCode::OK, version: Version::Http11, headers: Headers::new() };
        Ok(Response { head, body: Body::stream(Plain::new(opened.io, BytesMut::new(), upload, held)) })
    }

    async fn upgrade_over_http1(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
        protocol: &str,
    ) -> Result<Response, SendError> {
        let mut head = attempt.head.clone();
        let key = add_key(&mut head, protocol);
        match self.upgrade_http1(destination, &head, attempt.fresh, protocol).await? {
            Upgraded::Answered(response) => Ok(response),
            Upgraded::Switched(mut response, connection) => {
                if let Some(key) = key {
                    check_accept(&mut response.head, &key)?;
                }
                let watched = self.watch.add(&destination.cluster, connection.session.as_ref());
                let held = (connection.held, watched);
                let stream = Plain::new(connection.io, connection.buffer, attempt.body, held);
                response.body = Body::stream(stream);
                Ok(response)
            }
        }
    }

    async fn upgrade_over_http2(
        &self,
        destination: &Destination,
        attempt: Attempt<'_>,
        protocol: &str,
    ) -> Result<Response, SendError> {
        let key = attempt.head.headers.get("sec-websocket-key").map(accept_of);
        let mut response = self.connect_http2(destination, attempt, protocol).await?;
        let status = response.head.status;
        if status.is_success() {
            response.head.status = StatusCode::SWITCHING_PROTOCOLS;
            // RFC 8441 has no such header; a client of HTTP/1.1 insists on it.
            if let Some(accept) = key
                && !response.head.headers.contains(ACCEPT)
                && let Ok(accept) = HeaderValue::from_str(&accept)
            {
                response.head.headers.set(ACCEPT, accept);
            }
        }
        Ok(response)
    }
}

/// WebSocket over HTTP/2 has no key (RFC 8441 §5), and over HTTP/1.1 no server talks without one. The key that was made.
fn add_key(head: &mut RequestHead, protocol: &str) -> Option<String> {
    if protocol != "websocket" || head.version != Version::Http2 || head.headers.contains(KEY) {
        return None;
    }
    let key = new_key(rand::random());
    head.headers.set(KEY, HeaderValue::from_str(&key).ok()?);
    Some(key)
}

/// The answer to a key of ours is for us: it must be right, and goes no further.
fn check_accept(head: &mut ResponseHead, key: &str) -> Result<(), SendError> {
    let right = head.headers.get(ACCEPT) == Some(accept_of(key.as_bytes()).as_bytes());
    head.headers.remove(ACCEPT);
    if right {
        return Ok(());
    }
    Err(SendError::maybe(Reason::UpstreamProtocolError, "sec-websocket-accept does not answer our key"))
}

const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// The far end of a tunnel on a connection of its own.
struct Plain<H> {
    io: Io,
    /// Received and not passed on.
    buffer: BytesMut,
    upload: Upload,
    /// Lives as long as the connection; and who is at its other end.
    held: (H, Watched),
}

impl<H: Unpin> Plain<H> {
    fn new(io: Io, buffer: BytesMut, upload: Body, held: (H, Watched)) -> Self {
        Self { io, buffer, upload: Upload::new(upload), held }
    }
}

impl<H: Unpin> BodyStream for Plain<H> {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let this = &mut *self;
        if this.held.1.poll_revoked(context).is_ready() {
            this.io.reset_on_close();
            return Poll::Ready(Some(Err(BodyError::Reset)));
        }
        if let Poll::Ready(Err(error)) = this.upload.poll(context, &this.io) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if !this.buffer.is_empty() {
                return Poll::Ready(Some(Ok(Frame::Data(this.buffer.split().freeze()))));
            }
            if this.io.poll_readable(context).is_pending() {
                // A silent direction holds no buffer.
                give_buffer(std::mem::take(&mut this.buffer));
                return Poll::Pending;
            }
            if this.buffer.capacity() == 0 {
                this.buffer = take_buffer();
            }
            this.buffer.reserve(READ);
            match this.io.poll_read(context, &mut this.buffer) {
                Poll::Pending | Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Poll::Ready(None),
                Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(BodyError::Reset))),
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn poll_feed(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        let this = &mut *self;
        // A failure is told by the next read.
        let _ = this.upload.poll(context, &this.io);
    }

    fn poll_drained(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.upload.poll(context, &this.io).map(drop)
    }
}

/// What the client sends through.
struct Upload {
    body: Body,
    piece: Bytes,
    /// At its end, and how.
    done: Option<Result<(), BodyError>>,
}

impl Upload {
    fn new(body: Body) -> Self {
        Self { body, piece: Bytes::new(), done: None }
    }

    /// Ready when everything has been sent, and the end with it.
    fn poll(&mut self, context: &mut Context<'_>, io: &Io) -> Poll<Result<(), BodyError>> {
        loop {
            if let Some(done) = self.done {
                return Poll::Ready(done);
            }
            while !self.piece.is_empty() {
                match ready!(io.poll_write(context, &self.piece)) {
                    Ok(written @ 1..) => self.piece.advance(written),
                    // The endpoint takes no more; what it still says is passed on.
                    Ok(0) | Err(_) => {
                        self.done = Some(Ok(()));
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            match ready!(self.body.poll_frame(context)) {
                Some(Ok(Frame::Data(data))) => self.piece = data,
                Some(Err(_)) => self.done = Some(Err(BodyError::Broken)),
                Some(Ok(Frame::Trailers(_))) | None => {
                    io.shutdown_write();
                    self.done = Some(Ok(()));
                }
            }
        }
    }
}

/// Bytes asked for at once.
const READ: usize = 64 * 1024;
