//! Writing: all values are pieces of one buffer, so that a request pays for one allocation.

use super::{Bytes, Context, HeaderValue, Headers, Name, Value};

/// `00-<trace>-<span>-0n`.
const TRACEPARENT: usize = 55;

/// Where the trace id and the span id stand in it.
const TRACE: std::ops::Range<usize> = 3..35;
const SPAN: std::ops::Range<usize> = 36..52;

/// Digits of a span id.
const DIGITS: usize = 16;

/// Longest `b3`: `<trace>-<span>-<decision>-<parent>`.
const SINGLE: usize = 32 + 1 + DIGITS + 2 + 1 + DIGITS;

pub(super) fn write(headers: &mut Headers, context: &Context, keep_state: bool) {
    let single = headers.contains("b3");
    let mut buffer = Vec::with_capacity(TRACEPARENT + DIGITS + SINGLE);
    let mut trace = [0; 32];
    hex(context.trace_id, &mut trace);
    let (mut span, mut parent) = ([0; DIGITS], [0; DIGITS]);
    hex(context.span_id.into(), &mut span);
    hex(context.parent.unwrap_or_default().into(), &mut parent);
    let flags: &[u8] = if context.sampled { b"-01" } else { b"-00" };
    for piece in [b"00-", &trace[..], b"-", &span, flags, &parent] {
        buffer.extend_from_slice(piece);
    }
    let own_trace = if context.short { &trace[DIGITS..] } else { &trace[..] };
    if single {
        for piece in [own_trace, b"-", &span, b"-", decision(context).as_bytes()] {
            buffer.extend_from_slice(piece);
        }
        if context.parent.is_some() {
            buffer.push(b'-');
            buffer.extend_from_slice(&parent);
        }
    }
    let buffer = Bytes::from(buffer);
    let piece = |range: std::ops::Range<usize>| buffer.slice(range);
    set(headers, "traceparent", piece(0..TRACEPARENT));
    set(headers, "x-b3-traceid", piece(TRACE.end - own_trace.len()..TRACE.end));
    set(headers, "x-b3-spanid", piece(SPAN));
    if context.parent.is_some() {
        set(headers, "x-b3-parentspanid", piece(TRACEPARENT..TRACEPARENT + DIGITS));
    } else {
        headers.remove("x-b3-parentspanid");
    }
    if single {
        set(headers, "b3", piece(TRACEPARENT + DIGITS..buffer.len()));
    }
    write_decision(headers, context);
    if !keep_state {
        headers.remove("tracestate");
    }
}

fn write_decision(headers: &mut Headers, context: &Context) {
    // By the B3 specification debug implies the decision and stands alone.
    if context.debug {
        headers.insert(Name::Static("x-b3-flags"), Value::Static("1"));
        headers.remove("x-b3-sampled");
    } else {
        headers.remove("x-b3-flags");
        headers.insert(Name::Static("x-b3-sampled"), Value::Static(decision(context)));
    }
}

fn decision(context: &Context) -> &'static str {
    match (context.debug, context.sampled) {
        (true, _) => "d",
        (false, true) => "1",
        (false, false) => "0",
    }
}

fn set(headers: &mut Headers, name: &'static str, value: Bytes) {
    // Hexadecimal digits and dashes are a valid value.
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(Name::Static(name), Value::Http(value));
    }
}

/// Writes the number's lowest digits, as many as there is room for.
pub(super) fn hex(mut number: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}
