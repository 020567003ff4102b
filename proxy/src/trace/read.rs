//! Reading: strict where a format is exact, and nothing is believed that is not well formed.

use super::Headers;

/// What came in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The trace and the span that asked.
    pub(super) ids: Option<Ids>,
    /// The decision, when one was made.
    pub(super) sampled: Option<bool>,
    pub(super) debug: bool,
    /// `tracestate` belongs to this trace and is within bounds.
    pub(super) keep_state: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: u128,
    pub(super) span: u64,
    /// 16 digits rather than 32.
    pub(super) short: bool,
}

/// Bytes of `tracestate` that are passed on: what the specification asks everybody to carry.
const STATE_BYTES: usize = 512;

/// Entries of `tracestate`, by specification.
const STATE_ENTRIES: usize = 32;

pub(super) fn read(headers: &Headers) -> Incoming {
    let w3c = only(headers, "traceparent").and_then(traceparent);
    let single = only(headers, "b3").and_then(b3_single);
    // A single header that is a bare decision leaves room for ids elsewhere; one with ids is the whole truth.
    let mut incoming = match single {
        Some(single) if single.ids.is_some() => single,
        single => {
            let mut multi = b3_multi(headers);
            if let Some(single) = single {
                (multi.sampled, multi.debug) = (single.sampled, single.debug);
            }
            multi
        }
    };
    if incoming.ids.is_none()
        && let Some((ids, sampled)) = w3c
    {
        incoming.ids = Some(ids);
        incoming.sampled = incoming.sampled.or(Some(sampled));
    }
    let same_trace = |(w3c, _): (Ids, bool)| incoming.ids.is_some_and(|ids| ids.trace == w3c.trace);
    incoming.keep_state = w3c.is_some_and(same_trace) && state_is_sound(headers);
    incoming
}

/// The value of a field that must not be repeated.
fn only<'a>(headers: &'a Headers, name: &'a str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// `00-<32>-<16>-<2>`, lower case; later versions may have more after another dash.
fn traceparent(value: &[u8]) -> Option<(Ids, bool)> {
    let (fixed, rest) = value.split_at_checked(55)?;
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    let version = hex(fixed.get(..2)?)?;
    let length_fits = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with(b"-") };
    if version == 0xff || !length_fits || !fixed.iter().all(lower) {
        return None;
    }
    if [2, 35, 52].iter().any(|dash| fixed.get(*dash) != Some(&b'-')) {
        return None;
    }
    let trace = not_zero(hex(fixed.get(3..35)?)?)?;
    let span = not_zero(hex(fixed.get(36..52)?)?)?;
    let flags = hex(fixed.get(53..)?)?;
    Some((Ids { trace, span: u64::try_from(span).ok()?, short: false }, flags & 1 == 1))
}

/// `<trace>-<span>[-<decision>[-<parent>]]`, or the decision alone.
fn b3_single(value: &[u8]) -> Option<Incoming> {
    if let Some((sampled, debug)) = decision(value) {
        return Some(Incoming { sampled: Some(sampled), debug, ..Incoming::default() });
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let ids = ids(parts.next()?, parts.next()?)?;
    let mut incoming = Incoming { ids: Some(ids), ..Incoming::default() };
    if let Some(part) = parts.next() {
        let (sampled, debug) = decision(part)?;
        (incoming.sampled, incoming.debug) = (Some(sampled), debug);
    }
    if let Some(parent) = parts.next() {
        hex(parent).filter(|_| parent.len() == 16)?;
    }
    parts.next().is_none().then_some(incoming)
}

/// `0`, `1`, or `d` for debug.
fn decision(value: &[u8]) -> Option<(bool, bool)> {
    match value {
        b"0" => Some((false, false)),
        b"1" => Some((true, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

fn b3_multi(headers: &Headers) -> Incoming {
    let get = |name| only(headers, name);
    let ids = match (get("x-b3-traceid"), get("x-b3-spanid")) {
        (Some(trace), Some(span)) => ids(trace, span),
        _ => None,
    };
    let sampled = match get("x-b3-sampled") {
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    Incoming { ids, sampled, debug: get("x-b3-flags") == Some(b"1"), keep_state: false }
}

fn ids(trace: &[u8], span: &[u8]) -> Option<Ids> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let (trace_id, span) = (not_zero(hex(trace)?)?, not_zero(hex(span)?)?);
    Some(Ids { trace: trace_id, span: u64::try_from(span).ok()?, short: trace.len() == 16 })
}

fn not_zero(number: u128) -> Option<u128> {
    (number != 0).then_some(number)
}

/// A number of at most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0_u128, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

/// Whether all `tracestate` fields together are within bounds and printable.
fn state_is_sound(headers: &Headers) -> bool {
    let (mut bytes, mut entries) = (0, 0);
    for value in headers.get_all("tracestate") {
        if !value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return false;
        }
        // A comma joins the fields for whoever reads them as one.
        bytes += value.len() + usize::from(bytes > 0);
        entries += value.split(|byte| *byte == b',').count();
    }
    bytes <= STATE_BYTES && entries <= STATE_ENTRIES
}
