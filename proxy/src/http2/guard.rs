//! What a peer may make us do over one HTTP/2 connection (docs/adr/0008): counts frames as they pass by, both ways. No IO.
//!
//! Each budget is a bucket: frames that do no work for anybody take from it; work that was done, and time, fill it again (R6).

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHead, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, Walker,
};

/// Bounds that a configuration may set (`Http2ProtocolOptions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budgets {
    /// Compressed bytes of one header block; the bound on header bytes.
    pub(crate) header_bytes: usize,
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub(crate) empty_frames: Option<u32>,
    /// `max_inbound_priority_frames_per_stream`.
    pub(crate) priority_per_stream: Option<u32>,
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub(crate) updates_per_data: u32,
    /// `max_outbound_frames`: written and not yet taken by the socket.
    pub(crate) outbound_frames: u32,
    /// `max_outbound_control_frames`.
    pub(crate) outbound_control_frames: u32,
    /// `override_stream_error_on_invalid_http_message: false`: a malformed message ends the connection.
    pub(crate) cut_on_malformed: bool,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            empty_frames: None,
            priority_per_stream: None,
            updates_per_data: 10,
            outbound_frames: 10_000,
            outbound_control_frames: 1_000,
            cut_on_malformed: false,
        }
    }
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// CVE-2023-44487, CVE-2025-8671: work is asked for in order to be thrown away, by the peer's resets or by ours.
    #[error("too many streams were reset before they were answered")]
    Resets,
    /// CVE-2019-9512 and its kin.
    #[error("too many frames that carry nothing (PING, SETTINGS, PRIORITY, tiny DATA, unknown)")]
    Control,
    /// CVE-2019-9511 and its kin.
    #[error("too many WINDOW_UPDATE frames for the data that was sent")]
    WindowUpdates,
    /// CVE-2024-27316 and its kin.
    #[error("a header block of too many frames or bytes")]
    HeaderBlock,
    /// A header block that does not end holds up the whole connection.
    #[error("a header block did not end in time")]
    SlowHeaderBlock,
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    #[error("too many empty frames in a row")]
    EmptyFrames,
    /// `max_outbound_frames`, `max_outbound_control_frames`.
    #[error("too many frames wait for a peer that does not read")]
    Outbound,
    /// `connection_keepalive`.
    #[error("a ping was not answered in time")]
    Silent,
    /// `override_stream_error_on_invalid_http_message: false`.
    #[error("a malformed message, and the configuration says that one ends the connection")]
    Malformed,
}

/// The counts of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    budgets: Budgets,
    counts: RefCell<Counts>,
    /// Streams being served.
    active: Cell<usize>,
    /// Times that bytes came.
    reads: Cell<u32>,
    cut: Cell<Option<Cut>>,
    /// There is a [`Cut`].
    tripped: Notify,
    /// The peer's SETTINGS are in force.
    settled: Notify,
}

#[derive(Debug)]
struct Counts {
    inbound: Walker,
    outbound: Walker,
    resets: Bucket,
    control: Bucket,
    updates: Bucket,
    /// The header block that has begun and not ended.
    block: Option<Block>,
    /// The peer is the client.
    server: bool,
    /// SETTINGS and PING that we have sent and the peer has not acknowledged.
    asked: u32,
    /// The frame that came last is part of a header block.
    in_block_frame: bool,
    empty_run: u32,
    opened: u64,
    priorities: u64,
    /// The peer has reset a stream.
    was_reset: bool,
    /// The most streams being served since the bucket of resets was last full.
    peak: usize,
    unflushed: u32,
    unflushed_control: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    bytes: usize,
    continuations: u32,
}

