//! Frames of HTTP/2 under the guard. The promises checked are in `proxy/src/fuzzing/frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidegate_proxy::fuzzing::http2_frames(data));
