//! HTTP/1.1 without bodies in requests: every head is answered with the same bytes.

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Counter, read};
use crate::workload::ANSWER_BYTES;

/// Answers until the peer closes. Requests that came together are answered together.
pub(super) async fn serve(mut stream: TcpStream, counter: Counter) -> anyhow::Result<()> {
    let answer = answer();
    let mut buffer = BytesMut::new();
    while read(&mut stream, &mut buffer).await? {
        let mut answers = 0;
        while let Some(end) = head_end(&buffer) {
            buffer.advance(end);
            answers += 1;
        }
        // Counted first: whoever has the answer may ask for the count.
        counter.add(answers);
        if answers == 1 {
            stream.write_all(&answer).await?;
        } else {
            stream.write_all(&answer.repeat(answers)).await?;
        }
    }
    Ok(())
}

/// Where the head ends that `buffer` starts with.
pub(crate) fn head_end(buffer: &[u8]) -> Option<usize> {
    memchr::memmem::find(buffer, END).map(|at| at + END.len())
}

fn answer() -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {ANSWER_BYTES}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + ANSWER_BYTES, b'x');
    answer
}

const END: &[u8] = b"\r\n\r\n";
