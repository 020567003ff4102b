//! Trace context: B3 (single and multi) and W3C, read and written, so that spans of workloads that speak either join up.
//!
//! Of what came in, the first that is well formed counts: `b3`, then `x-b3-*`, then `traceparent`. What is malformed counts as absent
//! and never leaves the proxy; with nothing left, a new trace begins (I1). What goes out is always `x-b3-*` and `traceparent`, and `b3` where
//! it came in. A trace id of 64 bits stays one in B3, and is filled with zeros for W3C.

use bytes::Bytes;
use http::HeaderValue;

use crate::message::{Headers, Name, Value};

mod read;
mod write;

/// A request's place in its trace, as it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// The trace; never 0.
    pub(crate) trace_id: u128,
    /// This hop's span; never 0.
    pub(crate) span_id: u64,
    /// The span that asked, unless the trace begins here.
    pub(crate) parent: Option<u64>,
    /// Whether the trace is recorded.
    pub(crate) sampled: bool,
    /// B3's debug flag: recorded whatever samplers say.
    pub(crate) debug: bool,
    /// The trace id came as 64 bits.
    short: bool,
}

/// Continues the request's trace, or begins one: the same trace, a span of our own, the incoming span as its parent; the headers say
/// so afterwards. `sample` decides where nobody upstream of us has, or nobody whose word counts (`believe`).
pub(crate) fn continue_context(
    headers: &mut Headers,
    sample: bool,
    believe: bool,
    mut random: impl FnMut() -> u64,
) -> Context {
    let mut incoming = read::read(headers);
    if !believe {
        (incoming.sampled, incoming.debug) = (None, false);
    }
    let mut not_zero = || random().max(1);
    let span_id = not_zero();
    let (trace_id, short) = match incoming.ids {
        Some(ids) => (ids.trace, ids.short),
        None => ((u128::from(not_zero()) << 64) | u128::from(not_zero()), false),
    };
    let context = Context {
        trace_id,
        span_id,
        parent: incoming.ids.map(|ids| ids.span),
        sampled: incoming.debug || incoming.sampled.unwrap_or(sample),
        debug: incoming.debug,
        short,
    };
    write::write(headers, &context, incoming.keep_state);
    context
}

/// A UUID of version 4 as text: what `x-request-id` carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestId([u8; 36]);

/// Makes a request id from random bits.
pub(crate) fn request_id(bits: u128) -> RequestId {
    // RFC 9562: version 4, variant 10.
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let mut digits = [0; 32];
    write::hex(bits, &mut digits);
    let mut text = [b'-'; 36];
    let (mut from, mut to) = (0, 0);
    for length in [8, 4, 4, 4, 12] {
        text[to..to + length].copy_from_slice(&digits[from..from + length]);
        from += length;
        to += length + 1;
    }
    RequestId(text)
}

impl std::ops::Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        // Hexadecimal digits and dashes.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
