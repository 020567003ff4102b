//! A control plane by script: delta ADS with one set of resources for everybody, and a record of what was acknowledged.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use sidegate_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use sidegate_xds::google::protobuf::Any;
use tokio::sync::watch;

use super::{Reader, frame};

/// The method's path.
pub(super) const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Resources by type URL and name.
type Resources = BTreeMap<(String, String), Any>;

/// A control plane.
#[derive(Debug)]
pub struct Plane {
    resources: watch::Sender<Resources>,
    seen: Mutex<Vec<Stream>>,
}

/// A stream as the control plane saw it.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The token that came with it.
    pub token: Option<String>,
    /// Whether the client showed a certificate.
    pub certificate: bool,
    /// Every request on it.
    pub requests: Vec<DeltaDiscoveryRequest>,
}

impl Default for Plane {
    fn default() -> Self {
        Self { resources: watch::Sender::new(Resources::new()), seen: Mutex::default() }
    }
}

impl Plane {
    /// Puts a resource in force, for those who are connected too.
    pub fn put(&self, name: &str, resource: Any) {
        let key = (resource.type_url.clone(), name.to_owned());
        self.resources.send_modify(|resources| drop(resources.insert(key, resource)));
    }

    /// Every stream so far.
    pub fn streams(&self) -> Vec<Stream> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many responses of the type were acknowledged; the texts of those that were not.
    pub fn verdicts(&self, kind: &str) -> (usize, Vec<String>) {
        let streams = self.streams();
        let requests = streams.iter().flat_map(|stream| &stream.requests);
        let answers =
            requests.filter(|request| request.type_url.ends_with(kind) && !request.response_nonce.is_empty());
        let (mut good, mut bad) = (0, Vec::new());
        for answer in answers {
            match &answer.error_detail {
                None => good += 1,
                Some(status) => bad.push(status.message.clone()),
            }
        }
        (good, bad)
    }

    pub(super) async fn serve(
        &self,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        token: Option<String>,
        certificate: bool,
    ) {
        let index = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(Stream { token, certificate, requests: Vec::new() });
            seen.len() - 1
        };
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let Ok(mut stream) = respond.send_response(head, false) else { return };
        let mut reader = Reader::new(request.into_body());
        let mut resources = self.resources.subscribe();
        // What the client asked for: of a type, all or these; and what it has.
        let mut asked: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut sent = Resources::new();
        let mut nonce = 0;
        loop {
            tokio::select! {
                request = reader.next::<DeltaDiscoveryRequest>() => {
                    let Some(request) = request else { return };
                    let names = asked.entry(request.type_url.clone()).or_default();
                    names.extend(request.resource_names_subscribe.iter().cloned());
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner)[index].requests.push(request);
                }
                Ok(()) = resources.changed() => {}
            }
            let now = resources.borrow_and_update().clone();
            for (kind, names) in &asked {
                let wanted = |(key, any): &(&(String, String), &Any)| {
                    key.0 == *kind
                        && (names.is_empty() || names.contains(&key.1))
                        && sent.get(*key) != Some(any)
                };
                let new: Resources =
                    now.iter().filter(wanted).map(|(key, any)| (key.clone(), any.clone())).collect();
                let first = !sent.keys().any(|(of, name)| of == kind && name.is_empty());
                if new.is_empty() && !first {
                    continue;
                }
                // Noted under no name: the first answer of the type, be it empty.
                sent.insert((kind.clone(), String::new()), Any::default());
                nonce += 1;
                let resource = |((_, name), any): (&(String, String), &Any)| Resource {
                    name: name.clone(),
                    version: nonce.to_string(),
                    resource: Some(any.clone()),
                    ..Resource::default()
                };
                let response = DeltaDiscoveryResponse {
                    type_url: kind.clone(),
                    nonce: nonce.to_string(),
                    resources: new.iter().map(resource).collect(),
                    ..DeltaDiscoveryResponse::default()
                };
                sent.extend(new);
                if stream.send_data(frame(&response), false).is_err() {
                    return;
                }
            }
        }
    }
}
