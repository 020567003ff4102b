//! Trace context: each format in, all formats out, and nothing malformed gets through.

use http::HeaderName;
use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const OURS: u64 = 0x00f0_67aa_0ba9_02b7;

fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(Name::Http(name), Value::Http(HeaderValue::from_str(value).unwrap()));
    }
    headers
}

/// Continues with a span id of `OURS`, or with fixed ids when a trace begins.
fn go_on(fields: &[(&str, &str)], sample: bool) -> (Context, Headers) {
    let mut headers = headers(fields);
    let context = continue_context(&mut headers, sample, true, || OURS);
    (context, headers)
}

fn text<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.get_str(name)
}

#[test]
fn w3c_goes_on_and_is_told_in_b3_too() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let (context, headers) = go_on(&[("traceparent", &parent), ("tracestate", "a=1,b=2")], false);
    assert_eq!((context.span_id, context.parent, context.sampled), (OURS, Some(0xb7ad_6b71_6920_3331), true));
    assert_eq!(text(&headers, "traceparent").unwrap(), format!("00-{TRACE}-00f067aa0ba902b7-01"));
    assert_eq!(text(&headers, "x-b3-traceid"), Some(TRACE));
    assert_eq!(text(&headers, "x-b3-spanid"), Some("00f067aa0ba902b7"));
    assert_eq!(text(&headers, "x-b3-parentspanid"), Some(SPAN));
    assert_eq!(text(&headers, "x-b3-sampled"), Some("1"));
    assert_eq!(text(&headers, "b3"), None, "single is written where it came");
    assert_eq!(text(&headers, "tracestate"), Some("a=1,b=2"));
}