impl Guard {
    /// For the server's side of a connection (the client's preface comes first), or the client's.
    pub(crate) fn new(budgets: Budgets, server: bool) -> Self {
        let preface = |side: bool| Walker::after(if side { PREFACE } else { 0 });
        let counts = Counts {
            inbound: preface(server),
            outbound: preface(!server),
            resets: Bucket::default(),
            control: Bucket::default(),
            updates: Bucket::default(),
            block: None,
            server,
            asked: 0,
            in_block_frame: false,
            empty_run: 0,
            opened: 0,
            priorities: 0,
            was_reset: false,
            peak: 0,
            unflushed: 0,
            unflushed_control: 0,
        };
        Self {
            budgets,
            counts: RefCell::new(counts),
            active: Cell::new(0),
            reads: Cell::new(0),
            cut: Cell::new(None),
            tripped: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Counts what came; gives the number of bytes that may be passed on, fewer than all when they are one frame too many.
    pub(crate) fn received(&self, bytes: &[u8]) -> usize {
        self.reads.set(self.reads.get().wrapping_add(1));
        let mut counts = self.counts.borrow_mut();
        let mut walker = std::mem::take(&mut counts.inbound);
        let passed =
            walker.walk(bytes, |head| self.note(counts.receive(head, &self.budgets, self.active.get())));
        counts.inbound = walker;
        passed
    }

    /// Counts what is sent.
    pub(crate) fn sent(&self, bytes: &[u8]) {
        let mut counts = self.counts.borrow_mut();
        let mut walker = std::mem::take(&mut counts.outbound);
        let active = self.active.get();
        // What is on its way out must stay whole: the cut comes at the next read.
        walker.walk(bytes, |head| {
            let _ = self.note(counts.send(head, &self.budgets, active));
            if head.kind == SETTINGS && head.flags & ACK != 0 {
                // The h2 crate tells nobody that SETTINGS have come, but acknowledges them once it goes by them.
                self.settled.notify_waiters();
            }
            ControlFlow::Continue(())
        });
        counts.outbound = walker;
    }

    /// Everything sent before the last `bytes` has left.
    pub(crate) fn flushed(&self) {
        let mut counts = self.counts.borrow_mut();
        (counts.unflushed, counts.unflushed_control) = (0, 0);
    }

    fn note(&self, outcome: Result<(), Cut>) -> ControlFlow<()> {
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(cut) => {
                self.trip(cut);
                ControlFlow::Break(())
            }
        }
    }

    /// The connection is to be cut; the first reason stays.
    pub(crate) fn trip(&self, cut: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(cut));
            self.tripped.notify_one();
        }
    }

    /// Why the connection is to be cut, if it is.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Until the connection is to be cut.
    pub(crate) async fn tripped(&self) -> Cut {
        loop {
            if let Some(cut) = self.cut.get() {
                return cut;
            }
            self.tripped.notified().await;
        }
    }

    /// Until SETTINGS of the peer are in force, the next time.
    pub(crate) fn settled(&self) -> impl Future<Output = ()> {
        self.settled.notified()
    }

    /// Whether the peer has ever reset a stream.
    pub(crate) fn has_seen_reset(&self) -> bool {
        self.counts.borrow().was_reset
    }

    /// So many streams are being served.
    pub(crate) fn set_active(&self, streams: usize) {
        self.active.set(streams);
    }

    /// Streams being served.
    pub(crate) fn active(&self) -> usize {
        self.active.get()
    }

    /// A response has begun, or the peer has waited for one: if it resets the stream now, that is not to waste our work.
    pub(crate) fn answered(&self) {
        self.counts.borrow_mut().resets.earn(1, MOST_SAVED_RESETS);
    }

    /// Changes whenever bytes come.
    pub(crate) fn reads(&self) -> u32 {
        self.reads.get()
    }

    /// Whether a header block has begun and not ended: nothing else can come on this connection until it does.
    pub(crate) fn is_within_header_block(&self) -> bool {
        let counts = self.counts.borrow();
        counts.block.is_some() || counts.in_block_frame && counts.inbound.is_within_frame()
    }
}

