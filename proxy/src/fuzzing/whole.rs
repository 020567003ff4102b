//! A client's bytes on their way through: what the codec takes of them and the proxy serves is what a second, strict reader finds at the
//! origin, one message for each request, and nothing else.

use bytes::BytesMut;
use http::Method;

use super::strict::{self, Message};
use super::{EDGE, LIMITS, latin1};
use crate::http1::{
    self, BodyDecoder, CHUNK_END, Decoded, Expect, Framing, RequestEvent, RequestParser, may_trail,
};
use crate::message::{Headers, Version, normalize};

/// What came of the bytes.
struct Passage {
    /// As the codec understood them.
    understood: Vec<Message>,
    /// What went out.
    sent: BytesMut,
    /// The last request has not come to its end, or was broken within its content.
    unfinished: bool,
}

/// A stream of requests, through the proxy and read again.
pub fn whole_request(data: &[u8]) {
    let passage = pass(data);
    let (found, rest) = strict::read_all(&passage.sent);
    let rest = rest.unwrap_or_else(|error| panic!("not clean: {error}: {:?}", passage.sent));
    assert_eq!(found, passage.understood, "sent {:?}", passage.sent);
    assert!(passage.unfinished || rest == 0, "more was sent than requests: {:?}", passage.sent);
}

fn pass(data: &[u8]) -> Passage {
    let mut parser = RequestParser::new();
    let mut buffer = BytesMut::from(data);
    let mut passage = Passage { understood: Vec::new(), sent: BytesMut::new(), unfinished: false };
    while let Ok(Some(mut event)) = parser.parse(&mut buffer, &LIMITS) {
        if !is_served(&event) {
            break;
        }
        if let Some(path) = normalize(&event.head.path, &EDGE).ok().flatten() {
            event.head.path = path;
        }
        let keep_alive = event.keep_alive;
        let Some(message) = forward(event, &mut buffer, &mut passage.sent) else {
            passage.unfinished = true;
            break;
        };
        passage.understood.push(message);
        if !keep_alive {
            break;
        }
    }
    passage
}

/// The rules of the server loop: what it refuses though it is well formed.
fn is_served(event: &RequestEvent) -> bool {
    event.upgrade.is_none()
        && event.expect != Expect::Unknown
        && event.head.method != Method::CONNECT
        && event.head.scheme == crate::message::Scheme::Http
        && (event.head.version == Version::Http11 || event.head.authority.is_some())
        && normalize(&event.head.path, &EDGE).is_ok()
}

/// Sends a request on as the upstream side does; gives it as it was understood, or `None` when its content does not come to an end.
fn forward(event: RequestEvent, buffer: &mut BytesMut, sent: &mut BytesMut) -> Option<Message> {
    let framing = match event.framing {
        Framing::Length(0) => Framing::None,
        framing => framing,
    };
    http1::encode_request(&event.head, &framing, sent);
    let mut message = understood(&event, &framing);
    let chunked = framing == Framing::Chunked;
    let mut decoder = BodyDecoder::new(event.framing, &LIMITS);
    let mut trailers = None;
    loop {
        match decoder.decode(buffer) {
            Ok(Decoded::Data(data)) => {
                if chunked {
                    http1::encode_chunk_header(data.len(), sent);
                }
                sent.extend_from_slice(&data);
                if chunked {
                    sent.extend_from_slice(CHUNK_END);
                }
                message.body.extend_from_slice(&data);
            }
            Ok(Decoded::Trailers(section)) => trailers = Some(section),
            Ok(Decoded::End) => break,
            Ok(Decoded::NeedMore) | Err(_) => return None,
        }
    }
    if chunked {
        http1::encode_last_chunk(trailers.as_ref(), sent);
    }
    message.trailers =
        trailers.iter().flat_map(pairs).filter(|(name, _)| may_trail(name.as_bytes())).collect();
    Some(message)
}

/// What the origin must get: `Host` first, the fields in order, the framing last.
fn understood(event: &RequestEvent, framing: &Framing) -> Message {
    let head = &event.head;
    let authority = head.authority.as_ref().map(|authority| authority.as_str().as_bytes().to_vec());
    let mut fields = vec![("host".to_owned(), authority.unwrap_or_default())];
    fields.extend(pairs(&head.headers));
    let empty = matches!(head.method, Method::POST | Method::PUT | Method::PATCH).then_some(0);
    match framing {
        Framing::Length(length) => fields.push(length_field(*length)),
        Framing::Chunked => fields.push(("transfer-encoding".to_owned(), b"chunked".to_vec())),
        Framing::None => fields.extend(empty.map(length_field)),
        Framing::UntilClose => panic!("a request cannot end with its connection"),
    }
    Message {
        method: head.method.to_string(),
        target: latin1(head.path.as_str().as_bytes()),
        fields,
        ..Message::default()
    }
}

fn length_field(length: u64) -> (String, Vec<u8>) {
    ("content-length".to_owned(), length.to_string().into_bytes())
}

fn pairs(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (latin1(name).to_lowercase(), value.to_vec())).collect()
}
