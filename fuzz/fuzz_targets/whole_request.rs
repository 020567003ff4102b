//! A stream of HTTP/1.1 requests, through the proxy to an origin that reads strictly. The promises checked are in `proxy/src/fuzzing/whole.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::whole_request(data));
