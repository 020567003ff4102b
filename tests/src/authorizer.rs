//! An external authorization service that speaks gRPC, by another implementation than the proxy's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sidegate_xds::envoy::service::auth::v3::attribute_context::HttpRequest;
use sidegate_xds::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use sidegate_xds::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::sandbox;

type Script = Arc<dyn Fn(&AttributeContext) -> Result<CheckResponse, Status> + Send + Sync>;
type Asked = Arc<Mutex<Vec<AttributeContext>>>;

/// A running service. It ends with its value.
#[derive(Debug)]
pub struct Authorizer {
    address: SocketAddr,
    asked: Asked,
    task: JoinHandle<()>,
}

impl Authorizer {
    /// Answers by script.
    ///
    /// # Panics
    /// When there is no address for it.
    pub async fn start(
        script: impl Fn(&AttributeContext) -> Result<CheckResponse, Status> + Send + Sync + 'static,
    ) -> Self {
        let address = sandbox::address();
        let listener = tokio::net::TcpListener::bind(address).await.expect("an address for a service");
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let asked = Asked::default();
        let service = AuthorizationServer::new(Service { script: Arc::new(script), asked: asked.clone() });
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            drop(server.serve_with_incoming(incoming).await);
        });
        Self { address, asked, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked.
    pub fn count(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What it was asked last.
    ///
    /// # Panics
    /// When it was asked nothing.
    pub fn last(&self) -> AttributeContext {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.last().cloned().expect("a question")
    }

    /// The request that it was asked about last.
    pub fn last_request(&self) -> HttpRequest {
        self.last().request.and_then(|request| request.http).unwrap_or_default()
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    script: Script,
    asked: Asked,
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let answer = (self.script)(&attributes);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(attributes);
        answer.map(Response::new)
    }
}
