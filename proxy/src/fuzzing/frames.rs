//! Frames of HTTP/2: under the guard, and as the requests that become of them. Beside the other checks and not among them: those need no room above the codec, and are copied with it
//! (`cargo xtask mutants`).

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::{EDGE, strict};
use crate::http1::{self, CHUNK_END, Framing};
use crate::http2::{Budgets, Cut, Guard, HeadBounds, request_head};
use crate::message::{Headers, RequestHead, normalize};

/// A client's bytes, as the h2 crate reads them: every request that comes to its end and is served goes out over HTTP/1.1 as one message
/// that a strict reader takes for the same, and nothing else.
pub fn http2_requests(data: &[u8]) {
    for request in requests(data) {
        request.check();
    }
}

/// A whole request.
struct Request {
    head: RequestHead,
    content: Vec<u8>,
    trailers: Option<Headers>,
}

/// Everything is there from the beginning, so what is not ready when it is asked for once never will be.
fn requests(data: &[u8]) -> Vec<Request> {
    let mut context = Context::from_waker(Waker::noop());
    let transport = tokio::io::join(data.chain(Silence), tokio::io::sink());
    let handshake =
        pin!(h2::server::Builder::new().max_header_list_size(16 * 1024).handshake::<_, Bytes>(transport));
    let Poll::Ready(Ok(mut connection)) = handshake.poll(&mut context) else { return Vec::new() };
    let mut begun = Vec::new();
    while let Poll::Ready(Some(Ok((request, answer)))) = connection.poll_accept(&mut context) {
        // Answers are kept: without them the streams would be reset.
        begun.push((request.into_parts(), answer));
    }
    let mut whole = Vec::new();
    for ((parts, mut stream), _answer) in begun {
        let Ok(incoming) = request_head(parts, HeadBounds { bytes: 16 * 1024, fields: 100 }) else {
            continue;
        };
        if let Some((content, trailers)) = read(&mut stream, &mut context) {
            whole.push(Request { head: incoming.head, content, trailers });
        }
    }
    whole
}

/// Content and trailers; `None` when they do not come to an end.
fn read(stream: &mut RecvStream, context: &mut Context<'_>) -> Option<(Vec<u8>, Option<Headers>)> {
    let mut content = Vec::new();
    loop {
        match stream.poll_data(context) {
            Poll::Ready(Some(piece)) => content.extend_from_slice(&piece.ok()?),
            Poll::Ready(None) => break,
            Poll::Pending => return None,
        }
    }
    let Poll::Ready(Ok(trailers)) = stream.poll_trailers(context) else { return None };
    Some((content, trailers.map(Headers::from_map)))
}

/// What follows the bytes of a client that neither says more nor leaves.
struct Silence;

impl AsyncRead for Silence {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Request {
    fn check(mut self) {
        let Ok(path) = normalize(&self.head.path, &EDGE) else { return };
        if self.head.method == Method::CONNECT {
            return;
        }
        self.head.path = path.unwrap_or(self.head.path);
        let announced = self.head.headers.get_str("content-length").map(str::parse::<u64>);
        self.head.headers.remove("content-length");
        let framing = match announced {
            Some(length) => {
                let length = length.unwrap_or_else(|_| panic!("a length that is none"));
                assert_eq!(length, self.content.len() as u64, "more or less than was announced");
                Framing::Length(length)
            }
            None if self.content.is_empty() && self.trailers.is_none() => Framing::None,
            None => Framing::Chunked,
        };
        let sent = self.sent(&framing);
        let (found, rest) = strict::read_all(&sent);
        assert_eq!(rest, Ok(0), "not clean: {sent:?}");
        let [message] = found.as_slice() else { panic!("{} messages: {sent:?}", found.len()) };
        let authority = self.head.authority.as_ref().map_or("", |authority| authority.as_str());
        assert_eq!(
            (message.method.as_str(), message.host()),
            (self.head.method.as_str(), authority.to_owned())
        );
        assert_eq!(message.target.as_bytes(), self.head.path.as_str().as_bytes());
        assert_eq!(message.body, self.content);
    }

    /// As the upstream side writes it.
    fn sent(&self, framing: &Framing) -> BytesMut {
        let mut sent = BytesMut::new();
        http1::encode_request(&self.head, framing, &mut sent);
        if *framing != Framing::Chunked {
            sent.extend_from_slice(&self.content);
            return sent;
        }
        if !self.content.is_empty() {
            http1::encode_chunk_header(self.content.len(), &mut sent);
            sent.extend_from_slice(&self.content);
            sent.extend_from_slice(CHUNK_END);
        }
        http1::encode_last_chunk(self.trailers.as_ref(), &mut sent);
        sent
    }
}

/// The frames of HTTP/2, in either direction: the guard decides the same whatever pieces they come in, and passes on what it does not cut.
pub fn http2_frames(data: &[u8]) {
    let whole = guarded([data]);
    for piece in [1, 2, 7] {
        assert_eq!(whole, guarded(data.chunks(piece)), "pieces of {piece}");
    }
}

/// What a guard makes of a client's bytes, and of the same bytes when we send them.
fn guarded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Option<Cut>, Option<Cut>) {
    let [inbound, outbound] = [true, false].map(|server| Guard::new(Budgets::default(), server));
    for piece in pieces {
        if inbound.cut().is_none() {
            let passed = inbound.received(piece);
            assert!(passed <= piece.len() && (passed == piece.len() || inbound.cut().is_some()));
        }
        outbound.sent(piece);
        outbound.flushed();
    }
    (inbound.cut(), outbound.cut())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::tests::replay;

    // Budgets fill with time: of two that pass the same bytes, the slower one would take more.
    #[tokio::test(start_paused = true)]
    async fn frames_keep_their_promises() {
        replay("http2_frames", http2_frames, 20_000);
    }

    #[test]
    fn frames_become_one_clean_message_for_each_request() {
        replay("http2_requests", http2_requests, 20_000);
    }

    /// So that the check above has something to check.
    #[test]
    fn the_seeds_hold_whole_requests() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/http2_requests");
        for file in std::fs::read_dir(folder).unwrap() {
            let data = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!requests(&data).is_empty(), "{}", data.escape_ascii());
        }
    }
}
