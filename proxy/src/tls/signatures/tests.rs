use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::alg_id;

use super::*;

/// Whoever signs here writes the message again as its signature.
#[derive(Debug, Default)]
struct Echo {
    verified: AtomicUsize,
}

impl SignatureVerificationAlgorithm for Echo {
    fn verify_signature(&self, _: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.verified.fetch_add(1, Ordering::Relaxed);
        if message == signature { Ok(()) } else { Err(InvalidSignature) }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

/// Whether the signature is good, and whether that was found out anew.
fn ask(signatures: &Signatures, echo: &Echo, key: &[u8], message: &[u8], signature: &[u8]) -> (bool, bool) {
    let before = echo.verified.load(Ordering::Relaxed);
    let good = signatures
        .remembering(&[echo], |algorithms| algorithms[0].verify_signature(key, message, signature).is_ok());
    (good, echo.verified.load(Ordering::Relaxed) > before)
}

#[test]
fn a_good_signature_is_verified_once() {
    let (signatures, echo) = (Signatures::default(), Echo::default());
    assert_eq!(ask(&signatures, &echo, b"key", b"text", b"text"), (true, true));
    assert_eq!(ask(&signatures, &echo, b"key", b"text", b"text"), (true, false));
    assert_eq!(ask(&signatures, &echo, b"kez", b"text", b"text"), (true, true), "another key");
    assert_eq!(ask(&signatures, &echo, b"key", b"texu", b"texu"), (true, true), "another message");
    assert_eq!(ask(&signatures, &echo, b"key", b"text", b"texu"), (false, true), "another signature");
    assert_eq!(ask(&Signatures::default(), &echo, b"key", b"text", b"text"), (true, true), "elsewhere");
}

#[test]
fn a_bad_signature_is_not_kept() {
    let (signatures, echo) = (Signatures::default(), Echo::default());
    for _ in 0..3 {
        assert_eq!(ask(&signatures, &echo, b"key", b"text", b"forged"), (false, true));
    }
    assert_eq!(signatures.len(), 0);
}

#[test]
fn no_byte_moves_from_one_part_to_the_next() {
    assert_ne!(digest_of([b"a", b"b", b"cd", b"e", b"f"]), digest_of([b"a", b"b", b"c", b"de", b"f"]));
    assert_ne!(digest_of([b"", b"a", b"", b"", b""]), digest_of([b"a", b"", b"", b"", b""]));
}

#[test]
fn only_so_many_are_kept_and_what_has_gone_is_verified_again() {
    let (signatures, echo) = (Signatures::default(), Echo::default());
    let all: Vec<_> = (0..2 * MOST).map(|number| number.to_be_bytes()).collect();
    for message in &all {
        assert_eq!(ask(&signatures, &echo, b"key", message, message), (true, true));
    }
    assert_eq!(signatures.len(), MOST);
    signatures.with(|good| {
        assert_eq!(good.known.len(), MOST);
        assert!(good.places.iter().all(|digest| good.known.contains(digest)));
    });
    // The newest is there, and of the older ones neither all nor none: the places are taken at random.
    let last = all.last().unwrap();
    assert_eq!(ask(&signatures, &echo, b"key", last, last), (true, false));
    let kept = |message: &&[u8; 8]| {
        let digest = digest_of([&alg_id::ECDSA_P256, &alg_id::ECDSA_SHA256, b"key", *message, *message]);
        signatures.with(|good| good.known.contains(&digest))
    };
    let first = all[..MOST].iter().filter(kept).count();
    assert!((MOST / 5..MOST / 2).contains(&first), "{first}");
}
