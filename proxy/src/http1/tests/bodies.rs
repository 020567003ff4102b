//! Content against the battery.

use super::*;

/// Decodes chunked content that is there as a whole: its data, its trailers, and what is left over.
fn chunked(bytes: impl AsRef<[u8]>) -> Result<(Vec<u8>, Vec<String>, BytesMut), ParseError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked, &Limits::default());
    let mut buffer = BytesMut::from(bytes.as_ref());
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(piece) => data.extend_from_slice(&piece),
            Decoded::Trailers(headers) => trailers = names(&headers),
            Decoded::End => return Ok((data, trailers, buffer)),
            Decoded::NeedMore => decoder.end_of_input()?,
        }
    }
}

#[test]
fn a11_chunks_are_put_together() {
    let (data, trailers, rest) =
        chunked("5\r\nhello\r\n00A;x=\"y\"\r\n, wonderfu\r\n1 ;y\r\nl\r\n000\r\n\r\nnext").unwrap();
    assert_eq!(data, b"hello, wonderful");
    assert!(trailers.is_empty());
    assert_eq!(rest, "next");
}

#[test]
fn a11_odd_chunks_are_refused() {
    for (bytes, wanted) in [
        ("5;x\nhello\r\n0\r\n\r\n", Fault::BareLineFeed),
        ("5;x\ry\r\nhello\r\n0\r\n\r\n", Fault::BareCarriageReturn),
        ("5;x\0y\r\nhello\r\n0\r\n\r\n", Fault::ChunkExtension),
        ("5\nhello\r\n0\r\n\r\n", Fault::BareLineFeed),
        ("5\rhello\r\n0\r\n\r\n", Fault::BareCarriageReturn),
        (" 5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("5 \r\nhello\r\n0\r\n\r\n", Fault::ChunkExtension),
        ("5 5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("0x5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("+5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("-1\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("0_5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        (";x\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
        ("4\r\nhello\r\n0\r\n\r\n", Fault::ChunkEnd),
        ("6\r\nhello\r\n0\r\n\r\n", Fault::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", Fault::ChunkEnd),
        ("5\r\nhello\r0\r\n\r\n", Fault::ChunkEnd),
        ("5\r\nhello\r\n0\n\r\n", Fault::BareLineFeed),
        ("5\r\nhello\r\n0\r\n\n", Fault::BareLineFeed),
        ("0\n\n", Fault::BareLineFeed),
        ("5\r\nhello\r\n0\r\n", Fault::Truncated),
        ("5\r\nhel", Fault::Truncated),
        ("5", Fault::Truncated),
        ("", Fault::Truncated),
        ("FFFFFFFFFFFFFFFF\r\nx", Fault::Truncated),
    ] {
        assert_eq!(fault(chunked(bytes)), wanted, "{bytes:?}");
    }
    assert_eq!(fault(chunked(format!("{}\r\n\r\n", "0".repeat(100)))), Fault::ChunkSize);
}

#[test]
fn a11_extensions_have_a_bound_over_the_whole_message() {
    let piece = format!("1;{}\r\nx\r\n", "e".repeat(1023));
    assert!(chunked(format!("{}0\r\n\r\n", piece.repeat(16))).is_ok());
    assert_eq!(fault(chunked(format!("{}0;\r\n\r\n", piece.repeat(16)))), Fault::ChunkExtensionsTooLong);
    assert_eq!(fault(chunked(format!("1;{}", "e".repeat(1 << 20)))), Fault::ChunkExtensionsTooLong);
}

#[test]
fn a12_trailers_that_decide_something_are_dropped() {
    let dropped = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: b",
        "Authorization: x",
        "X-Forwarded-For: 1",
        "Cookie: x",
        "Content-Type: x",
        "Connection: close",
        "TE: x",
        "Trailer: x",
        "Set-Cookie: x",
        "Cache-Control: x",
        "Expect: x",
        "Proxy-Authorization: x",
        "If-Match: x",
        "Upgrade: x",
        "Via: x",
        "X-Envoy-Peer: x",
    ];
    let text = format!("0\r\n{}\r\nGrpc-Status: 0\r\nX-Sum: 1\r\n\r\n", dropped.join("\r\n"));
    assert_eq!(chunked(text).unwrap().1, ["Grpc-Status", "X-Sum"]);
    // With nothing left there is no trailer section at all.
    assert!(chunked(format!("0\r\n{}\r\n\r\n", dropped.join("\r\n"))).unwrap().1.is_empty());
}

#[test]
fn a12_trailers_have_the_grammar_and_the_bounds_of_headers() {
    for (trailers, wanted) in [
        (":path: /\r\n".to_owned(), Fault::FieldName),
        ("X : 1\r\n".to_owned(), Fault::FieldNameSpace),
        ("X: 1\r\n 2\r\n".to_owned(), Fault::FieldFold),
        ("X: 1\n".to_owned(), Fault::BareLineFeed),
        ("X: a\0\r\n".to_owned(), Fault::FieldValue),
        ("X: 1\r\n".repeat(10_000), Fault::TooManyFields),
        ("Host: 1\r\n".repeat(101), Fault::TooManyFields),
        (format!("X: {}\r\n", "a".repeat(128 * 1024)), Fault::HeadTooLarge),
    ] {
        let result = chunked(format!("1\r\nx\r\n0\r\n{trailers}\r\n"));
        assert_eq!(fault(result), wanted);
    }
}

#[test]
fn a26_content_that_is_cut_is_an_error() {
    let limits = Limits::default();
    let mut decoder = BodyDecoder::for_response(Framing::Length(5), &limits);
    let mut buffer = BytesMut::from("hel");
    assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(_))));
    assert_eq!((decoder.remaining(), decoder.is_done()), (Some(2), false));
    assert_eq!(decoder.end_of_input(), Err(ParseError::Response(Fault::Truncated)));
}

#[test]
fn no_content_is_done_at_once() {
    for framing in [Framing::None, Framing::Length(0)] {
        let mut decoder = BodyDecoder::new(framing, &Limits::default());
        assert!(decoder.is_done());
        assert_eq!(decoder.remaining(), Some(0));
        assert!(matches!(decoder.decode(&mut BytesMut::from("GET /")), Ok(Decoded::End)));
        assert_eq!(decoder.end_of_input(), Ok(()));
    }
}
