//! Signing: who may have what, for how long, and that nothing leaves before it is on the disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::PublicKeyData;

use super::error::IssueError;
use super::generation::Generation;
use super::journal::Entry;
use super::leaf::{Leaf, Serial};
use super::ledger::LiveLeaf;
use super::metrics::{CauseLabel, ProofLabel};
use super::{Inner, Issued, Order, Proof, State, lock, pem, request};

/// What is to be signed, after all questions about who asks.
pub(super) struct Grant<'a> {
    pub(super) identity: &'a str,
    pub(super) dns: &'a [String],
    pub(super) addresses: &'a [IpAddr],
    pub(super) ttl: Option<Duration>,
    pub(super) proof: String,
    pub(super) supersedes: Option<&'a str>,
    /// The control plane's own.
    pub(super) own: bool,
}

impl Proof {
    const fn label(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Certificate(_) => "certificate",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Token(subject) => format!("token of {subject}"),
            Self::Certificate(serial) => format!("certificate {serial}"),
        }
    }
}

impl Inner {
    /// Answers a caller; every answer is logged and counted.
    pub(super) fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let (identity, proof) = (order.identity.as_str(), order.proof.text());
        let result = self.answer(order);
        match &result {
            Ok(issued) => {
                self.metrics.issued.get_or_create(&ProofLabel { proof: order.proof.label() }).inc();
                let Issued { serial, until, root, .. } = issued;
                tracing::info!(identity, serial, until, root, proof, "gave out a certificate");
            }
            Err(error) => {
                self.metrics.refused.get_or_create(&CauseLabel { cause: error.cause() }).inc();
                tracing::warn!(identity, proof, %error, "refused a certificate");
            }
        }
        result
    }

    fn answer(&self, order: &Order) -> Result<Issued, IssueError> {
        let identity = order.identity.as_str();
        let domain = &self.options.trust_domain;
        if order.identity.trust_domain() != domain {
            return Err(IssueError::Forbidden(format!("{identity} is not of the trust domain {domain}")));
        }
        self.state().admit(identity, self.options.clock.now(), self.options.leaves_per_minute)?;
        let key = request::check(&order.request, identity)?;
        self.sign(
            &Grant {
                identity,
                dns: &[],
                addresses: &[],
                ttl: order.ttl,
                proof: order.proof.text(),
                supersedes: order.supersedes.as_deref(),
                own: false,
            },
            &key,
        )
    }

    /// Signs, and keeps the leaf in the ledger before anybody gets it.
    pub(super) fn sign(&self, grant: &Grant<'_>, key: &impl PublicKeyData) -> Result<Issued, IssueError> {
        let now = self.options.clock.now();
        let serial =
            Serial::random().map_err(|_| IssueError::Unavailable("the system gives no random numbers"))?;
        let hash = pem::fingerprint(&key.subject_public_key_info());
        // Entered before it is signed: a rotation that looks now sees it.
        let (entry, signer) = self.state().enter(grant, serial, &hash, (now, self.options.leaf_ttl))?;
        let signed = sign_leaf(grant, serial, &entry, &signer, key).and_then(|leaf| {
            self.keep(grant, &entry, now)?;
            Ok(leaf)
        });
        let mut state = self.state();
        let leaf = match signed {
            Ok(leaf) => leaf,
            Err(error) => {
                state.ledger.remove(&entry.serial);
                return Err(error);
            }
        };
        if let Some(earlier) = grant.supersedes {
            state.ledger.supersede(earlier, grant.identity, now);
        }
        let chain = std::iter::once(pem::certificate(&leaf))
            .chain(signer.chain.iter().cloned())
            .chain(std::iter::once(signer.root.clone()));
        Ok(Issued { chain: chain.collect(), serial: entry.serial, until: entry.until, root: entry.root })
    }

    /// Writes to the ledger's file; begins it anew when most of it is of no use.
    fn keep(&self, grant: &Grant<'_>, entry: &LiveLeaf, now: u64) -> Result<(), IssueError> {
        let mut entries = vec![Entry::Issued(entry.clone())];
        let mut journal = lock(&self.journal);
        let known = |serial: &str| {
            self.state().ledger.get(serial).is_some_and(|leaf| leaf.identity == grant.identity)
        };
        if let Some(earlier) = grant.supersedes.filter(|serial| known(serial)) {
            entries.push(Entry::Superseded { serial: earlier.to_owned(), at: now });
        }
        let long = journal.is_long(self.state().ledger.len());
        let kept = if long { self.compact(&mut journal) } else { Ok(()) };
        kept.and_then(|()| journal.add(&entries).map_err(|error| error.to_string())).map_err(|error| {
            tracing::error!(
                error,
                folder = %self.directory.path().display(),
                "no certificate is given out, because the ledger of leaves cannot be written: free some space, or make the folder writable"
            );
            IssueError::Unavailable("its ledger cannot be written")
        })
    }

    fn compact(&self, journal: &mut super::Journal) -> Result<(), String> {
        let lines = super::journal::lines(&self.state().ledger);
        journal.begin_anew(&self.directory, &lines).map_err(|error| error.to_string())
    }
}

