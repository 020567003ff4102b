//! A stream of HTTP/1.1 requests. The promises checked are in `proxy/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::http1_request(data));
