//! One TCP connection: a message, the same message back.

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Stream;
use super::pace::Pace;
use super::tally::Tally;
use crate::workload::ECHO_BYTES;

pub(super) async fn ask(mut stream: Box<dyn Stream>, pace: &Pace, tally: &Tally) -> anyhow::Result<()> {
    let mut message = [0_u8; ECHO_BYTES];
    let mut echo = [0; ECHO_BYTES];
    while let Some(due) = pace.turn().await {
        message[0] = message[0].wrapping_add(1);
        stream.write_all(&message).await?;
        stream.read_exact(&mut echo).await?;
        ensure!(echo == message, "the echo is another one's");
        tally.answered(due);
    }
    Ok(())
}