#[test]
fn b3_single_goes_on_as_single() {
    let (context, headers) = go_on(&[("b3", &format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"))], false);
    assert!(context.sampled && context.debug);
    assert_eq!(text(&headers, "b3").unwrap(), format!("{TRACE}-00f067aa0ba902b7-d-{SPAN}"));
    assert_eq!(text(&headers, "x-b3-flags"), Some("1"));
    assert_eq!(text(&headers, "x-b3-sampled"), None);
    assert_eq!(text(&headers, "traceparent").unwrap(), format!("00-{TRACE}-00f067aa0ba902b7-01"));
}

#[test]
fn a_trace_id_of_64_bits_stays_one_in_b3() {
    let fields = [("X-B3-TraceId", &TRACE[16..]), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
    let (context, headers) = go_on(&fields, true);
    assert!(!context.sampled, "the decision was made already");
    assert_eq!(text(&headers, "x-b3-traceid"), Some(&TRACE[16..]));
    let expected = format!("00-0000000000000000{}-00f067aa0ba902b7-00", &TRACE[16..]);
    assert_eq!(text(&headers, "traceparent").unwrap(), expected);
    assert_eq!(headers.get_all("x-b3-traceid").count(), 1);
}

#[test]
fn b3_comes_before_w3c_and_state_goes_with_its_trace() {
    let other = "11111111111111111111111111111111";
    let parent = format!("00-{other}-2222222222222222-01");
    let b3 = format!("{TRACE}-{SPAN}-1");
    let fields = [("traceparent", &*parent), ("tracestate", "a=1"), ("b3", &b3)];
    let (context, headers) = go_on(&fields, false);
    assert_eq!(format!("{:032x}", context.trace_id), TRACE);
    assert_eq!(text(&headers, "tracestate"), None);
    // A bare decision in b3 leaves the ids to W3C.
    let (context, headers) = go_on(&[("traceparent", &*parent), ("tracestate", "a=1"), ("b3", "0")], true);
    assert_eq!((format!("{:032x}", context.trace_id), context.sampled), (other.to_owned(), false));
    assert_eq!(text(&headers, "tracestate"), Some("a=1"));
}

#[test]
fn what_is_malformed_begins_a_new_trace() {
    let zeros = "0".repeat(32);
    let upper = TRACE.to_uppercase();
    for value in [
        format!("00-{zeros}-{SPAN}-01"),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{upper}-{SPAN}-01"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("01-{TRACE}-{SPAN}-01.more"),
        format!("00-{TRACE}-{SPAN}-0"),
        format!("00_{TRACE}_{SPAN}_01"),
        String::new(),
    ] {
        let (context, headers) = go_on(&[("traceparent", &value), ("tracestate", "a=1")], true);
        assert_eq!((context.parent, context.sampled), (None, true), "{value}");
        assert_ne!(format!("{:032x}", context.trace_id), TRACE);
        assert_eq!(text(&headers, "tracestate"), None);
        assert_eq!(text(&headers, "x-b3-parentspanid"), None);
    }
    let valid = format!("00-{TRACE}-{SPAN}-01");
    let (context, headers) = go_on(&[("traceparent", &valid), ("traceparent", &valid)], true);
    assert_eq!(context.parent, None, "a repeated field is no field");
    assert_eq!(headers.get_all("traceparent").count(), 1);
}

#[test]
fn a_later_version_is_read_by_what_is_known_of_it() {
    let (context, headers) = go_on(&[("traceparent", &format!("01-{TRACE}-{SPAN}-03-extra"))], false);
    assert!(context.sampled);
    assert_eq!(text(&headers, "traceparent").unwrap(), format!("00-{TRACE}-00f067aa0ba902b7-01"));
}

#[test]
fn state_out_of_bounds_is_not_passed_on() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let many = vec!["a=1"; 33].join(",");
    let long = format!("a={}", "x".repeat(511));
    for state in [many, long] {
        let (_, headers) = go_on(&[("traceparent", &parent), ("tracestate", &state)], false);
        assert_eq!(text(&headers, "tracestate"), None);
    }
    let half = vec!["a=1"; 20].join(",");
    let fields = [("traceparent", &*parent), ("tracestate", &half), ("tracestate", &half)];
    assert_eq!(text(&go_on(&fields, false).1, "tracestate"), None, "fields count together");
}

#[test]
fn a_decision_without_ids_is_heeded() {
    assert!(!go_on(&[("x-b3-sampled", "0")], true).0.sampled);
    assert!(go_on(&[("x-b3-flags", "1")], false).0.sampled);
    assert!(go_on(&[], true).0.sampled);
    assert!(!go_on(&[], false).0.sampled);
}

#[test]
fn request_ids_are_uuids_of_version_4() {
    assert_eq!(&*request_id(0), "00000000-0000-4000-8000-000000000000");
    assert_eq!(&*request_id(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    let bits = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
    assert_eq!(&*request_id(bits), "01234567-89ab-4def-8123-456789abcdef");
}

const NAMES: [&str; 8] = [
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
];

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'0')
}

/// Every trace header is well formed, and all of them tell the same.
fn assert_sound(headers: &Headers, context: &Context) {
    let get = |name| headers.get_str(name);
    let trace = format!("{:032x}", context.trace_id);
    let span = format!("{:016x}", context.span_id);
    let flags = if context.sampled { "01" } else { "00" };
    assert_eq!(get("traceparent").unwrap(), format!("00-{trace}-{span}-{flags}"));
    assert!(is_hex(get("x-b3-traceid").unwrap(), &[16, 32]));
    assert!(trace.ends_with(get("x-b3-traceid").unwrap()));
    assert_eq!(get("x-b3-spanid").unwrap(), span);
    assert_eq!(get("x-b3-parentspanid").map(str::to_owned), context.parent.map(|id| format!("{id:016x}")));
    if let Some(single) = get("b3") {
        let parts: Vec<_> = single.split('-').collect();
        assert_eq!((parts[0], parts[1]), (get("x-b3-traceid").unwrap(), &*span));
        assert!(["0", "1", "d"].contains(&parts[2]));
        assert_eq!(parts.get(3).copied(), get("x-b3-parentspanid"));
    }
    assert!(headers.get_all("tracestate").map(<[u8]>::len).sum::<usize>() <= 512);
    assert!(NAMES[..7].iter().all(|name| headers.get_all(name).count() <= 1));
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic_and_never_leak(
        fields in proptest::collection::vec((0..NAMES.len(), "[0-9a-fA-F-]{0,70}|[ -~]{0,600}|0|1|d"), 0..10),
        random in any::<[u64; 3]>(),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (NAMES[*name], &**value)).collect();
        let mut headers = headers(&fields);
        let mut random = random.into_iter().cycle();
        let context = continue_context(&mut headers, true, true, || random.next().unwrap_or_default());
        assert_sound(&headers, &context);
    }

    #[test]
    fn hop_after_hop_the_trace_is_the_same(
        trace in 1_u128.., span in 1_u64.., sampled in any::<bool>(), form in 0..4, randoms in any::<[u64; 2]>(),
    ) {
        let short = form == 3;
        let trace = if short { (trace >> 64).max(1) } else { trace };
        let digits = if short { format!("{trace:016x}") } else { format!("{trace:032x}") };
        let decision = u8::from(sampled);
        let (span_text, sampled_text) = (format!("{span:016x}"), decision.to_string());
        let single = format!("{digits}-{span_text}-{decision}");
        let parent = format!("00-{trace:032x}-{span_text}-0{decision}");
        let multi = [("x-b3-traceid", &*digits), ("x-b3-spanid", &span_text), ("x-b3-sampled", &sampled_text)];
        let mut headers = match form {
            0 => headers(&[("b3", &single)]),
            1 => headers(&[("traceparent", &parent)]),
            _ => headers(&multi),
        };
        let first = continue_context(&mut headers, !sampled, true, || randoms[0]);
        let second = continue_context(&mut headers, !sampled, true, || randoms[1]);
        assert_sound(&headers, &second);
        prop_assert_eq!((first.trace_id, second.trace_id), (trace, trace));
        prop_assert_eq!((first.parent, second.parent), (Some(span), Some(first.span_id)));
        prop_assert_eq!(second.sampled, sampled);
        prop_assert_eq!(second.short, short);
    }
}

#[test]
fn a_strangers_decision_does_not_count() {
    for (name, value) in [("b3", "0"), ("x-b3-sampled", "0"), ("x-b3-flags", "1")] {
        let mut headers = Headers::new();
        headers.append(Name::Static(name), Value::Static(value));
        let context = continue_context(&mut headers, true, false, || 7);
        assert!(context.sampled && !context.debug, "{name}: {value}");
        assert_eq!(headers.get_str("x-b3-sampled"), Some("1"));
    }
}
