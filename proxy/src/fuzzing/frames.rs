//! Frames of HTTP/2 under the guard. Beside the other checks and not among them: those need no room above the codec, and are copied with it
//! (`cargo xtask mutants`).

use crate::http2::{Budgets, Cut, Guard};

/// The frames of HTTP/2, in either direction: the guard decides the same whatever pieces they come in, and passes on what it does not cut.
pub fn http2_frames(data: &[u8]) {
    let whole = guarded([data]);
    for piece in [1, 2, 7] {
        assert_eq!(whole, guarded(data.chunks(piece)), "pieces of {piece}");
    }
}

/// What a guard makes of a client's bytes, and of the same bytes when we send them.
fn guarded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Option<Cut>, Option<Cut>) {
    let [inbound, outbound] = [true, false].map(|server| Guard::new(Budgets::default(), server));
    for piece in pieces {
        if inbound.cut().is_none() {
            let passed = inbound.received(piece);
            assert!(passed <= piece.len() && (passed == piece.len() || inbound.cut().is_some()));
        }
        outbound.sent(piece);
        outbound.flushed();
    }
    (inbound.cut(), outbound.cut())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::tests::replay;

    // Budgets fill with time: of two that pass the same bytes, the slower one would take more.
    #[tokio::test(start_paused = true)]
    async fn frames_keep_their_promises() {
        replay("http2_frames", http2_frames, 20_000);
    }
}
