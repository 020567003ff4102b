use std::future::poll_fn;
use std::io::Write as _;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use super::Session;
use crate::io::Io;

/// Our end of a session; the other end says these words at once, each in a record of its own, and then waits for the end.
async fn hear(words: &'static [&'static str]) -> (Io, std::thread::JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pair = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
    let certificate = pair.cert.der().clone();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone());
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let server = Arc::new(server.with_single_cert(vec![certificate.clone()], key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut session = ServerConnection::new(server).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream).unwrap();
        }
        for word in words {
            session.writer().write_all(word.as_bytes()).unwrap();
        }
        while session.wants_write() {
            session.write_tls(&mut stream).unwrap();
        }
        while session.read_tls(&mut stream).is_ok_and(|count| count > 0) {
            let _ = session.process_new_packets();
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("app.test").unwrap();
    let session = UnbufferedClientConnection::new(client, name).unwrap();
    let io = Io::new(TcpStream::connect(address).await.unwrap(), address).unwrap();
    (io.secure(Session::Client(session), BytesMut::new()).await.unwrap(), other)
}

#[tokio::test(flavor = "local")]
async fn what_came_behind_an_answer_makes_a_connection_stale() {
    let (io, other) = hear(&["one", "two"]).await;
    // The answer fills the reader's room to the last byte: what is behind it has not been looked at.
    let mut answer = BytesMut::with_capacity(3);
    let room = answer.capacity();
    poll_fn(|context| io.poll_read(context, &mut answer)).await.unwrap();
    assert_eq!((&answer[..], room), (&b"one"[..], 3));
    assert!(io.is_known_stale() && io.is_stale());
    drop(io);
    other.join().unwrap();
}

#[tokio::test(flavor = "local")]
async fn tickets_are_no_words() {
    let (io, other) = hear(&[]).await;
    let spoken = poll_fn(|context| io.poll_spoken(context));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), spoken).await;
    assert!(waited.is_err(), "the other end has said nothing");
    assert!(!io.is_known_stale() && !io.is_stale());
    drop(io);
    other.join().unwrap();
    let (io, other) = hear(&["one"]).await;
    poll_fn(|context| io.poll_spoken(context)).await;
    let mut word = BytesMut::with_capacity(64);
    poll_fn(|context| io.poll_read(context, &mut word)).await.unwrap();
    assert_eq!(&word[..], b"one", "and it is still there to read");
    drop(io);
    other.join().unwrap();
}
