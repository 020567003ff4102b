//! The first bytes of a TLS connection. The promises checked are in `proxy/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::client_hello(data));
