//! The trace headers that an app must pass on: B3 in both forms, W3C, and the request id.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Copies the trace headers of a request that came in to one that goes out because of it.
pub(super) fn forward(incoming: &HeaderMap, outgoing: &mut HeaderMap) {
    for name in HEADERS {
        // tracestate may come in several lines.
        for value in incoming.get_all(name) {
            outgoing.append(HeaderName::from_static(name), value.clone());
        }
    }
}

/// The trace that a request belongs to, by whichever header says so.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = text("x-b3-traceid")
        .or_else(|| text("b3").and_then(|b3| b3.split_once('-')).map(|(id, _)| id))
        .or_else(|| text("traceparent").and_then(|parent| parent.split('-').nth(1)))?;
    Some(id.to_owned())
}

/// The headers of a new, sampled trace in W3C's form.
pub(super) fn start(trace_id: u128, span_id: u64, headers: &mut HeaderMap) {
    // Zero means "no trace" in W3C's form.
    let text = format!("00-{:032x}-{:016x}-01", trace_id.max(1), span_id.max(1));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert("traceparent", value);
    }
}

const HEADERS: [&str; 9] = [
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_trace_is_found_again() {
        let mut headers = HeaderMap::new();
        start(0xabc, 7, &mut headers);
        assert_eq!(headers["traceparent"], "00-00000000000000000000000000000abc-0000000000000007-01");
        assert_eq!(trace_id(&headers).as_deref(), Some("00000000000000000000000000000abc"));
    }

    #[test]
    fn b3_in_both_forms_names_the_trace() {
        let mut headers = HeaderMap::new();
        headers.insert("b3", HeaderValue::from_static("80f198ee56343ba8-e457b5a2e4d86bd1-1"));
        assert_eq!(trace_id(&headers).as_deref(), Some("80f198ee56343ba8"));
        headers.insert("x-b3-traceid", HeaderValue::from_static("463ac35c9f6413ad"));
        assert_eq!(trace_id(&headers).as_deref(), Some("463ac35c9f6413ad"));
        headers.clear();
        headers.insert("b3", HeaderValue::from_static("0"));
        assert_eq!(trace_id(&headers), None);
    }

    #[test]
    fn only_trace_headers_are_passed_on() {
        let mut incoming = HeaderMap::new();
        for name in HEADERS {
            incoming.insert(name, HeaderValue::from_static("value"));
        }
        incoming.append("tracestate", HeaderValue::from_static("second"));
        incoming.insert("authorization", HeaderValue::from_static("secret"));
        let mut outgoing = HeaderMap::new();
        forward(&incoming, &mut outgoing);
        assert_eq!(outgoing.len(), HEADERS.len() + 1);
        assert!(!outgoing.contains_key("authorization"));
    }
}
