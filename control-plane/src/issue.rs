//! The certificate service, `istio.v1.auth.IstioCertificateService`: a caller that proved who it is gets a certificate that says so.
//!
//! Who calls is found out before the message is read; what the message says beyond its public key changes nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidegate_xds::ca::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, SERVICE};
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::spiffe::SpiffeId;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::authn::refusal::{Reason, Refusal};
use crate::authn::{Authenticator, Caller, Peer, Session};

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
    places: Arc<Semaphore>,
}

impl CertificateService {
    /// A service that lets in whom `authenticator` knows and hands their requests to `authority`.
    pub fn new(authenticator: Authenticator, authority: Arc<dyn Authority>) -> Self {
        Self { authenticator, authority, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != CREATE_CERTIFICATE {
            return Status::unimplemented("the certificate service has one call: CreateCertificate")
                .into_http();
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Status::resource_exhausted("too many certificates are being signed: try again")
                .into_http();
        };
        let peer = request.extensions().get::<Peer>();
        let session =
            self.authenticator.authenticate(request.headers(), peer, "a certificate request was").await;
        match session {
            Ok(session) => self.sign(session, request).await,
            Err(refusal) => Status::from(&refusal).into_http(),
        }
    }
}

impl CertificateService {
    async fn sign(&self, session: Session, request: http::Request<Body>) -> http::Response<Body> {
        let Ok(_place) = self.places.try_acquire() else {
            return Status::resource_exhausted("too many certificates are being signed: try again")
                .into_http();
        };
        let signing = Signing { service: self.clone(), session: Arc::new(session) };
        let codec = ProstCodec::<CertificateResponse, CertificateRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_LIMIT);
        match tokio::time::timeout(CALL_LIMIT, grpc.unary(signing, request)).await {
            Ok(response) => response,
            Err(_) => Status::deadline_exceeded("the request was not read in time").into_http(),
        }
    }
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
            let validity = check(request.get_ref(), &caller.identity).map_err(|refusal| {
                let what = format!("a certificate for {} was", caller.identity);
                refusals.note(&refusal, session.peer(), &what);
                Status::from(&refusal)
            })?;
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

/// How long one call may take, its message included.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How many calls at once.
const AT_ONCE: usize = 64;

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
