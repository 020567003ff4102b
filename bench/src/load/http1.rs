//! One HTTP/1.1 connection: a request, its whole answer, the next request.

use anyhow::{Context, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bulk::drink;
use super::dial::{Dialer, Stream};
use super::pace::Pace;
use super::tally::Tally;
use crate::origin::head_end;

pub(super) async fn ask(
    mut stream: Box<dyn Stream>,
    bytes: usize,
    pace: &Pace,
    tally: &Tally,
) -> anyhow::Result<()> {
    let request = request(bytes);
    let mut buffer = BytesMut::with_capacity(8_192);
    while let Some(due) = pace.turn().await {
        stream.write_all(&request).await?;
        stream.flush().await?;
        answer(&mut stream, bytes, &mut buffer).await?;
        tally.answered(due);
    }
    Ok(())
}

/// Each request on a connection of its own, which the client closes when it has the answer. One that fails does not keep the others
/// from being asked.
pub(super) async fn ask_on_new_connections(
    dialer: &Dialer,
    bytes: usize,
    pace: &Pace,
    tally: &Tally,
) -> anyhow::Result<()> {
    let request = request(bytes);
    let mut buffer = BytesMut::with_capacity(8_192);
    while let Some(due) = pace.turn().await {
        buffer.clear();
        match ask_once(dialer, &request, bytes, &mut buffer).await {
            Ok(()) => tally.answered(due),
            Err(error) => tally.failed(&error),
        }
    }
    Ok(())
}

async fn ask_once(
    dialer: &Dialer,
    request: &[u8],
    bytes: usize,
    buffer: &mut BytesMut,
) -> anyhow::Result<()> {
    let mut stream = dialer.dial().await?;
    stream.write_all(request).await?;
    stream.flush().await?;
    answer(&mut stream, bytes, buffer).await?;
    // Says goodbye where there is TLS. The proxy may be quicker.
    let _ = stream.shutdown().await;
    Ok(())
}

/// Reads one answer and holds it to what the origin sends.
pub(crate) async fn answer(
    stream: &mut dyn Stream,
    bytes: usize,
    buffer: &mut BytesMut,
) -> anyhow::Result<()> {
    let head = loop {
        if let Some(end) = head_end(buffer) {
            break end;
        }
        buffer.reserve(4_096);
        ensure!(stream.read_buf(buffer).await? > 0, "the proxy closed the connection");
    };
    let length = content_length(&buffer[..head])?;
    ensure!(length == bytes, "an answer of {length} bytes instead of {bytes}");
    let here = length.min(buffer.len() - head);
    buffer.advance(head + here);
    if length > here {
        drink(stream, length - here).await?;
    }
    Ok(())
}

/// A GET that the origin answers with that many bytes.
pub(crate) fn request(bytes: usize) -> Vec<u8> {
    let head = "host: bench.example\r\nuser-agent: sidegate-bench\r\naccept: */*\r\n\r\n";
    format!("GET /{bytes} HTTP/1.1\r\n{head}").into_bytes()
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
