use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use super::Session;
use crate::io::Io;

/// Both ends' configurations.
fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pair = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
    let certificate = pair.cert.der().clone();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone());
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let server = Arc::new(server.with_single_cert(vec![certificate.clone()], key).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (server, Arc::new(client.with_root_certificates(roots).with_no_client_auth()))
}

/// Our end of a session; the other end says these words at once, each in a record of its own, and then waits for the end.
async fn hear(words: &'static [&'static str]) -> (Io, std::thread::JoinHandle<()>) {
    let (server, client) = configurations();
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

/// Our end as the server, and the other end after its handshake.
async fn serve() -> (Io, ClientConnection, std::net::TcpStream) {
    let (server, client) = configurations();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let mut session = ClientConnection::new(client, ServerName::try_from("app.test").unwrap()).unwrap();
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut stream).unwrap();
        }
        (session, stream)
    });
    let (stream, address) = listener.accept().await.unwrap();
    let session = Session::Server(UnbufferedServerConnection::new(server).unwrap());
    let io = Io::new(stream, address).unwrap().secure(session, BytesMut::new()).await.unwrap();
    let (session, stream) = other.join().unwrap();
    (io, session, stream)
}

#[tokio::test(flavor = "local")]
async fn tickets_leave_with_the_first_answer() {
    let (io, mut session, mut stream) = serve().await;
    let mut asked = BytesMut::with_capacity(64);
    let reading = poll_fn(|context| io.poll_read(context, &mut asked));
    assert!(tokio::time::timeout(Duration::from_millis(50), reading).await.is_err());
    stream.set_nonblocking(true).unwrap();
    let nothing = session.read_tls(&mut stream).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "nothing is sent for tickets alone");
    let written = poll_fn(|context| io.poll_write(context, b"answer")).await.unwrap();
    assert_eq!(written, 6);
    session.read_tls(&mut stream).unwrap();
    session.process_new_packets().unwrap();
    assert_eq!(session.tls13_tickets_received(), 2, "in the same segment");
    let mut answer = [0; 6];
    session.reader().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test(flavor = "local")]
async fn a_session_without_an_answer_ends_in_order() {
    for looked in [false, true] {
        let (io, mut session, mut stream) = serve().await;
        if looked {
            let mut asked = BytesMut::with_capacity(64);
            let reading = poll_fn(|context| io.poll_read(context, &mut asked));
            assert!(tokio::time::timeout(Duration::from_millis(50), reading).await.is_err());
        }
        drop(io);
        while session.read_tls(&mut stream).unwrap() > 0 {
            session.process_new_packets().unwrap();
        }
        assert_eq!(session.reader().read(&mut [0; 1]).unwrap(), 0, "its end was announced");
        assert_eq!(session.tls13_tickets_received(), 2);
    }
}