impl Counts {
    fn receive(&mut self, head: FrameHead, budgets: &Budgets, active: usize) -> Result<(), Cut> {
        let empty = head.length == 0 && head.flags & END_STREAM == 0;
        if matches!(head.kind, DATA | HEADERS | CONTINUATION) {
            self.empty_run = if empty { self.empty_run + 1 } else { 0 };
            if budgets.empty_frames.is_some_and(|most| self.empty_run > most) {
                return Err(Cut::EmptyFrames);
            }
        }
        self.in_block_frame = matches!(head.kind, HEADERS | CONTINUATION);
        match head.kind {
            DATA => self.receive_data(head),
            HEADERS | CONTINUATION => self.receive_block(head, budgets),
            RST_STREAM => {
                self.was_reset = true;
                self.reset(active)
            }
            WINDOW_UPDATE => {
                self.updates.spend(1, MOST_CONTROL, CONTROL_PER_SECOND).map_err(|Spent| Cut::WindowUpdates)
            }
            PRIORITY => {
                self.priorities += 1;
                match budgets.priority_per_stream {
                    Some(most) if self.priorities > u64::from(most).saturating_mul(self.opened + 1) => {
                        Err(Cut::Control)
                    }
                    Some(_) => Ok(()),
                    None => self.control(),
                }
            }
            SETTINGS | PING if head.flags & ACK != 0 && self.asked > 0 => {
                self.asked -= 1;
                Ok(())
            }
            _ => self.control(),
        }
    }

    /// DATA that carries less than any message has: a gRPC message begins with 5 bytes, a WebSocket frame from a client with 6. What a
    /// server says may be shorter: a WebSocket frame of 3 bytes, a word, on each of the streams that share a connection.
    fn receive_data(&mut self, head: FrameHead) -> Result<(), Cut> {
        let carried = head.length.saturating_sub(head.padding);
        let least = if self.server { LEAST_CARRIED } else { 1 };
        if head.flags & END_STREAM == 0 && carried < least {
            return self.control();
        }
        self.control.earn(1, 0);
        Ok(())
    }

    fn receive_block(&mut self, head: FrameHead, budgets: &Budgets) -> Result<(), Cut> {
        let mut block = self.block.take().unwrap_or_default();
        if head.kind == HEADERS {
            self.opened += 1;
            self.control.earn(CONTROL_PER_STREAM, 0);
            self.updates.earn(CONTROL_PER_STREAM, MOST_SAVED_UPDATES);
            block = Block::default();
        } else {
            block.continuations += 1;
        }
        block.bytes += head.length;
        let frames = MOST_CONTINUATIONS.max((budgets.header_bytes / LEAST_FULL_FRAME) as u32);
        if block.bytes > budgets.header_bytes || block.continuations > frames {
            return Err(Cut::HeaderBlock);
        }
        if head.flags & END_HEADERS == 0 {
            self.block = Some(block);
        }
        Ok(())
    }

    fn send(&mut self, head: FrameHead, budgets: &Budgets, active: usize) -> Result<(), Cut> {
        self.unflushed += 1;
        if !matches!(head.kind, DATA | HEADERS | CONTINUATION) {
            self.unflushed_control += 1;
        }
        match head.kind {
            SETTINGS | PING if head.flags & ACK == 0 => self.asked = self.asked.saturating_add(1),
            DATA => {
                // A large frame is read in as many steps as the small ones that it stands for.
                let frames = 1 + i64::try_from(head.length / COMMON_FRAME).unwrap_or(0);
                self.updates.earn(frames * i64::from(budgets.updates_per_data), MOST_SAVED_UPDATES);
                self.control.earn(1, 0);
            }
            RST_STREAM => match head.code {
                MALFORMED if budgets.cut_on_malformed => return Err(Cut::Malformed),
                MALFORMED | FLOW_CONTROL | FRAME_SIZE => self.reset(active)?,
                // Frames for a stream that was answered and forgotten, and streams past the limit: no work was begun.
                STREAM_CLOSED | REFUSED => self.control()?,
                _ => {}
            },
            _ => {}
        }
        if self.unflushed > budgets.outbound_frames
            || self.unflushed_control > budgets.outbound_control_frames
        {
            return Err(Cut::Outbound);
        }
        Ok(())
    }

