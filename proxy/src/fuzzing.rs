//! The checks behind `fuzz/`: each takes arbitrary bytes and panics when a codec, a look ahead or the path canonicaliser breaks a
//! promise.
//!
//! Only for the fuzz targets and for the replay of their seeds as a normal test (`fuzzing/tests.rs`); no part of the program.

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use crate::detect::{self, Hello};
use crate::http1::{
    self, BodyDecoder, CHUNK_END, Decoded, Expect, Fault, Framing, Limits, ParseError, RequestEvent,
    RequestOptions, RequestParser, ResponseEvent, ResponseOptions, ResponseParser,
};
use crate::message::{EscapedSlashes, Headers, PathError, PathOptions, Version, normalize};
use crate::proxy_header::{self, Header};

mod frames;
pub mod strict;
mod whole;

pub use frames::{http2_frames, http2_requests};
pub use whole::whole_request;

#[cfg(test)]
mod tests;

/// What an edge listener of our control plane asks for.
const EDGE: PathOptions =
    PathOptions { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };

/// Small bounds, so that inputs of a few hundred bytes reach them.
const LIMITS: Limits = Limits { head_bytes: 512, fields: 8, target_bytes: 96, http_10: true };

/// Bounds that nothing reaches which passed the small ones, though the encoder may write a little more than was read.
const WIDE: Limits = Limits { head_bytes: 1 << 20, fields: 100, target_bytes: 1 << 16, http_10: false };

/// A stream of requests: the same whatever pieces it comes in; what was taken goes out as one clean request.
pub fn http1_request(data: &[u8]) {
    let whole = requests([data]);
    for piece in [1, 2, 7] {
        assert_eq!(whole, requests(data.chunks(piece)), "pieces of {piece}");
    }
}

/// A stream of responses to GET, HEAD and CONNECT: the same promises.
pub fn http1_response(data: &[u8]) {
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        let whole = responses([data], &method);
        for piece in [1, 2, 7] {
            assert_eq!(whole, responses(data.chunks(piece), &method), "pieces of {piece}");
        }
    }
}

/// Chunked content: the same whatever pieces it comes in, and what comes out comes out again after it was encoded.
pub fn chunked(data: &[u8]) {
    let whole = content([data], &LIMITS);
    for piece in [1, 2, 7] {
        assert_eq!(whole, content(data.chunks(piece), &LIMITS), "pieces of {piece}");
    }
    if whole.end != Some(Ok(())) {
        return;
    }
    let mut again = BytesMut::new();
    if !whole.data.is_empty() {
        http1::encode_chunk_header(whole.data.len(), &mut again);
        again.extend_from_slice(&whole.data);
        again.extend_from_slice(CHUNK_END);
    }
    again.extend_from_slice(&whole.tail);
    let second = content([&again[..]], &WIDE);
    // The second form has no extensions and no dropped trailers, but a space behind each colon; nothing else differs.
    assert_eq!(
        (second.data, second.trailers, second.end, second.rest),
        (whole.data, whole.trailers, whole.end, 0)
    );
}

/// A path under every option: never a dot segment or a lower-case escape left, and doing it twice changes nothing.
pub fn path(data: &[u8]) {
    let Ok(path) = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(data)) else { return };
    let policies = [
        EscapedSlashes::Keep,
        EscapedSlashes::Reject,
        EscapedSlashes::UnescapeAndRedirect,
        EscapedSlashes::UnescapeAndForward,
    ];
    for escaped_slashes in policies {
        for (normalized, merge_slashes) in [(true, true), (true, false), (false, true), (false, false)] {
            check_path(&path, &PathOptions { normalize: normalized, merge_slashes, escaped_slashes });
        }
    }
}

fn check_path(path: &PathAndQuery, options: &PathOptions) {
    let changed = match normalize(path, options) {
        Ok(changed) => changed.unwrap_or_else(|| path.clone()),
        Err(PathError::Redirect(changed)) => {
            assert!(!changed.path().starts_with("//"), "{changed} is another host");
            changed
        }
        Err(_) => return,
    };
    assert_eq!(changed.query(), path.query());
    if !changed.path().starts_with('/') || path.as_str().starts_with('?') {
        return;
    }
    let text = changed.path();
    if options.normalize {
        assert!(!text.contains('\\'), "{text}");
        for segment in text.split('/') {
            let name = segment.replace("%2E", ".");
            assert!(name != "." && name != "..", "{text}");
        }
        assert_eq!(normalize(&changed, options), Ok(None), "{text} is no fixed point");
    }
    if options.merge_slashes {
        assert!(!text.contains("//"), "{text}");
    }
}

/// The first bytes of a TLS connection: once something is known of them, more bytes change nothing.
pub fn client_hello(data: &[u8]) {
    let whole = detect::client_hello(data);
    let mut needed = 0;
    for end in 0..data.len() {
        match detect::client_hello(&data[..end]) {
            Hello::Incomplete(more) => {
                assert!(more > end, "{more} bytes asked for, {end} are there");
                needed = more;
            }
            decided => {
                assert!(end >= needed, "known with {end} bytes, though {needed} were asked for");
                assert_eq!(decided, whole, "known with {end} bytes");
                return;
            }
        }
    }
}

