//! The proxy's own certificate: asked for, kept in memory, renewed in time, taken away when it is over.
//!
//! [`Keeper`] is the one task that asks the authority. It publishes what is in force; `xds` hands that to the compiler, which swaps it in
//! the contexts that name it, and proves itself with it. From `xds` come the roots that the control plane has distributed. When to ask is
//! decided in [`renew`], what an answer must be in [`request`]. [`agent`] serves the same to data planes that are not ours.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::settings::Identity;

pub mod agent;
mod authority;
mod connect;
pub mod own;
mod refusal;
mod renew;
mod request;
mod secret;
mod status;
mod trust;

pub(crate) use connect::{Dialled, Target, dial};
pub(crate) use request::Leaf;
pub(crate) use secret::{DEFAULT, ROOTS};
pub(crate) use status::{Outcome, Status};

use renew::{Moment, Renewal, Step};
use trust::Trust;

/// What is in force now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Material {
    /// The certificate; none before the first, and none when it is over.
    pub(crate) leaf: Option<Arc<Leaf>>,
    /// The roots of the own trust domain, in PEM form.
    pub(crate) roots: Option<Arc<str>>,
}

/// What others see of the identity, and tell it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    settings: Arc<Identity>,
    material: watch::Receiver<Material>,
    discovered: watch::Sender<Option<Arc<wire::CertificateValidationContext>>>,
    refused: Arc<Notify>,
    status: Status,
}

impl Handle {
    /// What is in force now.
    pub(crate) fn material(&self) -> Material {
        self.material.borrow().clone()
    }