fn sign_leaf(
    grant: &Grant<'_>,
    serial: Serial,
    entry: &LiveLeaf,
    signer: &Generation,
    key: &impl PublicKeyData,
) -> Result<Vec<u8>, IssueError> {
    let leaf = Leaf {
        serial,
        identity: grant.identity,
        dns: grant.dns,
        addresses: grant.addresses,
        // Another machine's clock may be behind ours.
        from: entry.issued.saturating_sub(BACKDATED).max(signer.issuing_from),
        until: entry.until,
    };
    leaf.sign(key, &signer.issuer).map_err(|error| {
        tracing::error!(%error, "a certificate could not be signed");
        IssueError::Unavailable("signing failed")
    })
}

impl State {
    /// Whether an identity may ask now.
    fn admit(&mut self, identity: &str, now: u64, limit: u32) -> Result<(), IssueError> {
        if self.denied.contains(identity) {
            return Err(IssueError::Denied(identity.to_owned()));
        }
        self.limiter.take(identity, limit, now).map_err(|seconds| IssueError::TooMany {
            identity: identity.to_owned(),
            limit,
            seconds,
        })
    }

    /// Enters a leaf into the ledger, and says who signs it.
    fn enter(
        &mut self,
        grant: &Grant<'_>,
        serial: Serial,
        key: &str,
        (now, longest): (u64, Duration),
    ) -> Result<(LiveLeaf, Arc<Generation>), IssueError> {
        let signer = Arc::clone(if grant.own { &self.own_signer } else { &self.signer });
        if signer.keys.iter().any(|own| own == key) {
            return Err(IssueError::Forbidden("its key is the authority's".to_owned()));
        }
        if self.ledger.holder_of_key(key).is_some_and(|holder| holder != grant.identity) {
            return Err(IssueError::Forbidden("its key is in use by another identity".to_owned()));
        }
        if self.revoked_keys.contains(key) {
            return Err(IssueError::Forbidden(
                "a certificate of its key was revoked: make another key".to_owned(),
            ));
        }
        let many = self.ledger.count_of(grant.identity) >= IDENTITY_LIMIT || self.ledger.len() >= LEAF_LIMIT;
        if many && !grant.own {
            return Err(IssueError::Full(grant.identity.to_owned()));
        }
        let shortest = SHORTEST.min(longest);
        let ttl = grant.ttl.unwrap_or(longest).clamp(shortest, longest).as_secs();
        let until = (now + ttl).min(signer.issuing_until);
        if until <= now {
            return Err(IssueError::Unavailable("the key that signs has expired"));
        }
        let leaf = LiveLeaf {
            serial: serial.text(),
            identity: grant.identity.to_owned(),
            root: signer.fingerprint.clone(),
            key: key.to_owned(),
            issued: now,
            until,
            proof: grant.proof.clone(),
            superseded: None,
            revoked: None,
            issuer: signer.issuing_key().to_owned(),
            own: grant.own,
        };
        self.ledger.insert(leaf.clone());
        Ok((leaf, signer))
    }
}

/// How far back a leaf's validity begins, in seconds.
const BACKDATED: u64 = 60;

/// How short a leaf may be; a shorter one would expire between two clocks.
const SHORTEST: Duration = Duration::from_secs(60);

/// How many live leaves there may be, and one identity may have: so few that it takes many who ask without end to use all up.
const LEAF_LIMIT: usize = 200_000;
const IDENTITY_LIMIT: usize = 2_500;
