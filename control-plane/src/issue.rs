//! The certificate service, `istio.v1.auth.IstioCertificateService`: a caller that proved who it is gets a certificate that says so.
//!
//! Who calls is found out before the message is read; what the message says beyond its public key changes nothing. Places are taken
//! for what they are for, the signing, and by nobody who is still to prove or to say something.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use sidegate_xds::ca::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, SERVICE};
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::authn::refusal::{Reason, Refusal};
use crate::authn::shares::Shares;
use crate::authn::{Authenticator, Caller, Peer, Session};
use crate::model::{View, account};

mod signer;

/// What signs: the certificate authority. It logs whom it refuses.
pub trait Authority: Send + Sync + 'static {
    /// Signs for a caller: PEM certificates, the leaf first, the root last.
    fn issue<'a>(
        &'a self,
        caller: &'a Caller,
        request: &'a str,
        validity: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, Refusal>> + Send + 'a>>;
}

/// The gRPC service. Clones share everything.
#[derive(Clone)]
pub struct CertificateService {
    authenticator: Authenticator,
    authority: Arc<dyn Authority>,
    views: Option<watch::Receiver<Arc<View>>>,
    places: Arc<Places>,
}

/// What bounds the work.
struct Places {
    /// Signatures under way.
    signing: Semaphore,
    /// Those of one identity; its others wait for them, and nobody else's.
    turns: Shares<SpiffeId>,
    /// Calls under way of one identity from one address.
    calls: Shares<(SpiffeId, Option<IpAddr>)>,
}

impl CertificateService {
    /// A service that lets in whom `authenticator` knows and hands their requests to `authority`.
    pub fn new(authenticator: Authenticator, authority: Arc<dyn Authority>) -> Self {
        let places = Places {
            signing: Semaphore::new(AT_ONCE),
            turns: Shares::new(OF_IDENTITY),
            calls: Shares::new(OF_CALLER),
        };
        Self { authenticator, authority, views: None, places: Arc::new(places) }
    }

    /// The same, where a certificate is renewed by itself alone only for an account that something in these views runs as.
    #[must_use]
    pub fn renewing(self, views: watch::Receiver<Arc<View>>) -> Self {
        Self { views: Some(views), ..self }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != CREATE_CERTIFICATE {
            return Status::unimplemented("the certificate service has one call: CreateCertificate")
                .into_http();
        }
        let peer = request.extensions().get::<Peer>();
        let session =
            self.authenticator.authenticate(request.headers(), peer, "a certificate request was").await;
        match session {
            Ok(session) => self.sign(session, request).await.unwrap_or_else(Status::into_http),
            Err(refusal) => Status::from(&refusal).into_http(),
        }
    }

    async fn sign(
        &self,
        session: Session,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let caller = (session.caller().identity.clone(), session.peer().map(|peer| peer.ip()));
        let _call = self.places.calls.of(caller).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("too many calls of this identity are under way: try again")
        })?;
        let request = read(request).await?;
        let signing = Signing { service: self.clone(), session: Arc::new(session) };
        let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_LIMIT);
        timeout(SIGNING_LIMIT, grpc.unary(signing, request))
            .await
            .map_err(|_| Status::unavailable("the certificate could not be signed in time: try again"))
    }

    /// Whether a caller may have another certificate. One that shows the last one alone may be whoever has stolen it: that is not to
    /// outlive the account.
    async fn entitle(&self, caller: &Caller) -> Result<(), Refusal> {
        let Some(views) = self.views.as_ref().filter(|_| !caller.token) else { return Ok(()) };
        let mut views = views.clone();
        let known = timeout(READY_LIMIT, views.wait_for(|view| view.generation > 0)).await;
        let (namespace, name) = caller.identity.namespace_and_account().unwrap_or_default();
        match known.ok().and_then(Result::ok) {
            Some(view) if account::is_used(&view, namespace, name) => Ok(()),
            Some(_) => Err(Refusal::new(
                Reason::AccountUnused,
                format!(
                    "no Pod and no Gateway runs as {namespace}/{name}: its certificate is renewed only with a token beside it"
                ),
            )),
            None => Err(Refusal::new(
                Reason::NotReady,
                "the control plane has not read its objects yet: try again",
            )),
        }
    }
}

/// The request with its whole message, which is read before anything is taken that others could need.
async fn read(request: http::Request<Body>) -> Result<http::Request<Body>, Status> {
    let (parts, body) = request.into_parts();
    let message = timeout(BODY_LIMIT, Limited::new(body, REQUEST_LIMIT + PREFIX).collect())
        .await
        .map_err(|_| Status::deadline_exceeded("the request was not read in time"))?
        .map_err(|_| Status::out_of_range("the request broke off, or is too long"))?;
    Ok(http::Request::from_parts(parts, Body::new(Full::new(message.to_bytes()))))
}

