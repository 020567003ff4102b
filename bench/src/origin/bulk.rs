//! TCP: each byte that comes asks for [`BULK_BYTES`].

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Counter;
use crate::workload::BULK_BYTES;

/// Answers one byte at a time until the peer closes.
pub(super) async fn serve(mut stream: TcpStream, counter: Counter) -> anyhow::Result<()> {
    let mut question = [0];
    while stream.read(&mut question).await? > 0 {
        counter.add(1);
        pour(&mut stream, BULK_BYTES).await?;
    }
    Ok(())
}

/// That many bytes, as fast as they are taken.
pub(super) async fn pour(stream: &mut (impl AsyncWrite + Unpin), bytes: usize) -> std::io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(FILLING.len());
        stream.write_all(&FILLING[..piece]).await?;
        left -= piece;
    }
    stream.flush().await
}

static FILLING: [u8; 256 * 1_024] = [b'x'; 256 * 1_024];