/// A PROXY header: once something is known of it, more bytes change nothing; and what it says can be said again.
pub fn proxy_header(data: &[u8]) {
    let whole = proxy_header::parse(data);
    for end in 0..data.len() {
        let part = proxy_header::parse(&data[..end]);
        if part != Header::Incomplete {
            assert_eq!(part, whole, "known with {end} bytes");
            break;
        }
    }
    let Header::Complete(header) = whole else { return };
    assert!(header.length <= data.len() && header.length <= proxy_header::MOST_BYTES);
    let Some((source, destination)) = header.addresses else { return };
    let again = proxy_header::encode(header.version, source, destination);
    let Header::Complete(second) = proxy_header::parse(&again) else { panic!("{again:?} is no header") };
    assert_eq!(second.addresses, header.addresses);
}

/// Feeds bytes piece by piece; `step` takes what it can and says whether to go on. Gives the number of bytes not taken.
fn feed<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    mut step: impl FnMut(&mut BytesMut) -> bool,
) -> usize {
    let mut buffer = BytesMut::new();
    let mut pieces = pieces.into_iter();
    loop {
        if !step(&mut buffer) {
            return buffer.len() + pieces.map(<[u8]>::len).sum::<usize>();
        }
        let Some(piece) = pieces.next() else { return buffer.len() };
        buffer.extend_from_slice(piece);
    }
}

/// Everything that a client's bytes yield, in words.
fn requests<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut parser = RequestParser::new();
    conversation(pieces, |buffer| {
        let event = parser.parse(buffer, &LIMITS)?;
        Ok(event.map(|event| {
            check_request(&event);
            (describe_request(&event), BodyDecoder::new(event.framing, &LIMITS))
        }))
    })
}

/// Everything that an upstream's bytes yield, in words.
fn responses<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, method: &Method) -> Vec<String> {
    let mut parser = ResponseParser::new();
    conversation(pieces, |buffer| {
        let event = parser.parse(buffer, &LIMITS, method)?;
        Ok(event.map(|event| {
            check_response(&event, method);
            (describe_response(&event), BodyDecoder::for_response(event.framing, &LIMITS))
        }))
    })
}

/// Head, content, head, content, and so on, until the bytes end or are refused.
fn conversation<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    mut head: impl FnMut(&mut BytesMut) -> Result<Option<(String, BodyDecoder)>, ParseError>,
) -> Vec<String> {
    let mut log = Vec::new();
    let mut body: Option<(BodyDecoder, Content)> = None;
    feed(pieces, |buffer| {
        loop {
            if let Some((decoder, content)) = &mut body {
                if !content.take(decoder, buffer) {
                    return true;
                }
                log.push(format!("{content:?}"));
                if content.end != Some(Ok(())) {
                    return false;
                }
                body = None;
            }
            match head(buffer) {
                Ok(None) => return true,
                Ok(Some((event, decoder))) => {
                    log.push(event);
                    body = Some((decoder, Content::default()));
                }
                Err(error) => {
                    log.push(format!("{error}, {:?}", error.reason()));
                    return false;
                }
            }
        }
    });
    if let Some((mut decoder, content)) = body {
        log.push(format!("{content:?}, then {:?}", decoder.end_of_input()));
    }
    log
}

/// What a decoder gave.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    data: Vec<u8>,
    trailers: Vec<(String, String)>,
    /// The last chunk and the trailers, encoded.
    tail: BytesMut,
    end: Option<Result<(), ParseError>>,
    /// Bytes after the end.
    rest: usize,
}

impl Content {
    /// Takes what there is; true at the end.
    fn take(&mut self, decoder: &mut BodyDecoder, buffer: &mut BytesMut) -> bool {
        loop {
            match decoder.decode(buffer) {
                Ok(Decoded::Data(data)) => {
                    assert!(!data.is_empty());
                    self.data.extend_from_slice(&data);
                }
                Ok(Decoded::Trailers(trailers)) => {
                    assert!(!trailers.is_empty() && decoder.is_done());
                    self.trailers = fields(&trailers);
                    http1::encode_last_chunk(Some(&trailers), &mut self.tail);
                }
                Ok(Decoded::NeedMore) => return false,
                Ok(Decoded::End) => {
                    assert!(decoder.is_done());
                    if self.tail.is_empty() {
                        http1::encode_last_chunk(None, &mut self.tail);
                    }
                    self.end = Some(Ok(()));
                    return true;
                }
                Err(error) => {
                    self.end = Some(Err(error));
                    return true;
                }
            }
        }
    }
}

fn content<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Content {
    let mut decoder = BodyDecoder::new(Framing::Chunked, limits);
    let mut gathered = Content::default();
    let rest = feed(pieces, |buffer| !gathered.take(&mut decoder, buffer));
    // After an error it is not said how much of the buffer was taken.
    gathered.rest = if gathered.end == Some(Ok(())) { rest } else { 0 };
    gathered
}