    /// Waits until something else is in force.
    pub(crate) async fn changed(&mut self) {
        if self.material.changed().await.is_err() {
            // The keeper is gone: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the first certificate.
    pub(crate) async fn ready(&self) {
        let mut material = self.material.clone();
        if material.wait_for(|material| material.leaf.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells whom the control plane says to trust (the secret [`ROOTS`]), once that is in force.
    pub(crate) fn trust(&self, secret: &Any) {
        let secret: Option<wire::Secret> = from_any(secret).ok();
        if let Some(wire::secret::Type::ValidationContext(context)) = secret.and_then(|secret| secret.r#type)
        {
            self.discovered.send_replace(Some(Arc::new(context)));
        }
    }

    /// Tells that the control plane takes the certificate no more, if that is what this failure says: it was revoked, or its root is
    /// trusted no more, and the word of that could not reach us over a stream that needs it.
    pub(crate) fn heed(&self, failure: &tonic::Status) {
        if refusal::is_of_certificate(failure) {
            self.refused.notify_one();
        }
    }

    /// The token as it is now, as a header.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn token(&self) -> Result<MetadataValue<Ascii>, Failure> {
        authority::token(&self.settings)
    }

    /// How it is doing, for admin.
    pub(crate) fn status(&self) -> Status {
        self.status.clone()
    }
}

/// Why there is no new certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    outcome: Outcome,
    text: String,
}

impl Failure {
    fn new(outcome: Outcome, text: impl Into<String>) -> Self {
        Self { outcome, text: text.into() }
    }
}

/// The task that keeps the certificate in force.
pub(crate) struct Keeper {
    settings: Arc<Identity>,
    renewal: Renewal,
    trust: Trust,
    /// Who we are: stays known when the certificate is over.
    id: Option<SpiffeId>,
    material: watch::Sender<Material>,
    discovered: watch::Receiver<Option<Arc<wire::CertificateValidationContext>>>,
    refused: Arc<Notify>,
    /// When a refused certificate was last replaced because of that.
    heeded: Option<Instant>,
    status: Status,
    asking: Option<Asking>,
    /// The last failure that was logged, so that it is told once and not every minute.
    told: Option<String>,
    random: SmallRng,
}

type Asking = Pin<Box<dyn Future<Output = Result<Leaf, Failure>> + Send>>;

/// An identity that is still to be asked for, and the task that does it.
pub(crate) fn new(settings: Identity) -> (Handle, Keeper) {
    let settings = Arc::new(settings);
    let (material, in_force) = watch::channel(Material::default());
    let (tell, discovered) = watch::channel(None);
    let refused = Arc::new(Notify::new());
    let status = Status::default();
    status.write(|report| report.authority = settings.ca_address());
    let keeper = Keeper {
        renewal: Renewal::new(Moment::now()),
        trust: Trust::new(settings.root_file.clone()),
        id: settings.id.clone(),
        settings: settings.clone(),
        material,
        discovered,
        refused: refused.clone(),
        heeded: None,
        status: status.clone(),
        asking: None,
        told: None,
        random: SmallRng::from_os_rng(),
    };
    (Handle { settings, material: in_force, discovered: tell, refused, status }, keeper)
}

impl Keeper {
    /// Keeps the certificate until dropped.
    pub(crate) async fn run(mut self) {
        self.look_at_roots();
        let notified = self.refused.clone();
        loop {
            let pause = match self.renewal.step(Moment::now()) {
                Step::Ask => {
                    self.ask();
                    continue;
                }
                Step::Expire => {
                    self.expire();
                    continue;
                }
                Step::Warn(left) => {
                    self.warn(left);
                    continue;
                }
                Step::Wait(pause) => pause,
            };
            tokio::select! {
                answer = answer(&mut self.asking) => {
                    self.asking = None;
                    self.answered(answer);
                }
                Ok(()) = self.discovered.changed() => self.discover(),
                () = notified.notified() => self.refused(),
                () = tokio::time::sleep(pause) => self.look_at_roots(),
            }
        }
    }

    fn ask(&mut self) {
        let roots = match self.trust.read() {
            Ok(roots) => roots,
            Err(error) => return self.answered(Err(Failure::new(Outcome::Roots, error))),
        };
        let leaf = self.material.borrow().leaf.clone();
        self.asking = Some(Box::pin(authority::ask(self.settings.clone(), roots, leaf, self.id.clone())));
    }

    fn answered(&mut self, answer: Result<Leaf, Failure>) {
        match answer {
            Ok(leaf) => self.issued(leaf),
            Err(failure) => {
                let roll = self.random.random();
                self.renewal.failed(Moment::now(), roll);
                if self.told.as_ref() != Some(&failure.text) {
                    tracing::warn!(why = failure.text, "no new certificate; trying again");
                }
                self.told = Some(failure.text.clone());
                self.status.write(|report| {
                    report.count(failure.outcome);
                    report.last_failure = Some(failure.text);
                });
            }
        }
    }

    fn issued(&mut self, leaf: Leaf) {
        let facts = leaf.facts().clone();
        let until = crate::telemetry::rfc3339(facts.not_after);
        tracing::info!(id = %leaf.id, serial = &*facts.serial, until, "a new certificate is in force");
        let roll = self.random.random();
        self.renewal.issued(Moment::now(), facts.not_after, roll);
        let first = self.id.replace(leaf.id.clone()).is_none();
        self.told = None;
        self.status.write(|report| {
            report.count(Outcome::Renewed);
            report.leaf = Some(facts);
            report.expired = None;
            report.last_failure = None;
        });
        self.material.send_modify(|material| material.leaf = Some(Arc::new(leaf)));
        if first {
            // Only now it is known which bundle is our own.
            self.discover();
        } else {
            self.follow_signing_root();
        }
    }

    /// Past its end nothing is shown and nobody is believed because of it: no handshake is better than one that proves nothing.
    fn expire(&mut self) {
        let leaf = self.material.borrow().leaf.clone();
        let until = leaf.as_ref().map(|leaf| leaf.facts().not_after);
        self.material.send_modify(|material| material.leaf = None);
        self.status.write(|report| {
            report.leaf = None;
            report.expired = until;
        });
        let last_failure = self.told.as_deref().unwrap_or("no attempt has ended yet");
        tracing::error!(
            authority = self.settings.ca_address(),
            last_failure,
            "the own certificate has expired and could not be renewed: no handshake is made with it any more"
        );
    }

    fn warn(&self, left: Duration) {
        let last_failure = self.told.as_deref().unwrap_or("no attempt has ended yet");
        tracing::warn!(
            left = ?Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            authority = self.settings.ca_address(),
            last_failure,
            "the own certificate will expire and could not be renewed yet"
        );
    }

    /// The control plane has said whom to trust.
    fn discover(&mut self) {
        let Some(id) = &self.id else { return };
        let Some(context) = self.discovered.borrow_and_update().clone() else { return };
        self.trust.discover(&context, id.trust_domain());
        self.look_at_roots();
        self.follow_signing_root();
    }

    /// Renews soon when another root signs now. Which of them an external authority signs with, nobody here knows: any will do.
    fn follow_signing_root(&mut self) {
        let signing = if self.settings.external { self.trust.distributed() } else { self.trust.signing() };
        let (Some(signing), Some(leaf)) = (signing, self.material.borrow().leaf.clone()) else {
            return;
        };
        let now = Moment::now();
        match leaf.identity.is_vouched_for(&signing, now.wall) {
            Ok(()) => self.renewal.placed(),
            Err(_) => {
                tracing::info!("another root signs now: the own certificate is renewed soon");
                let roll = self.random.random();
                self.renewal.misplaced(now, roll);
            }
        }
    }

    /// Renews soon what the control plane takes no more; not each time, or two who disagree would ask without end.
    fn refused(&mut self) {
        let now = Moment::now();
        if self.heeded.is_some_and(|last| now.steady.saturating_duration_since(last) < HEED_PACE) {
            return;
        }
        self.heeded = Some(now.steady);
        tracing::warn!("the control plane takes the own certificate no more: it is renewed soon");
        let roll = self.random.random();
        self.renewal.misplaced(now, roll);
    }

    /// Publishes the roots when they have changed.
    fn look_at_roots(&mut self) {
        let Ok(roots) = self.trust.read() else { return };
        let pem: Arc<str> = roots.pem().into();
        let changed = self.material.send_if_modified(|material| {
            let changed = material.roots.as_ref() != Some(&pem);
            if changed {
                material.roots = Some(pem);
            }
            changed
        });
        if changed {
            self.status.write(|report| report.roots = roots.certificates.to_vec());
        }
    }
}

/// How often a refusal is heeded, at most.
const HEED_PACE: Duration = Duration::from_secs(60);

async fn answer(asking: &mut Option<Asking>) -> Result<Leaf, Failure> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// A gRPC status in one line.
pub(crate) fn describe(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{:?}: {}", status.code(), in_one_line(source)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// An error and what caused it, in one line.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
