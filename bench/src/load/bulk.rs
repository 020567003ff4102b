//! One TCP connection: a byte, the many bytes that answer it.

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Stream;
use super::pace::Pace;
use super::tally::Tally;

pub(super) async fn ask(
    mut stream: Box<dyn Stream>,
    bytes: usize,
    pace: &Pace,
    tally: &Tally,
) -> anyhow::Result<()> {
    while let Some(due) = pace.turn().await {
        stream.write_all(b"?").await?;
        drink(&mut stream, bytes).await?;
        tally.answered(due);
    }
    Ok(())
}

/// Reads exactly that many bytes and forgets them.
pub(super) async fn drink(stream: &mut dyn Stream, bytes: usize) -> anyhow::Result<()> {
    let mut scratch = vec![0; bytes.clamp(1, 256 * 1_024)];
    let mut left = bytes;
    while left > 0 {
        let room = left.min(scratch.len());
        let read = stream.read(&mut scratch[..room]).await?;
        ensure!(read > 0, "the proxy closed the connection {left} bytes before the end of an answer");
        left -= read;
    }
    Ok(())
}
