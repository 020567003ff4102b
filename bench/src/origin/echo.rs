//! TCP: every whole message goes back.

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Counter, read};
use crate::workload::ECHO_BYTES;

/// Echoes until the peer closes.
pub(super) async fn serve(mut stream: TcpStream, counter: Counter) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    while read(&mut stream, &mut buffer).await? {
        let messages = buffer.len() / ECHO_BYTES;
        counter.add(messages);
        stream.write_all(&buffer[..messages * ECHO_BYTES]).await?;
        buffer.advance(messages * ECHO_BYTES);
    }
    Ok(())
}