    fn control(&mut self) -> Result<(), Cut> {
        self.control.spend(1, MOST_CONTROL, CONTROL_PER_SECOND).map_err(|Spent| Cut::Control)
    }

    /// A stream was reset. Where many are served at once, as many may be given up at once.
    fn reset(&mut self, active: usize) -> Result<(), Cut> {
        if self.resets.is_full() {
            self.peak = 0;
        }
        self.peak = self.peak.max(active);
        let most = MOST_RESETS.max(self.peak as i64 + 1);
        self.resets.spend(1, most, RESETS_PER_SECOND).map_err(|Spent| Cut::Resets)
    }
}

/// The bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spent;

/// A budget. It reads the clock only when it begins to be used, and when it is used up.
#[derive(Debug, Default)]
struct Bucket {
    /// What was taken and not yet filled again; less than nothing is credit.
    spent: i64,
    since: Option<Instant>,
}

impl Bucket {
    fn is_full(&self) -> bool {
        self.spent <= 0
    }

    /// Takes from the bucket, which holds `most` and fills at a rate.
    fn spend(&mut self, amount: i64, most: i64, per_second: u32) -> Result<(), Spent> {
        if self.spent <= 0 {
            self.since = None;
        }
        self.spent += amount;
        if self.spent > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        if self.spent < most {
            return Ok(());
        }
        let now = Instant::now();
        let since = self.since.unwrap_or(now);
        let filled = now.duration_since(since).as_secs_f64() * f64::from(per_second);
        if filled >= 1.0 {
            self.spent = (self.spent - filled as i64).max(amount);
            self.since = Some(now);
        }
        if self.spent < most { Ok(()) } else { Err(Spent) }
    }

    /// Fills it, with at most so much credit beyond.
    fn earn(&mut self, amount: i64, most_saved: i64) {
        self.spent = (self.spent - amount).max(-most_saved);
    }
}

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// Resets that go for nothing, at once. A browser that leaves a page gives up on as many streams as it had open, 100 at most.
const MOST_RESETS: i64 = 100;
/// A sidecar's peer with clients that give up early; an attacker who keeps to it costs as much as an ordinary client.
const RESETS_PER_SECOND: u32 = 20;
/// Answers that later resets may be set against.
const MOST_SAVED_RESETS: i64 = 1_000;
/// Frames without content, at once.
const MOST_CONTROL: i64 = 1_000;
/// Keep-alives, bandwidth probes and priorities of a busy client are a few in a second; keystrokes are ten.
const CONTROL_PER_SECOND: u32 = 100;
/// Browsers describe each stream with a few frames.
const CONTROL_PER_STREAM: i64 = 8;
/// A client may read a great deal first and then say so.
const MOST_SAVED_UPDATES: i64 = 10_000;
/// Bytes of DATA that most senders put in a frame: the least that a peer may be asked to take (RFC 9113 §6.5.2).
const COMMON_FRAME: usize = 16 * 1024;
/// Bytes that the least message carries.
const LEAST_CARRIED: usize = 5;
/// CONTINUATION frames of one header block.
const MOST_CONTINUATIONS: u32 = 16;
/// What an honest sender puts in a frame before it begins the next.
const LEAST_FULL_FRAME: usize = 4 * 1024;

/// Error codes (RFC 9113 §7) that tell the peer of its own mistakes.
const MALFORMED: u32 = 0x1;
const FLOW_CONTROL: u32 = 0x3;
const STREAM_CLOSED: u32 = 0x5;
const FRAME_SIZE: u32 = 0x6;
const REFUSED: u32 = 0x7;

#[cfg(test)]
mod tests;
