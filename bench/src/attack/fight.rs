//! One hostile connection: strikes in batches, and looks after each whether it is still wanted.
//!
//! After a batch it waits for the answer to a PING, so that it knows what the proxy has taken and does not count what lies in
//! the kernel's buffers; where a PING may not stand it waits a moment.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::frame::{self, ACK, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS};
use super::script::Script;

/// How one connection fared.
pub(super) struct Ending {
    pub(super) strikes: u64,
    /// How it was cut; none: it was open when the attack was over
    pub(super) cut: Option<String>,
    pub(super) answers: u64,
    pub(super) resets: u64,
}

/// What the proxy has said so far.
#[derive(Default)]
struct Watch {
    cut: RefCell<Option<String>>,
    barriers: Cell<u64>,
    answers: Cell<u64>,
    resets: Cell<u64>,
    /// Its settings, which are to be acknowledged
    settings: Cell<bool>,
    news: Notify,
}

/// Fights until the end of the script or of the time.
pub(super) async fn fight(target: SocketAddr, script: &Script, end: Instant) -> Ending {
    let watch = Rc::new(Watch::default());
    let mut strikes = 0;
    match TcpStream::connect(target).await {
        Err(error) => watch.cut(&format!("connect: {}", error.kind())),
        Ok(stream) => {
            let _ = stream.set_nodelay(true);
            let (reader, writer) = stream.into_split();
            let watching = spawn_local(listen(reader, watch.clone()));
            strike(writer, script, end, &watch, &mut strikes).await;
            watching.abort();
        }
    }
    let cut = watch.cut.borrow_mut().take();
    Ending { strikes, cut, answers: watch.answers.get(), resets: watch.resets.get() }
}

async fn strike(mut writer: OwnedWriteHalf, script: &Script, end: Instant, watch: &Watch, strikes: &mut u64) {
    let mut out = script.opening();
    let mut batches = 0;
    while *strikes < script.total && !watch.is_cut() && Instant::now() < end {
        let batch = script.batch.min(script.total - *strikes);
        (0..batch).for_each(|offset| script.strike(*strikes + offset, &mut out));
        *strikes += batch;
        batches += 1;
        if script.allows_ping() {
            frame::write(&mut out, PING, 0, 0, BARRIER);
            if watch.settings.take() {
                frame::write(&mut out, SETTINGS, ACK, 0, &[]);
            }
        }
        match timeout_at(end, writer.write_all(&out)).await {
            Ok(Ok(())) => out.clear(),
            Ok(Err(error)) => return watch.cut(&error.kind().to_string()),
            Err(_) => return,
        }
        if script.allows_ping() {
            let _ = timeout(PATIENCE, watch.until(|| watch.barriers.get() >= batches)).await;
        } else {
            sleep(MOMENT).await;
        }
    }
    if writer.write_all(&out).await.is_ok() {
        // Some notice late that they have been flooded; answers without a window are watched to the end.
        let last = if script.total == 0 { end } else { end.min(Instant::now() + LATE) };
        let _ = timeout_at(last, watch.until(|| false)).await;
    }
}

/// Reads what the proxy says until it closes.
async fn listen(mut reader: OwnedReadHalf, watch: Rc<Watch>) {
    let mut buffer = BytesMut::with_capacity(16 * 1_024);
    loop {
        buffer.reserve(16 * 1_024);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return watch.cut("closed"),
            Ok(_) => {}
            Err(error) => return watch.cut(&error.kind().to_string()),
        }
        while let Some(frame) = frame::read(&mut buffer) {
            watch.see(&frame);
        }
        watch.news.notify_one();
    }
}

impl Watch {
    fn see(&self, frame: &frame::Frame) {
        match frame.kind {
            HEADERS => self.answers.set(self.answers.get() + 1),
            RST_STREAM => self.resets.set(self.resets.get() + 1),
            SETTINGS if frame.flags & ACK == 0 => self.settings.set(true),
            PING if frame.flags & ACK != 0 && frame.payload[..] == BARRIER[..] => {
                self.barriers.set(self.barriers.get() + 1);
            }
            GOAWAY => {
                let code = frame.payload.get(4..8).map_or(0, |code| u32::from(code[3]));
                self.cut(&format!("GOAWAY {code}"));
            }
            _ => {}
        }
    }

    /// The first cause stands.
    fn cut(&self, how: &str) {
        self.cut.borrow_mut().get_or_insert_with(|| how.to_owned());
        self.news.notify_one();
    }

    fn is_cut(&self) -> bool {
        self.cut.borrow().is_some()
    }

    /// Until that holds, or the connection is cut.
    async fn until(&self, condition: impl Fn() -> bool) {
        while !condition() && !self.is_cut() {
            self.news.notified().await;
        }
    }
}

const BARRIER: &[u8; 8] = b"sg-bench";
/// How long the answer to a PING is awaited before the next batch.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between batches where there is no PING.
const MOMENT: Duration = Duration::from_millis(2);
/// How long a cut may come after the last strike.
const LATE: Duration = Duration::from_millis(500);
