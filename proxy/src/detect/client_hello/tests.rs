use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A ClientHello as rustls writes it: its record.
fn real(server_name: &str, protocols: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake bytes in records of at most `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in hello[RECORD_HEADER..].chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
        bytes.extend(piece);
    }
    bytes
}

fn expected(server_name: &str, protocols: &[&str]) -> Hello {
    let protocols = protocols.iter().map(|protocol| (*protocol).into()).collect();
    Hello::Complete(ClientHello { server_name: server_name.into(), protocols })
}

/// Fed as a connection would be: looked at again whenever so many bytes are there as were asked for.
fn fed(bytes: &[u8], cuts: &[usize]) -> Hello {
    let mut needed = 1;
    let mut last = Hello::Incomplete(1);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        if end < needed {
            continue;
        }
        last = client_hello(&bytes[..end]);
        match last {
            Hello::Incomplete(more) => {
                assert!(more > end, "{more} bytes asked for, {end} are there");
                needed = more;
            }
            _ => return last,
        }
    }
    last
}

#[test]
fn a_real_one() {
    let bytes = real("Www.Example.com", &["h2", "http/1.1"]);
    assert_eq!(client_hello(&bytes), expected("www.example.com", &["h2", "http/1.1"]));
    assert_eq!(client_hello(&real("10.1.2.3", &[])), expected("", &[]), "an address is no server name");
    let mut more = bytes.clone();
    more.extend(b"\x14\x03\x03\x00\x01\x01 and early data");
    assert_eq!(client_hello(&more), expected("www.example.com", &["h2", "http/1.1"]));
}

#[test]
fn e4_every_cut_of_a_client_hello_tells_the_same() {
    let hello = real("a.b.example.com", &["h2"]);
    let whole = expected("a.b.example.com", &["h2"]);
    for size in [hello.len(), 100, 32] {
        let bytes = in_records(&hello, size);
        for cut in 0..bytes.len() {
            assert!(matches!(client_hello(&bytes[..cut]), Hello::Incomplete(_)), "{cut} bytes");
            assert_eq!(fed(&bytes, &[cut]), whole, "cut at {cut}, records of {size}");
        }
        let every: Vec<usize> = (1..bytes.len()).collect();
        assert_eq!(fed(&bytes, &every), whole, "byte by byte, records of {size}");
    }
}

#[test]
fn what_is_no_client_hello() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16", b"\x16\x03", b"", b"\x16\x03\x01\x00\x05\x01\x00"] {
        let expected = if bytes.starts_with(b"G") { Hello::Other } else { client_hello(bytes) };
        assert_eq!(client_hello(bytes), expected);
        assert!(bytes.starts_with(b"G") || matches!(expected, Hello::Incomplete(_)), "{bytes:?}");
    }
    for bytes in [
        &b"\x16\x02\x01\x00\x05"[..],
        b"\x15\x03\x01\x00\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"SSH-2.0-x\r\n",
        b"\0",
    ] {
        assert_eq!(client_hello(bytes), Hello::Other, "{bytes:?}");
    }
}

#[test]
fn what_may_not_pass() {
    let hello = real("a.example", &[]);
    let malformed = |bytes: &[u8]| assert!(matches!(client_hello(bytes), Hello::Malformed(_)), "{bytes:?}");
    // Said to be longer than anything may be.
    malformed(b"\x16\x03\x01\x40\x00\x01\x00\x50\x00");
    // In single bytes.
    malformed(&in_records(&hello, 1));
    // Another record within.
    let mut cut = in_records(&hello[..RECORD_HEADER + 20], 20);
    cut.extend(b"\x15\x03\x01\x00\x02\x01\x00");
    malformed(&cut);
    // Its own lengths do not agree.
    let mut shorter = hello.clone();
    let size = hello.len() - RECORD_HEADER - HANDSHAKE_HEADER - 1;
    shorter[6..9].copy_from_slice(&u32::try_from(size).unwrap().to_be_bytes()[1..]);
    malformed(&shorter);
    // Two server names.
    malformed(&written(&[(0, b"\0\x04\0\0\x01a"), (0, b"\0\x04\0\0\x01b")]));
    malformed(&written(&[(0, b"\0\x08\0\0\x01a\0\0\x01b")]));
    malformed(&written(&[(0, b"\0\x05\0\0\x02a\0")]));
    assert_eq!(client_hello(&written(&[(0, b"\0\x04\0\0\x01a")])), expected("a", &[]));
    assert_eq!(client_hello(&written(&[])), expected("", &[]));
}

/// A ClientHello with these extensions.
fn written(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend(*content);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(b"\0\0\x02\x13\x01\x01\0");
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    let mut bytes = vec![22, 3, 1];
    bytes.extend(u16::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.push(1);
    bytes.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend(body);
    bytes
}

proptest! {
    #[test]
    fn any_cuts_tell_the_same(size in 30_usize..400, mut cuts in prop::collection::vec(0_usize..600, 0..8)) {
        let bytes = in_records(&real("x.example", &["http/1.1"]), size);
        cuts.retain(|cut| *cut < bytes.len());
        cuts.sort_unstable();
        prop_assert_eq!(fed(&bytes, &cuts), expected("x.example", &["http/1.1"]));
    }

    #[test]
    fn nothing_makes_it_panic(start in prop::sample::select(vec![vec![], vec![22, 3, 1], vec![22, 3, 1, 0, 50, 1, 0, 0, 40]]), rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [start, rest].concat();
        client_hello(&bytes);
    }
}
