//! The secret discovery service over the agent's socket.

use std::pin::Pin;
use std::sync::Arc;

use sidegate_xds::envoy::service::discovery::v3 as wire;
use sidegate_xds::envoy::service::secret::v3::secret_discovery_service_server as service;
use sidegate_xds::google::rpc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::super::{Handle, Material};
use super::socket::Socket;
use super::subscriber::Subscriber;

/// Serves until it cannot any more: why.
pub(super) async fn serve(socket: &Socket, handle: Handle) -> String {
    let listener = match socket.listener() {
        Ok(listener) => listener,
        Err(error) => return error.to_string(),
    };
    let secrets = Secrets { handle, places: Arc::new(Semaphore::new(STREAMS)) };
    let service =
        service::SecretDiscoveryServiceServer::new(secrets).max_decoding_message_size(LARGEST_REQUEST);
    let serving = Server::builder()
        .max_concurrent_streams(u32::try_from(STREAMS).ok())
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    match serving.await {
        Ok(()) => "the server has ended".to_owned(),
        Err(error) => super::super::in_one_line(&error),
    }
}

#[derive(Debug)]
struct Secrets {
    handle: Handle,
    /// One for each stream.
    places: Arc<Semaphore>,
}

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

impl Secrets {
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| Status::resource_exhausted(format!("{STREAMS} streams are open")))
    }
}

#[tonic::async_trait]
impl service::SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Answers<wire::DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<wire::DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<wire::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let (sender, answers) = mpsc::channel(1);
        let ask = |subscriber: &mut Subscriber, request: wire::DeltaDiscoveryRequest| {
            complain(request.error_detail.as_ref());
            subscriber.ask_delta(&request);
        };
        let conversation = Conversation { handle: self.handle.clone(), _place: self.place()? };
        tokio::spawn(conversation.run(request.into_inner(), sender, ask, Subscriber::answer_delta));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<wire::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, answers) = mpsc::channel(1);
        let ask = |subscriber: &mut Subscriber, request: wire::DiscoveryRequest| {
            complain(request.error_detail.as_ref());
            subscriber.ask(&request);
        };
        let conversation = Conversation { handle: self.handle.clone(), _place: self.place()? };
        tokio::spawn(conversation.run(request.into_inner(), sender, ask, Subscriber::answer));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn fetch_secrets(
        &self,
        request: Request<wire::DiscoveryRequest>,
    ) -> Result<Response<wire::DiscoveryResponse>, Status> {
        let mut subscriber = Subscriber::default();
        subscriber.ask(&wire::DiscoveryRequest { response_nonce: String::new(), ..request.into_inner() });
        let answer = subscriber.answer(&self.handle.material());
        answer.map(Response::new).ok_or_else(|| Status::unavailable("there is no certificate yet"))
    }
}

fn complain(error: Option<&rpc::Status>) {
    if let Some(error) = error {
        tracing::warn!(
            message = error.message.escape_debug().to_string(),
            "a secret was refused by its reader"
        );
    }
}

/// One stream.
struct Conversation {
    handle: Handle,
    _place: OwnedSemaphorePermit,
}

impl Conversation {
    async fn run<Q, A>(
        mut self,
        mut requests: Streaming<Q>,
        answers: mpsc::Sender<Result<A, Status>>,
        ask: impl Fn(&mut Subscriber, Q),
        answer: impl Fn(&mut Subscriber, &Material) -> Option<A>,
    ) {
        let mut subscriber = Subscriber::default();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => ask(&mut subscriber, request),
                    _ => return,
                },
                () = self.handle.changed() => {}
            }
            let material = self.handle.material();
            if let Some(answer) = answer(&mut subscriber, &material)
                && answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
        }
    }
}

/// Envoy opens one for each secret that it is configured with.
const STREAMS: usize = 1_024;

/// Names, a node, and what was wrong.
const LARGEST_REQUEST: usize = 1 << 20;
