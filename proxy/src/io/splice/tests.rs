use std::future::poll_fn;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A connection: our end and the other's.
async fn connection() -> (Io, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    (Io::new(stream, peer).unwrap(), other)
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in_until_the_end() {
    let ((from, mut source), (to, mut sink)) = (connection().await, connection().await);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let moving = async {
        let mut pipe = Pipe::between(&from, &to).unwrap();
        let mut total = 0;
        loop {
            let moved = poll_fn(|context| pipe.poll_fill(context, &from, u64::MAX)).await.unwrap();
            if moved == 0 {
                to.shutdown_write();
                return total;
            }
            total += moved;
            poll_fn(|context| pipe.poll_drain(context, &to)).await.unwrap();
            assert!(pipe.is_empty());
        }
    };
    let sending = async {
        source.write_all(&sent).await.unwrap();
        source.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (moved, (), read) = tokio::join!(moving, sending, sink.read_to_end(&mut received));
    assert_eq!((moved, read.unwrap()), (sent.len(), sent.len()));
    assert!(received == sent);
}

#[tokio::test]
async fn no_more_is_taken_than_is_asked_for() {
    let ((from, mut source), (to, mut sink)) = (connection().await, connection().await);
    source.write_all(b"bodynext").await.unwrap();
    let mut pipe = Pipe::between(&from, &to).unwrap();
    assert_eq!(poll_fn(|context| pipe.poll_fill(context, &from, 4)).await.unwrap(), 4);
    poll_fn(|context| pipe.poll_drain(context, &to)).await.unwrap();
    let mut body = [0; 4];
    sink.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"body");
    let mut rest = bytes::BytesMut::with_capacity(64);
    poll_fn(|context| from.poll_read(context, &mut rest)).await.unwrap();
    assert_eq!(&rest[..], b"next");
}

#[tokio::test]
async fn a_pipe_that_still_holds_something_is_not_used_again() {
    let ((from, mut source), (to, _sink)) = (connection().await, connection().await);
    source.write_all(b"secret").await.unwrap();
    let mut pipe = Pipe::between(&from, &to).unwrap();
    let before = SPARE.with_borrow(Vec::len);
    poll_fn(|context| pipe.poll_fill(context, &from, u64::MAX)).await.unwrap();
    drop(pipe);
    assert_eq!(SPARE.with_borrow(Vec::len), before);
    drop(Pipe::between(&from, &to).unwrap());
    assert_eq!(SPARE.with_borrow(Vec::len), before + 1, "an empty one is");
}

#[tokio::test]
async fn there_are_no_more_pipes_than_the_bound() {
    let ((from, _source), (to, _sink)) = (connection().await, connection().await);
    let pipes: Vec<_> = (0..MOST_TAKEN).map(|_| Pipe::between(&from, &to).unwrap()).collect();
    assert!(Pipe::between(&from, &to).is_none());
    drop(pipes);
    assert!(Pipe::between(&from, &to).is_some());
    assert!(SPARE.with_borrow(Vec::len) <= MOST_SPARE);
}
