//! Somebody else is the authority: any server of `istio.v1.auth.IstioCertificateService`, as cert-manager's istio-csr is.
//!
//! Proxies ask it themselves. What is left for the control plane is a certificate of its own, which it asks for as any workload does,
//! and to tell everybody whom to trust: the roots in a file that people keep, and the lists in the folder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sidegate_proxy::own::{self, Own};
use sidegate_proxy::settings::Identity;
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::certificate::Facts;
use super::directory::Directory;
use super::error::CaError;
use super::report::{Reason, Withdrawn};
use super::trust::{Extra, Files, assemble};
use super::{Serving, deny, keeper, lock, pass, pem, serving};
use crate::model::Trust;

/// Who signs, and whom to trust.
#[derive(Clone, Debug)]
pub struct ExternalOptions {
    /// Where the lists and the key of tokens are kept; made when it is missing.
    pub directory: PathBuf,
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// The roots that it signs under; watched.
    pub roots: PathBuf,
    /// Roots of other trust domains; watched.
    pub bundles: Vec<(String, PathBuf)>,
    /// How it is asked.
    pub identity: Identity,
}

/// The external authority as the control plane knows it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct External {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: Directory,
    secret: pass::Secret,
    options: ExternalOptions,
    trust: watch::Sender<Arc<Trust>>,
    shown: watch::Sender<Option<Arc<Serving>>>,
    /// Written by `run` and by commands.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: Files,
    extra: Extra,
    problems: Vec<String>,
    last_failure: Option<String>,
}

/// What people see of it in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalReport {
    /// Where it is.
    pub address: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The roots that are trusted, by SHA-256, and in how many seconds each expires.
    pub roots: Vec<(String, i64)>,
    /// The serial number of the control plane's own certificate; none when there is none in force, and then port 15012 lets nobody in.
    pub serial: Option<String>,
    /// In how many seconds it expires.
    pub expires_seconds: Option<i64>,
    /// Why the last attempt to get one failed.
    pub last_failure: Option<String>,
    /// How many identities are denied.
    pub denied_identities: usize,
    /// What is wrong with the files.
    pub problems: Vec<String>,
}

impl External {
    /// Opens the folder and reads the roots. Asks nobody yet.
    ///
    /// # Errors
    /// When the folder cannot be used or belongs to an authority of our own, or the roots cannot be read.
    pub fn open(options: ExternalOptions) -> Result<Self, CaError> {
        let directory = Directory::open(&options.directory)?;
        if directory.file(keeper::NAME).exists() {
            return Err(CaError::content(
                directory.path(),
                "it has a certificate authority of the control plane's own: give another folder with --ca-dir, or start without --ca-address",
            ));
        }
        let mut files = options.bundles.clone();
        files.push((options.trust_domain.clone(), options.roots.clone()));
        let mut files = Files::new(directory.path(), files);
        let (extra, problems) = files.read();
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        let (trust, _) = watch::channel(Arc::new(assemble(&options.trust_domain, Vec::new(), &extra)));
        let secret = pass::Secret::keep(&directory)?;
        let state = Mutex::new(State { files, extra, problems: Vec::new(), last_failure: None });
        let (shown, _) = watch::channel(None);
        let inner = Inner { directory, secret, options, trust, shown, state };
        inner.write_roots(&inner.roots());
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whom workloads trust, now and whenever it changes.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.inner.trust.subscribe()
    }

    /// The control plane's own certificate for as long as there is one; `run` gets and renews it.
    pub fn serving(&self) -> watch::Receiver<Option<Arc<Serving>>> {
        self.inner.shown.subscribe()
    }

    /// Keeps the certificate and follows the files, for as long as it is polled.
    pub async fn run(self) {
        let id = serving::identity(self.trust_domain()).ok();
        let settings = self.inner.options.identity.clone().known_as(id).under_external(true);
        let (mut own, keeping) = own::keep(settings);
        let looking = async {
            let mut told = String::new();
            loop {
                let inner = Arc::clone(&self.inner);
                // The files may be on a disk that is slow.
                let looked = tokio::task::spawn_blocking(move || inner.look()).await;
                if let Err(panic) = looked {
                    tracing::error!(%panic, "the files of trust could not be looked at");
                }
                let roots = self.inner.roots();
                if roots != told {
                    own.trust(&roots);
                    told = roots;
                }
                self.inner.show(&own);
                let _ = timeout(PACE, own.changed()).await;
            }
        };
        tokio::select! {
            () = keeping => {}
            () = looking => {}
        }
        // Neither ends; if one did, nobody would renew any more.
        sleep(Duration::MAX).await;
    }

    /// Denies an identity, whatever certificate it shows.
    ///
    /// # Errors
    /// When the list cannot be written, or is somebody else's.
    pub async fn deny(&self, identity: SpiffeId, reason: Reason) -> Result<(), CaError> {
        self.command(move |inner| {
            deny::add(&inner.directory, &inner.options.trust_domain, &identity, reason).map(drop)
        })
        .await
    }

