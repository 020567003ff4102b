//! A PROXY header, version 1 or 2. The promises checked are in `proxy/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::proxy_header(data));
