//! Revoking: a certificate by its serial number, an identity by its name. On the disk first, then for everybody to see.

use sidegate_xds::spiffe::SpiffeId;

use super::error::CaError;
use super::generation::Generation;
use super::journal::Entry;
use super::keeper::Keeper;
use super::report::{Reason, Withdrawn};
use super::revocation::{self, Revoked};
use super::{Inner, deny, lock};

impl Inner {
    /// Puts a certificate on the list of who has signed it. One that the ledger does not know only if `force` says so.
    pub(super) fn revoke(&self, serial: &str, reason: Reason, force: bool) -> Result<(), CaError> {
        let serial = revocation::serial(serial)?;
        let mut keeper = lock(&self.keeper);
        let now = self.options.clock.now();
        let known = self.state().ledger.get(&serial).cloned();
        if known.as_ref().is_some_and(|leaf| leaf.own) {
            // Nobody must be without a control plane for it.
            self.replace_served(&serial);
        }
        let entry = |generation: &Generation| Revoked {
            serial: serial.clone(),
            identity: known.as_ref().map(|leaf| leaf.identity.clone()),
            root: generation.fingerprint.clone(),
            issuer: generation.issuing_key().to_owned(),
            key: known.as_ref().map(|leaf| leaf.key.clone()),
            at: now,
            until: known.as_ref().map_or(generation.issuing_until, |leaf| leaf.until),
            reason,
        };
        let generations: Vec<_> = match &known {
            Some(leaf) => {
                let signed = |generation: &&_| Generation::issuing_key(generation) == leaf.issuer;
                let signer = keeper.generations.get(&leaf.root).map(AsRef::as_ref).filter(signed);
                vec![signer.ok_or_else(|| {
                    CaError::Refused(format!("the key that signed {serial} was replaced since, and only that key could sign its list: deny its identity until it expires (sidegate revoke --id {})", leaf.identity))
                })?]
            }
            None if force => keeper.generations.values().map(AsRef::as_ref).collect(),
            None => {
                return Err(CaError::Refused(format!(
                    "{serial} is not in the ledger of certificates in use: it has expired, its holder has replaced it, or somebody else has signed it; --force puts it on the list all the same"
                )));
            }
        };
        let mut next = keeper.revocations.clone();
        for generation in generations {
            if !next.names(generation.issuing_key(), &serial) {
                next = next.with(entry(generation), generation, now)?;
            }
        }
        if next == keeper.revocations {
            return Ok(());
        }
        next.save(&self.directory)?;
        keeper.revocations = next;
        self.note(&serial, now);
        let identity = known.map(|leaf| leaf.identity);
        tracing::info!(serial, identity, ?reason, force, "revoked a certificate");
        self.publish(&keeper);
        Ok(())
    }

    /// Marks it in the ledger. The list is what counts, and the mark is made again from it at the next start.
    fn note(&self, serial: &str, now: u64) {
        let known = self.state().ledger.get(serial).is_some();
        if known {
            let entry = Entry::Revoked { serial: serial.to_owned(), at: now };
            if let Err(error) = lock(&self.journal).add(&[entry]) {
                tracing::warn!(%error, "the ledger could not be told of a revocation; the list has it");
            }
        }
        self.state().ledger.revoke(serial, now);
    }

    /// Writes an id onto the deny list.
    pub(super) fn deny(&self, identity: &SpiffeId, reason: Reason) -> Result<(), CaError> {
        // Held to the end, so that no other command writes between.
        let mut keeper = lock(&self.keeper);
        deny::add(&self.directory, &self.options.trust_domain, identity, reason)?;
        self.look_at_files(&mut keeper);
        Ok(())
    }

    /// Takes an id off the deny list.
    pub(super) fn admit_again(&self, identity: &SpiffeId) -> Result<(), CaError> {
        let mut keeper = lock(&self.keeper);
        deny::remove(&self.directory, identity)?;
        // What is missing from a list counts when it is missing twice; here it is known that nobody is in the middle of writing.
        self.look_at_files(&mut keeper);
        self.look_at_files(&mut keeper);
        Ok(())
    }

    /// Forgets what has expired.
    pub(super) fn forget_revoked(&self, keeper: &mut Keeper, now: u64) -> Option<String> {
        let mut next = keeper.revocations.clone();
        if !next.expire(&keeper.generations, now) {
            return None;
        }
        if let Err(error) = next.save(&self.directory) {
            return Some(error.to_string());
        }
        keeper.revocations = next;
        self.publish(keeper);
        None
    }

    /// Everything that counts no more.
    pub(super) fn withdrawn(&self) -> Withdrawn {
        let keeper = lock(&self.keeper);
        Withdrawn { certificates: keeper.revocations.all().to_vec(), identities: keeper.extra.denied.clone() }
    }
}