    /// Denies it no more.
    ///
    /// # Errors
    /// When it is not denied, or the list cannot be written.
    pub async fn admit_again(&self, identity: SpiffeId) -> Result<(), CaError> {
        self.command(move |inner| deny::remove(&inner.directory, &identity)).await
    }

    async fn command(
        &self,
        work: impl FnOnce(&Inner) -> Result<(), CaError> + Send + 'static,
    ) -> Result<(), CaError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let state = lock(&inner.state);
            let done = work(&inner);
            drop(state);
            // What is missing from a list counts when it is missing twice; here nobody is in the middle of writing.
            inner.look();
            inner.look();
            done
        });
        done.await.unwrap_or_else(|panic| Err(CaError::Refused(format!("the command failed: {panic}"))))
    }

    /// Who is denied. What was revoked is on lists that its own PKI makes.
    pub fn withdrawn(&self) -> Withdrawn {
        Withdrawn { certificates: Vec::new(), identities: self.inner.state().extra.denied.clone() }
    }

    /// Everything that people want to know.
    pub fn report(&self) -> ExternalReport {
        let now = signed(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let shown = self.inner.shown.borrow().clone();
        let state = self.inner.state();
        let ders = pem::certificates(&self.inner.roots()).unwrap_or_default();
        let until =
            |der: &CertificateDer<'_>| Facts::read(der).map(|facts| signed(facts.until)).unwrap_or_default();
        ExternalReport {
            address: self.address(),
            trust_domain: self.trust_domain().to_owned(),
            roots: ders.iter().map(|der| (pem::fingerprint(der), until(der) - now)).collect(),
            serial: shown.as_ref().map(|shown| shown.serial.clone()),
            expires_seconds: shown.as_ref().map(|shown| signed(shown.until) - now),
            last_failure: state.last_failure.clone(),
            denied_identities: state.extra.denied.len(),
            problems: state.problems.clone(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.inner.options.identity.ca_address()
    }

    /// The file with its roots.
    pub fn root_file(&self) -> &Path {
        &self.inner.options.roots
    }

    pub(super) fn admits(&self, token: &str) -> bool {
        self.inner.secret.accepts(token)
    }

    pub(super) fn trust_domain(&self) -> &str {
        &self.inner.options.trust_domain
    }

    pub(super) fn directory(&self) -> &Path {
        self.inner.directory.path()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The own trust domain's roots in PEM form.
    fn roots(&self) -> String {
        let trust = Arc::clone(&self.trust.borrow());
        self.roots_of(&trust)
    }

    fn roots_of(&self, trust: &Trust) -> String {
        trust.bundles.get(&self.options.trust_domain).map(|roots| roots.concat()).unwrap_or_default()
    }

    /// Reads the files again; what cannot be read keeps its last good form in force.
    fn look(&self) {
        let mut state = self.state();
        let (extra, problems) = state.files.read();
        for problem in &problems {
            let text = problem.to_string();
            if !state.problems.contains(&text) {
                tracing::error!("trust: {text}");
            }
        }
        state.problems = problems.iter().map(ToString::to_string).collect();
        let changed = extra != state.extra;
        if changed {
            let trust = assemble(&self.options.trust_domain, Vec::new(), &extra);
            // Whoever hears of new roots finds them in the file.
            self.write_roots(&self.roots_of(&trust));
            self.trust.send_replace(Arc::new(trust));
            state.extra = extra;
            tracing::info!("whom to trust has changed");
        }
    }

    /// The public copy, where bootstraps look for it.
    fn write_roots(&self, roots: &str) {
        if let Err(error) = keeper::write_roots(&self.directory, &[roots.to_owned()]) {
            tracing::error!(%error, "the roots for bootstraps could not be written");
        }
    }

    /// Hands on what the keeper has.
    fn show(&self, own: &Own) {
        let certificate = own.certificate();
        let shown = certificate.and_then(|certificate| match read(&certificate) {
            Ok(serving) => Some(Arc::new(serving)),
            Err(error) => {
                tracing::error!(error, "the control plane's own certificate cannot be used");
                None
            }
        });
        let serial = |shown: &Option<Arc<Serving>>| shown.as_ref().map(|shown| shown.serial.clone());
        let turned = self.shown.send_if_modified(|current| {
            let differs = serial(current) != serial(&shown);
            if differs {
                current.clone_from(&shown);
            }
            differs
        });
        if turned {
            match &shown {
                Some(shown) => tracing::info!(
                    serial = shown.serial,
                    until = shown.until,
                    "port 15012 shows a new certificate"
                ),
                None => {
                    tracing::error!("the control plane's own certificate is over: port 15012 lets nobody in")
                }
            }
        }
        self.state().last_failure = own.last_failure();
    }
}

fn read(certificate: &own::Certificate) -> Result<Serving, String> {
    Ok(Serving {
        chain: pem::certificates(&certificate.chain)?,
        key: PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(|error| error.to_string())?,
        serial: certificate.serial.clone(),
        until: certificate.until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    })
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// How often the files are looked at.
const PACE: Duration = Duration::from_secs(2);
