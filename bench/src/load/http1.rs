//! One HTTP/1.1 connection: a request, its whole answer, the next request.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pace::Pace;
use super::tally::Tally;
use crate::origin::head_end;
use crate::workload::ANSWER_BYTES;

pub(super) async fn ask(mut stream: TcpStream, pace: &Pace, tally: &Tally) -> anyhow::Result<()> {
    let mut buffer = BytesMut::with_capacity(8_192);
    while let Some(due) = pace.turn().await {
        stream.write_all(REQUEST).await?;
        answer(&mut stream, &mut buffer).await?;
        tally.answered(due);
    }
    Ok(())
}

/// Reads one answer and holds it to what the origin sends.
async fn answer(stream: &mut TcpStream, buffer: &mut BytesMut) -> anyhow::Result<()> {
    let head = loop {
        if let Some(end) = head_end(buffer) {
            break end;
        }
        more(stream, buffer).await?;
    };
    let length = content_length(&buffer[..head])?;
    ensure!(length == ANSWER_BYTES, "an answer of {length} bytes instead of {ANSWER_BYTES}");
    while buffer.len() < head + length {
        more(stream, buffer).await?;
    }
    buffer.advance(head + length);
    Ok(())
}

async fn more(stream: &mut TcpStream, buffer: &mut BytesMut) -> anyhow::Result<()> {
    buffer.reserve(4_096);
    if stream.read_buf(buffer).await? == 0 {
        bail!("the proxy closed the connection");
    }
    Ok(())
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(head).context("the answer's head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "answered `{status}`");
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    length.context("an answer without Content-Length")?.parse().context("Content-Length")
}

const REQUEST: &[u8] =
    b"GET /bench HTTP/1.1\r\nhost: bench.example\r\nuser-agent: sidegate-bench\r\naccept: */*\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_length_in_any_case() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\nContent-LENGTH: 12\r\n\r\n").unwrap(), 12);
        assert!(content_length(b"HTTP/1.1 503 Busy\r\ncontent-length: 12\r\n\r\n").is_err());
        assert!(content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