/// Names in lower case and in order, as those that the encoder writes itself come in other places; values of one name stay in order.
fn fields(headers: &Headers) -> Vec<(String, String)> {
    let mut fields: Vec<_> =
        headers.iter().map(|(name, value)| (latin1(name).to_lowercase(), latin1(value))).collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// Any bytes as text, one character each.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn describe_request(event: &RequestEvent) -> String {
    let RequestEvent { head, framing, keep_alive, upgrade, expect, absolute_form, te_trailers } = event;
    format!(
        "{} {:?} {:?} {} {:?} {:?} | {framing:?} {keep_alive} {upgrade:?} {expect:?} {absolute_form} {te_trailers}",
        head.method,
        head.scheme,
        head.authority,
        head.path,
        head.version,
        fields(&head.headers),
    )
}

fn describe_response(event: &ResponseEvent) -> String {
    let ResponseEvent { head, framing, keep_alive, keep_alive_timeout, upgrade } = event;
    format!(
        "{} {:?} {:?} | {framing:?} {keep_alive} {keep_alive_timeout:?} {upgrade:?}",
        head.status,
        head.version,
        fields(&head.headers),
    )
}

/// A head as it went out: a start line and fields, each line ending in CRLF and holding neither CR nor LF nor NUL.
fn lines(encoded: &[u8]) -> Vec<String> {
    let Some(head) = encoded.strip_suffix(b"\r\n\r\n") else { panic!("no end: {encoded:?}") };
    let lines: Vec<_> = latin1(head).split("\r\n").map(str::to_owned).collect();
    for line in &lines {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    }
    lines
}

fn count(lines: &[String], name: &str) -> usize {
    let is = |line: &&String| line.split_once(':').is_some_and(|(word, _)| word.eq_ignore_ascii_case(name));
    lines.iter().skip(1).filter(is).count()
}

/// What was taken goes out with one Host and at most one framing field, and means the same to a second reader.
fn check_request(event: &RequestEvent) {
    assert!(event.framing != Framing::UntilClose);
    assert!(event.head.authority.is_some() || event.head.version == Version::Http10);
    let mut out = BytesMut::new();
    let options = RequestOptions {
        keep_alive: event.keep_alive,
        upgrade: event.upgrade.as_deref(),
        te_trailers: event.te_trailers,
    };
    http1::encode_request_with(&event.head, &event.framing, &options, &mut out);
    let lines = lines(&out);
    assert_eq!(count(&lines, "host"), 1, "{lines:?}");
    assert!(count(&lines, "content-length") + count(&lines, "transfer-encoding") <= 1, "{lines:?}");
    let again = match RequestParser::new().parse(&mut out, &WIDE) {
        Ok(Some(again)) => again,
        // HTTP/1.0 does without.
        Err(ParseError::Request(Fault::HostMissing)) if event.head.authority.is_none() => return,
        other => panic!("{lines:?} gave {other:?}"),
    };
    assert!(out.is_empty(), "{lines:?}");
    assert_eq!(again.head.method, event.head.method);
    assert_eq!(again.head.authority, event.head.authority);
    assert_eq!(again.head.path, event.head.path);
    assert_eq!(fields(&again.head.headers), fields(&event.head.headers));
    assert_eq!(again.framing.is_empty(), event.framing.is_empty());
    assert!(again.framing == event.framing || event.framing.is_empty());
    assert_eq!(again.upgrade, event.upgrade);
    assert_eq!((again.expect, again.te_trailers), (Expect::None, event.te_trailers));
    assert!(again.keep_alive == event.keep_alive || event.upgrade.is_some());
}

fn check_response(event: &ResponseEvent, method: &Method) {
    let status = event.head.status;
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    assert!(!bodiless || event.framing == Framing::None);
    assert!(event.framing != Framing::UntilClose || !event.keep_alive);
    for to_http_10 in [false, true] {
        let mut out = BytesMut::new();
        let options =
            ResponseOptions { to_http_10, keep_alive: event.keep_alive, upgrade: event.upgrade.as_deref() };
        http1::encode_response(&event.head, &event.framing, &options, &mut out);
        let lines = lines(&out);
        assert!(count(&lines, "content-length") + count(&lines, "transfer-encoding") <= 1, "{lines:?}");
        assert!(!to_http_10 || count(&lines, "transfer-encoding") == 0, "{lines:?}");
        let parsed = ResponseParser::new().parse(&mut out, &WIDE, method);
        let Ok(Some(again)) = parsed else { panic!("{lines:?} gave {parsed:?}") };
        assert!(out.is_empty(), "{lines:?}");
        assert_eq!(again.head.status, status);
        assert_eq!(fields(&again.head.headers), fields(&event.head.headers));
        assert!(again.framing == event.framing || to_http_10 && event.framing == Framing::Chunked);
        assert_eq!(again.upgrade, event.upgrade);
    }
}