impl NamedService for CertificateService {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for CertificateService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// One call of a caller that is known.
struct Signing {
    service: CertificateService,
    session: Arc<Session>,
}

impl UnaryService<CertificateRequest> for Signing {
    type Response = CertificateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CertificateResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let (service, session) = (self.service.clone(), Arc::clone(&self.session));
        Box::pin(async move {
            let caller = session.caller();
            let refusals = service.authenticator.refusals();
            let refuse = |refusal: Refusal| {
                let what = format!("a certificate for {} was", caller.identity);
                refusals.note(&refusal, session.peer(), &what);
                Status::from(&refusal)
            };
            let validity = check(request.get_ref(), &caller.identity).map_err(refuse)?;
            service.entitle(caller).await.map_err(refuse)?;
            // No semaphore is ever closed.
            let turn = service.places.turns.of(caller.identity.clone()).acquire_owned().await;
            let place = service.places.signing.acquire().await;
            let (_turn, _place) = (turn.map_err(closed)?, place.map_err(closed)?);
            let signed = service.authority.issue(caller, &request.get_ref().csr, validity).await;
            let cert_chain = signed.map_err(|refusal| {
                refusals.tally(refusal.reason);
                Status::from(&refusal)
            })?;
            tracing::debug!(identity = %caller.identity, "a certificate was given");
            Ok(Response::new(CertificateResponse { cert_chain }))
        })
    }
}

fn closed(error: tokio::sync::AcquireError) -> Status {
    Status::internal(error.to_string())
}

/// Refuses what asks for somebody else; gives the life that is wanted.
fn check(request: &CertificateRequest, identity: &SpiffeId) -> Result<Option<Duration>, Refusal> {
    let hints = request.metadata.iter().flat_map(|metadata| &metadata.fields);
    for (name, value) in hints {
        let says_nothing = match &value.kind {
            None | Some(Kind::NullValue(_)) => true,
            Some(Kind::StringValue(text)) => text.is_empty(),
            _ => false,
        };
        if name.eq_ignore_ascii_case(IMPERSONATED) && !says_nothing {
            return Err(Refusal::new(
                Reason::Impersonation,
                format!("{identity} asked for a certificate in another name ({IMPERSONATED}): nobody may"),
            ));
        }
    }
    match u64::try_from(request.validity_duration) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Refusal::new(Reason::Request, "validity_duration is negative")),
    }
}

/// The hint by which Istio's node agents ask for others.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// How large a request may be: a signing request has up to 2 KiB.
const REQUEST_LIMIT: usize = 64 * 1024;

/// What gRPC puts in front of a message.
const PREFIX: usize = 5;

/// How long the message may take, and what is done with it.
const BODY_LIMIT: Duration = Duration::from_secs(2);
const SIGNING_LIMIT: Duration = Duration::from_secs(10);

/// How long a renewal waits for the first full read.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// How many are signed at once, for everybody and for one identity.
const AT_ONCE: usize = 64;
const OF_IDENTITY: usize = 8;

/// How many calls one identity may have under way from one address: a hundred Pods may start at once, on one machine.
const OF_CALLER: usize = 128;

#[cfg(test)]
mod tests {
    use sidegate_xds::google::protobuf::{Struct, Value};

    use super::*;

    #[test]
    fn nobody_is_signed_for_in_another_name() {
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let request = |name: &str, kind: Option<Kind>, seconds| CertificateRequest {
            csr: String::new(),
            validity_duration: seconds,
            metadata: Some(Struct { fields: [(name.to_owned(), Value { kind })].into_iter().collect() }),
        };
        let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
        for (name, kind) in [
            (IMPERSONATED, text("spiffe://cluster.local/ns/shop/sa/db")),
            (IMPERSONATED, text("spiffe://cluster.local/ns/shop/sa/web")),
            (IMPERSONATED, Some(Kind::NumberValue(1.0))),
            ("impersonatedidentity", text("x")),
        ] {
            let refusal = check(&request(name, kind, 0), &identity).unwrap_err();
            assert_eq!(refusal.reason, Reason::Impersonation);
        }
        assert_eq!(check(&request(IMPERSONATED, text(""), 0), &identity), Ok(None));
        assert_eq!(
            check(&request("CertSigner", text("x"), 60), &identity),
            Ok(Some(Duration::from_secs(60)))
        );
        assert_eq!(check(&request("a", None, -1), &identity).unwrap_err().reason, Reason::Request);
    }
}
