//! Properties over generated messages.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::message::Headers;

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}"
}

/// Field lines that mean nothing to the codec.
fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
    let byte = prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..=0xff];
    let value = vec(byte, 0..30).prop_map(|bytes| super::super::field::trim(&bytes).to_vec());
    (token().prop_map(|name| format!("X-{name}")), value)
}

fn target() -> impl Strategy<Value = String> {
    "(/[a-zA-Z0-9%._~!$&'()*+,;=:@-]{0,10}){1,4}([?][a-zA-Z0-9/?&=]{0,10})?"
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)]
}

fn pairs(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec())).collect()
}

fn write(start: &str, fields: &[(String, Vec<u8>)], framing: Framing) -> Vec<u8> {
    let mut bytes = start.as_bytes().to_vec();
    for (name, value) in fields {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    match framing {
        Framing::Length(length) => bytes.extend(format!("content-length: {length}\r\n").bytes()),
        Framing::Chunked => bytes.extend(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    bytes.extend(b"\r\n");
    bytes
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(
        method in "[A-Z]{3,10}", target in target(), fields in vec(field(), 0..10), framing in framing(),
    ) {
        prop_assume!(method != "CONNECT");
        let plain = !matches!(method.as_str(), "POST" | "PUT" | "PATCH");
        let start = format!("{method} {target} HTTP/1.1\r\nhost: a.test:1\r\n");
        let bytes = write(&start, &fields, framing);
        let event = request(&bytes).unwrap();
        prop_assert_eq!(event.head.method.as_str(), &method);
        prop_assert_eq!(event.head.path.as_str(), &target);
        prop_assert_eq!(event.framing, framing);
        prop_assert_eq!(pairs(&event.head.headers), fields);
        let mut out = BytesMut::new();
        encode_request(&event.head, &event.framing, &mut out);
        prop_assert!(!plain || out == bytes);
    }

    #[test]
    fn a_response_is_read_as_it_was_written(fields in vec(field(), 0..10), framing in framing()) {
        let bytes = write("HTTP/1.1 200 OK\r\n", &fields, framing);
        let event = response_to(&Method::GET, &bytes).unwrap();
        let wanted = if framing == Framing::None { Framing::UntilClose } else { framing };
        prop_assert_eq!(event.framing, wanted);
        prop_assert_eq!(pairs(&event.head.headers), fields);
        let mut out = BytesMut::new();
        let options = ResponseOptions::default();
        encode_response(&event.head, &framing, &options, &mut out);
        prop_assert_eq!(&out[..], &bytes[..]);
    }

    #[test]
    fn chunks_are_read_as_they_were_written(
        pieces in vec(vec(any::<u8>(), 1..40), 0..10), trailers in vec(field(), 0..4), cut in 1_usize..20,
    ) {
        let mut bytes = BytesMut::new();
        for piece in &pieces {
            encode_chunk_header(piece.len(), &mut bytes);
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(CHUNK_END);
        }
        bytes.extend_from_slice(b"0\r\n");
        bytes.extend_from_slice(&write("", &trailers, Framing::None));
        bytes.extend_from_slice(b"next");
        let mut decoder = BodyDecoder::new(Framing::Chunked, &Limits::default());
        let (mut buffer, mut data, mut seen) = (BytesMut::new(), Vec::new(), Vec::new());
        let mut input = bytes.chunks(cut);
        loop {
            match decoder.decode(&mut buffer).unwrap() {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::Trailers(headers) => seen = pairs(&headers),
                Decoded::NeedMore => buffer.extend_from_slice(input.next().unwrap()),
                Decoded::End => break,
            }
        }
        prop_assert_eq!(data, pieces.concat());
        prop_assert_eq!(seen, trailers);
        let rest: Vec<u8> = buffer.iter().copied().chain(input.flatten().copied()).collect();
        prop_assert_eq!(rest, b"next");
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        crate::fuzzing::http1_request(&bytes);
        crate::fuzzing::http1_response(&bytes);
        crate::fuzzing::chunked(&bytes);
        crate::fuzzing::path(&bytes);
    }
}
