//! Frames of HTTP/2, and the requests that become of them. The promises checked are in `proxy/src/fuzzing/frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::http2_requests(data));
