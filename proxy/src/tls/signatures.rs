//! Signatures of certificates and lists that were found good, so that none is verified at every handshake.
//!
//! Whether a signature is good depends on nothing but its algorithm, the key, the signed bytes and itself; so that alone is kept, under a
//! digest of all four. What depends on the time, on lists or on names is asked each time anew, by whoever asks for the signature.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

/// The good signatures. Bad ones are not kept: who sends them pays with a verification, and takes nobody's place.
#[derive(Default)]
pub(super) struct Signatures {
    good: Mutex<Good>,
}

type Digest = [u8; 32];

impl fmt::Debug for Signatures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Signatures").finish_non_exhaustive()
    }
}

impl Signatures {
    /// Lends the algorithms to `verify`, each of which looks here first.
    pub(super) fn remembering<T>(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        verify: impl FnOnce(&[&dyn SignatureVerificationAlgorithm]) -> T,
    ) -> T {
        let wrapped =
            algorithms.iter().map(|algorithm| Remembering { algorithm: *algorithm, signatures: self });
        let wrapped: Vec<_> = wrapped.collect();
        let lent: Vec<_> = wrapped.iter().map(|one| one as &dyn SignatureVerificationAlgorithm).collect();
        verify(&lent)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.with(|good| good.places.len())
    }

    /// Held for a look or for one insertion; the digest and the verification are outside.
    fn with<T>(&self, act: impl FnOnce(&mut Good) -> T) -> T {
        act(&mut self.good.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// At most [`MOST`] digests.
#[derive(Default)]
struct Good {
    /// Hashed with a secret: who may have certificates signed must not choose who shares a bucket.
    known: HashSet<Digest>,
    /// The same ones, so that one can be chosen to go.
    places: Vec<Digest>,
}

impl Good {
    fn insert(&mut self, digest: Digest) {
        if !self.known.insert(digest) {
            return;
        }
        if self.places.len() < MOST {
            self.places.push(digest);
            return;
        }
        // As good as random: of more peers than there is room for, some are still found, where the oldest one's place would find none.
        let place = digest.iter().fold(0, |number, byte| (number * 256 + usize::from(*byte)) % MOST);
        let gone = std::mem::replace(&mut self.places[place], digest);
        self.known.remove(&gone);
    }
}

/// An algorithm that remembers.
struct Remembering<'a> {
    algorithm: &'a dyn SignatureVerificationAlgorithm,
    signatures: &'a Signatures,
}

impl fmt::Debug for Remembering<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.algorithm.fmt(formatter)
    }
}

impl SignatureVerificationAlgorithm for Remembering<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let (key_kind, kind) = (self.public_key_alg_id(), self.signature_alg_id());
        let digest = digest_of([&key_kind, &kind, public_key, signature, message]);
        if self.signatures.with(|good| good.known.contains(&digest)) {
            return Ok(());
        }
        self.algorithm.verify_signature(public_key, message, signature)?;
        self.signatures.with(|good| good.insert(digest));
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// SHA-256 of the parts with their lengths: no byte can move from one part to the next unseen.
fn digest_of(parts: [&[u8]; 5]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The most that are kept, about 100 KiB with what holds them; room is taken as it is needed.
const MOST: usize = 1_024;

#[cfg(test)]
mod tests;
