//! The control plane's own certificate, with which it serves proxies: signed like any other, renewed before half of it is over.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::watch;

use super::error::{CaError, IssueError};
use super::give::Grant;
use super::{Inner, lock, pem};

/// Under which names the control plane is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names beside `sidegate.sidegate-system.svc` and `localhost`.
    pub dns: Vec<String>,
    /// Addresses that it is bound to.
    pub addresses: Vec<IpAddr>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Serving {
    /// The leaf and what stands between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key; it is nowhere but in this process.
    pub key: PrivateKeyDer<'static>,
    /// The leaf's serial number.
    pub serial: String,
    /// When it expires, in seconds since 1970.
    pub until: u64,
}

/// What was asked for, and what was given.
#[derive(Debug)]
pub(super) struct Served {
    names: ServerNames,
    sender: watch::Sender<Arc<Serving>>,
    root: String,
    renew_at: u64,
}

impl Inner {
    /// Gives the first one, and remembers to renew it.
    pub(super) fn serve_as(&self, names: ServerNames) -> Result<watch::Receiver<Arc<Serving>>, IssueError> {
        let mut served = lock(&self.served);
        let (serving, root, renew_at) = self.own_certificate(&names, None)?;
        let (sender, receiver) = watch::channel(Arc::new(serving));
        *served = Some(Served { names, sender, root, renew_at });
        Ok(receiver)
    }

    /// Renews it when half of it is over, or when another root is to sign it.
    pub(super) fn renew_served(&self) {
        let mut served = lock(&self.served);
        let Some(served) = served.as_mut() else { return };
        let root = self.state().own_signer.fingerprint.clone();
        if served.root == root && self.options.clock.now() < served.renew_at {
            return;
        }
        let earlier = served.sender.borrow().serial.clone();
        match self.own_certificate(&served.names, Some(&earlier)) {
            Ok((serving, root, renew_at)) => {
                served.sender.send_replace(Arc::new(serving));
                (served.root, served.renew_at) = (root, renew_at);
            }
            Err(error) => {
                tracing::error!(%error, "the control plane's own certificate could not be renewed; it is tried again");
            }
        }
    }

    /// Renews it now when it is the one with this serial number.
    pub(super) fn replace_served(&self, serial: &str) {
        if let Some(served) =
            lock(&self.served).as_mut().filter(|served| served.sender.borrow().serial == serial)
        {
            served.renew_at = 0;
        }
        self.renew_served();
    }

    fn own_certificate(
        &self,
        names: &ServerNames,
        earlier: Option<&str>,
    ) -> Result<(Serving, String, u64), IssueError> {
        let broken = |_| IssueError::Unavailable("its own key cannot be made");
        let key = KeyPair::generate().map_err(broken)?;
        let identity = identity(&self.options.trust_domain)
            .map_err(|_| IssueError::Unavailable("its own id cannot be made"))?;
        let mut dns = vec![SERVER_NAME.to_owned(), "localhost".to_owned()];
        for name in &names.dns {
            if !dns.contains(name) {
                dns.push(name.clone());
            }
        }
        let grant = Grant {
            identity: identity.as_str(),
            dns: &dns,
            addresses: &names.addresses,
            ttl: None,
            proof: "the control plane's own".to_owned(),
            supersedes: earlier,
            own: true,
        };
        let issued = self.sign(&grant, &key)?;
        let below_root = &issued.chain[..issued.chain.len() - 1];
        let chain = pem::certificates(&below_root.concat())
            .map_err(|_| IssueError::Unavailable("its own certificate cannot be read"))?;
        let now = self.options.clock.now();
        tracing::info!(
            serial = issued.serial,
            until = issued.until,
            root = issued.root,
            "renewed the control plane's own certificate"
        );
        let serving = Serving {
            chain,
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            serial: issued.serial,
            until: issued.until,
        };
        Ok((serving, issued.root, now + issued.until.saturating_sub(now) / 2))
    }
}

/// Who the control plane is.
pub(super) fn identity(trust_domain: &str) -> Result<SpiffeId, CaError> {
    SpiffeId::workload(trust_domain, NAMESPACE, ACCOUNT).map_err(|error| CaError::Refused(error.to_string()))
}

/// The name by which proxies expect the control plane, and who it is.
const SERVER_NAME: &str = "sidegate.sidegate-system.svc";
const NAMESPACE: &str = "sidegate-system";
const ACCOUNT: &str = "sidegate";
