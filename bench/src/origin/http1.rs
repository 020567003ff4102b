//! HTTP/1.1: `GET /n` is answered with n bytes; a POST is read to its end and never answered.

use anyhow::Context;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, sleep};

use super::bulk::pour;
use super::{Counter, read};
use crate::workload::{ANSWER_BYTES, SLOW_BYTES, SLOW_PATH};

/// Answers until the peer closes. Small answers to requests that came together are sent together.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    counter: Counter,
) -> anyhow::Result<()> {
    let mut small = head(ANSWER_BYTES);
    small.resize(small.len() + ANSWER_BYTES, b'x');
    let mut buffer = BytesMut::new();
    while read(&mut stream, &mut buffer).await? {
        let mut together = 0;
        while let Some(end) = head_end(&buffer) {
            // Counted first: whoever has the answer may ask for the count.
            counter.add(1);
            match asked(&buffer[..end])? {
                Asked::Bytes(ANSWER_BYTES) => together += 1,
                Asked::Bytes(bytes) => {
                    stream.write_all(&head(bytes)).await?;
                    pour(&mut stream, bytes).await?;
                }
                Asked::Swallow { slowly } => return swallow(stream, slowly).await,
            }
            buffer.advance(end);
        }
        match together {
            0 => continue,
            1 => stream.write_all(&small).await?,
            _ => stream.write_all(&small.repeat(together)).await?,
        }
        stream.flush().await?;
    }
    Ok(())
}

/// Where the head ends that `buffer` starts with.
pub(crate) fn head_end(buffer: &[u8]) -> Option<usize> {
    memchr::memmem::find(buffer, END).map(|at| at + END.len())
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Bytes(usize),
    Swallow { slowly: bool },
}

fn asked(head: &[u8]) -> anyhow::Result<Asked> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).context("the request line is not text")?.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method == "POST" {
        return Ok(Asked::Swallow { slowly: path == SLOW_PATH });
    }
    Ok(Asked::Bytes(path.trim_start_matches('/').parse().unwrap_or(ANSWER_BYTES)))
}

async fn swallow(mut stream: impl AsyncRead + Unpin, slowly: bool) -> anyhow::Result<()> {
    // A tenth of what a second brings, ten times a second.
    let mut scratch = vec![0; if slowly { SLOW_BYTES / 10 } else { 64 * 1_024 }];
    while stream.read(&mut scratch).await? > 0 {
        if slowly {
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn head(bytes: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n\r\n").into_bytes()
}

const END: &[u8] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for() {
        let ask = |head: &str| asked(head.as_bytes()).unwrap();
        assert_eq!(ask("GET /77 HTTP/1.1\r\n\r\n"), Asked::Bytes(77));
        assert_eq!(ask("GET / HTTP/1.1\r\n\r\n"), Asked::Bytes(ANSWER_BYTES));
        assert_eq!(ask("POST /slow HTTP/1.1\r\n\r\n"), Asked::Swallow { slowly: true });
        assert_eq!(ask("POST /x HTTP/1.1\r\n\r\n"), Asked::Swallow { slowly: false });
    }
}
