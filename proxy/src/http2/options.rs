//! What a configuration may say of HTTP/2 connections (`envoy.config.core.v3.Http2ProtocolOptions`), for either side.

use std::rc::Rc;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::guard::{Budgets, Guard};

/// The options of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Options {
    /// `max_concurrent_streams`: what the client may open, or we open on one connection.
    pub(crate) max_concurrent_streams: Option<u32>,
    /// `initial_stream_window_size`: bytes of content that may wait in one stream.
    pub(crate) stream_window: u32,
    /// `initial_connection_window_size`: bytes that may wait in all of them; by default as much as they may hold together.
    pub(crate) connection_window: Option<u32>,
    /// `hpack_table_size`: of the table that we keep for the other end.
    pub(crate) table_bytes: Option<u32>,
    /// What the other end may make us do.
    pub(crate) budgets: Budgets,
    /// `connection_keepalive`.
    pub(crate) keepalive: Option<Keepalive>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: None,
            stream_window: STREAM_WINDOW,
            connection_window: None,
            table_bytes: None,
            budgets: Budgets::default(),
            keepalive: None,
        }
    }
}

impl Options {
    /// The connection's window when so many streams may share it.
    pub(crate) fn connection_window(&self, streams: u32) -> u32 {
        let together = self.stream_window.saturating_mul(streams.max(1));
        self.connection_window
            .unwrap_or(together.clamp(self.stream_window, MOST_WINDOW.max(self.stream_window)))
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Keepalive {
    /// `interval` between pings; `None` sends none but those of `idle`.
    pub(crate) interval: Option<Duration>,
    /// `timeout`: how long an answer may take.
    pub(crate) timeout: Duration,
    /// `interval_jitter`: up to this share of the interval is added.
    pub(crate) jitter: f64,
    /// `connection_idle_interval`: a stream on a connection that was idle for longer is accompanied by a ping.
    pub(crate) idle: Option<Duration>,
}

/// Pings as configured, and whenever `probe` asks for one; returns when one is not answered. `roll` is uniform over 0..1.
pub(crate) async fn keep_alive(
    mut pings: PingPong,
    keepalive: Keepalive,
    probe: &Notify,
    roll: impl Fn() -> f64,
) {
    loop {
        match keepalive.interval {
            Some(interval) => {
                let wait = interval + interval.mul_f64(keepalive.jitter * roll());
                let _ = tokio::time::timeout(wait, probe.notified()).await;
            }
            None => probe.notified().await,
        }
        if !is_answered(&mut pings, keepalive.timeout).await {
            return;
        }
    }
}

/// Pings an endpoint that owes answers and has been silent for a while; returns when it does not answer that either. One ping in each silence,
/// and then one in five minutes: gRPC servers take more for abuse (gRFC A8).
pub(crate) async fn watch_silence(mut pings: PingPong, guard: Rc<Guard>) {
    let (mut reads, mut pinged) = (guard.reads(), None::<Instant>);
    loop {
        tokio::time::sleep(SILENCE).await;
        let heard = std::mem::replace(&mut reads, guard.reads()) != reads;
        if guard.active() == 0 || heard {
            pinged = None;
            continue;
        }
        if pinged.is_some_and(|at| at.elapsed() < PING_AGAIN) {
            continue;
        }
        if !is_answered(&mut pings, SILENCE).await && guard.reads() == reads {
            return;
        }
        pinged = Some(Instant::now());
        reads = guard.reads();
    }
}

async fn is_answered(pings: &mut PingPong, patience: Duration) -> bool {
    matches!(tokio::time::timeout(patience, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
}

/// The window that HTTP/2 begins with: a hundred streams that nobody reads hold 6 MiB, and one stream fills a fast network.
const STREAM_WINDOW: u32 = 64 * 1024;
/// A connection's window grows no further by itself.
const MOST_WINDOW: u32 = 16 * 1024 * 1024;
/// An endpoint that owes an answer and says nothing for so long is asked whether it is there, and has as long to say so.
const SILENCE: Duration = Duration::from_secs(5);
/// What gRPC servers allow without complaint.
const PING_AGAIN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_window_holds_what_its_streams_may() {
        let options = Options::default();
        assert_eq!(options.connection_window(100), 100 * STREAM_WINDOW);
        assert_eq!(options.connection_window(100_000), MOST_WINDOW);
        let wide = Options { stream_window: 1 << 30, ..options };
        assert_eq!(wide.connection_window(100), 1 << 30);
        assert_eq!(Options { connection_window: Some(70_000), ..options }.connection_window(100), 70_000);
    }
}
