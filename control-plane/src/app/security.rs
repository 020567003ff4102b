//! The authority and the TLS port: opened together, because neither is of use without the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::authn::Authenticator;
use crate::authn::leaf::{self, Anchors, AnchorsError};
use crate::authn::refusal::Refusals;
use crate::authn::review::{ReviewSettings, Reviewer, ReviewerError};
use crate::authn::tokens::{KeyError, TokenKey};
use crate::ca::{self, CaError, Certifier, IssueError, ServerNames};
use crate::issue::{self, CertificateService};
use crate::model::View;
use crate::secure::{self, Door};
use crate::xds::{self, Service};

/// Whose word counts: the authority that signs, and who may vouch for tokens that are not our own.
#[derive(Debug)]
pub struct TrustSettings {
    /// The certificate authority.
    pub authority: ca::Settings,
    /// The Kubernetes API server.
    pub review: Option<ReviewSettings>,
    /// How many xDS streams one identity may have.
    pub streams_per_identity: usize,
}

/// Why there is no TLS port.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The address.
    #[error("{}", xds::describe_bind("--secure-xds-address", .0, .1))]
    Bind(SocketAddr, io::Error),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The port's own certificate.
    #[error("the control plane's own certificate: {0}")]
    Own(#[from] IssueError),
    /// The key of tokens.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The roots.
    #[error(transparent)]
    Anchors(#[from] AnchorsError),
    /// The API server.
    #[error(transparent)]
    Reviewer(#[from] ReviewerError),
}

/// Everything that the TLS port needs.
pub(super) struct Security {
    pub(super) certifier: Certifier,
    pub(super) listener: TcpListener,
    pub(super) refusals: Refusals,
    authenticator: Authenticator,
    streams_per_identity: usize,
    anchors: watch::Receiver<Arc<Anchors>>,
    shown: secure::Shown,
}

impl Security {
    /// Takes the address, opens the authority, and gets the port's own certificate.
    pub(super) async fn open(address: SocketAddr, settings: TrustSettings) -> Result<Self, SecurityError> {
        let failed = |reason| SecurityError::Bind(address, reason);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let reviewer = settings.review.as_ref().map(Reviewer::new).transpose()?;
        let streams_per_identity = settings.streams_per_identity;
        let certifier = Certifier::open(settings.authority)?;
        let tokens = TokenKey::open(certifier.directory())?;
        let anchors = leaf::follow(certifier.trust())?;
        // An address that means "all of them" is nobody's to connect to.
        let addresses = Some(bound.ip()).filter(|ip| !ip.is_unspecified()).into_iter().collect();
        let shown = match &certifier {
            Certifier::Own(authority) => {
                always(authority.serving(ServerNames { dns: Vec::new(), addresses }).await?)
            }
            Certifier::External(external) => external.serving(),
        };
        let refusals = Refusals::default();
        let authenticator = Authenticator::new(tokens, reviewer, anchors.clone(), refusals.clone());
        Ok(Self { certifier, listener, refusals, authenticator, streams_per_identity, anchors, shown })
    }

    /// Serves both services on the port, for as long as it is polled. `files`: how many the process may open.
    pub(super) fn serve(
        self,
        discovery: &Service,
        views: watch::Receiver<Arc<View>>,
        ending: watch::Receiver<bool>,
        files: usize,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
        let discovery =
            discovery.secured(self.authenticator.clone(), views.clone(), self.streams_per_identity);
        let authority: Arc<dyn issue::Authority> = match self.certifier {
            Certifier::Own(authority) => Arc::new(authority),
            Certifier::External(external) => Arc::new(external),
        };
        let certificates = CertificateService::new(self.authenticator, authority).renewing(views);
        let door = Door::new(self.shown, self.anchors, self.refusals)
            .within(files.saturating_sub(xds::plain_share_of(files)));
        secure::serve(self.listener, door, discovery, certificates, ending)
    }
}

/// A certificate that is there from the beginning.
fn always(mut certificate: watch::Receiver<Arc<ca::Serving>>) -> secure::Shown {
    let (sender, shown) = watch::channel(Some(certificate.borrow_and_update().clone()));
    tokio::spawn(async move {
        while certificate.changed().await.is_ok() {
            sender.send_replace(Some(certificate.borrow_and_update().clone()));
        }
    });
    shown
}
