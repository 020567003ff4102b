//! One ADS stream: reads requests, lets [`Stream`] decide, writes responses, watches the clock.
//!
//! One task does it all and never waits for the writer alone, so a client that is itself blocked in sending cannot
//! deadlock with it. A response is made only when there is room for it: a slow client finds the newest state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream as Messages, StreamExt};
use sidegate_xds::envoy::config::core::v3::ControlPlane;
use sidegate_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::ResourceType;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use super::admission::{self, Admission, Applicant};
use super::metrics::{CauseLabel, Metrics, TypeLabel};
use super::node;
use super::places::Place;
use super::stream::{Push, Request, Stream};
use super::streams::{Streams, Ticket};
use crate::model::shorten;
use crate::snapshot::{Snapshot, SnapshotReader, Snapshots};

/// Where a stream's responses go.
pub(super) type ResponseSender = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Where a stream's requests come from.
pub(super) trait Requests: Messages<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin {}

impl<S: Messages<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin> Requests for S {}

/// What every stream needs of its surroundings.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) snapshots: Snapshots,
    pub(super) streams: Streams,
    pub(super) metrics: Metrics,
    /// Turns true when the process ends.
    pub(super) ending: watch::Receiver<bool>,
}

/// Serves one stream until either side ends it. `applicant` is its caller, where callers must be known; `_place` is the stream's place among those that may be open.
pub(super) async fn serve(
    surroundings: Surroundings,
    applicant: Option<Applicant>,
    mut inbound: impl Requests,
    outbound: ResponseSender,
    _place: Place,
) {
    let metrics = surroundings.metrics.clone();
    metrics.streams.inc();
    if let Err(status) = converse(surroundings, applicant, &mut inbound, &outbound).await {
        tracing::debug!(code = ?status.code(), reason = status.message(), "stream ended");
        // The client may be gone or not reading; then there is nobody to tell.
        let _ = timeout(FAREWELL_LIMIT, outbound.send(Err(status))).await;
    }
    metrics.streams.dec();
}

async fn converse(
    mut surroundings: Surroundings,
    applicant: Option<Applicant>,
    inbound: &mut impl Requests,
    outbound: &ResponseSender,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = timeout(FIRST_REQUEST_LIMIT, inbound.next()) => {
            first.map_err(|_| Status::deadline_exceeded("no request came on the stream"))?
        }
        _ = surroundings.ending.wait_for(|ending| *ending) => return Ok(()),
    };
    let Some(first) = first.transpose()? else { return Ok(()) };
    let node = node::identify(first.node.as_ref(), applicant.is_some()).inspect_err(|status| {
        surroundings.metrics.refused_streams.get_or_create(&CauseLabel { cause: "node" }).inc();
        tracing::warn!(reason = status.message(), "a stream was refused");
    })?;
    let admission = match applicant {
        Some(applicant) => Some(applicant.admit(&node).await.map_err(|refusal| Status::from(&refusal))?),
        None => None,
    };
    tracing::info!(node = node.id, "proxy connected: {}", node.title());
    let now = Instant::now();
    let snapshots = surroundings.snapshots.follow(&node.scope);
    let (foreign, secure) = (node.is_foreign(), node.scope.is_secure());
    let id = node.id.clone();
    let caller = admission.as_ref().map(|admission| admission.caller().clone());
    let ticket = surroundings.streams.enter(node, caller, now);
    let stream = Stream::new(now, foreign, ticket.recall());
    let stream = if secure { stream.secured() } else { stream };
    let mut conversation = Conversation {
        stream,
        ticket,
        id,
        metrics: surroundings.metrics,
        snapshots,
        admission,
        connected: now,
        unapplied: VecDeque::new(),
        pushed: false,
    };
    conversation.take_request(first)?;
    let result = conversation.run(inbound, outbound, &mut surroundings.ending).await;
    tracing::info!(node = conversation.id, "proxy disconnected");
    result
}

/// The state of a stream that has introduced itself.
struct Conversation {
    stream: Stream,
    ticket: Ticket,
    id: String,
    metrics: Metrics,
    snapshots: SnapshotReader,
    /// Why the client may have what it is served; none on the plaintext port.
    admission: Option<Admission>,
    connected: Instant,
    /// Generations that the client does not have yet, and when their changes were seen.
    unapplied: VecDeque<(u64, Instant)>,
    /// Whether anything was sent since the client last had everything.
    pushed: bool,
}

impl Conversation {
    async fn run(
        &mut self,
        inbound: &mut impl Requests,
        outbound: &ResponseSender,
        ending: &mut watch::Receiver<bool>,
    ) -> Result<(), Status> {
        self.take_snapshot();
        let mut full_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let full = self.push_all(outbound, now);
            full_since = if full { Some(full_since.unwrap_or(now)) } else { None };
            self.report(now);
            let stalled_at = full_since.map(|since| since + SEND_LIMIT);
            let wake =
                self.stream.deadline(now).into_iter().chain(stalled_at).min().unwrap_or(now + IDLE_WAKE);
            tokio::select! {
                request = inbound.next() => match request {
                    Some(request) => self.take_request(request?)?,
                    None => return Ok(()),
                },
                changed = self.snapshots.changed() => {
                    changed.map_err(|_| Status::unavailable("the control plane is ending"))?;
                    self.take_snapshot();
                }
                room = outbound.reserve(), if full => {
                    room.map_err(|_| Status::cancelled("the client is gone"))?;
                    full_since = None;
                }
                refusal = admission::lapsed(self.admission.as_mut()) => return Err(Status::from(&refusal)),
                () = sleep_until(wake) => {
                    if stalled_at.is_some_and(|at| Instant::now() >= at) {
                        self.metrics.refused_streams.get_or_create(&CauseLabel { cause: "stalled" }).inc();
                        tracing::warn!(node = self.id, "the proxy has not read for {SEND_LIMIT:?}; its stream is cut");
                        return Err(Status::deadline_exceeded("responses were not read for too long"));
                    }
                }
                _ = ending.wait_for(|ending| *ending) => return Ok(()),
            }
        }
    }

    /// Sends what may be sent now; says whether the way out is full.
    fn push_all(&mut self, outbound: &ResponseSender, now: Instant) -> bool {
        loop {
            let Ok(room) = outbound.try_reserve() else { return true };
            let Some(push) = self.stream.next(now) else { return false };
            let label = TypeLabel::from(push.kind);
            let bytes: usize = push.resources.iter().map(|(_, resource)| resource.body.len()).sum();
            self.metrics.pushes.get_or_create(&label).inc();
            self.metrics.push_bytes.get_or_create(&label).inc_by(bytes as u64);
            tracing::debug!(
                node = self.id,
                kind = push.kind.noun(),
                resources = push.resources.len(),
                removed = push.removed.len(),
                bytes,
                "pushed"
            );
            self.ticket.remember(push.kind, push.resources.iter().map(|(name, _)| name));
            self.pushed = true;
            room.send(Ok(response(push)));
        }
    }

    fn take_request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if request.type_url == ResourceType::Secret.type_url() {
            self.note_secrets_of_others(&request.resource_names_subscribe);
        }
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            // Envoy asks for what its bootstrap says (runtime, scoped routes, …). We have none of it, and an error would
            // cost it the types that we do have.
            tracing::debug!(
                node = self.id,
                type_url = request.type_url,
                "a type that is not served was asked for"
            );
            return Ok(());
        };
        let error = request.error_detail.map(|status| shorten(status.message, LONGEST_REJECTION));
        let request = Request {
            kind,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            nonce: request.response_nonce,
            error,
        };
        let outcome = self
            .stream
            .on_request(request)
            .map_err(|too_many| Status::resource_exhausted(too_many.to_string()))?;
        self.ticket.forget(kind, &outcome.removed);
        if let Some(text) = outcome.refused {
            self.metrics.rejections.get_or_create(&TypeLabel::from(kind)).inc();
            tracing::warn!(node = self.id, kind = kind.noun(), reason = text, "the proxy refused a response");
        }
        Ok(())
    }

    /// A scope holds its own secrets only, so that a name beyond it is answered with nothing. Who tries is worth knowing.
    fn note_secrets_of_others(&self, names: &[String]) {
        let latest = self.snapshots.borrow().clone();
        let own = |name: &String| {
            latest.as_ref().is_some_and(|one| one.resources.of(ResourceType::Secret).contains_key(name))
        };
        let others = names.iter().filter(|name| name.starts_with(admission::SECRET_OF_OBJECT) && !own(name));
        for name in others {
            admission::note_secret(self.admission.as_ref(), &self.id, name);
        }
    }

    /// Before the first snapshot exists nothing is sent: no proxy ever sees an empty world by mistake.
    fn take_snapshot(&mut self) {
        let latest: Option<Arc<Snapshot>> = self.snapshots.borrow_and_update().clone();
        if let Some(snapshot) = latest {
            if self.unapplied.len() >= UNAPPLIED_LIMIT {
                self.unapplied.pop_front();
            }
            // What changed before the proxy came does not count as its delay.
            self.unapplied.push_back((snapshot.generation, snapshot.since.max(self.connected)));
            self.stream.on_snapshot(snapshot);
        }
    }

    fn report(&mut self, now: Instant) {
        let applied = self.stream.applied_generation();
        while let Some((_, since)) = self.unapplied.front().copied().filter(|(number, _)| *number <= applied)
        {
            self.unapplied.pop_front();
            if self.pushed {
                self.metrics.convergence.observe(now.saturating_duration_since(since).as_secs_f64());
            }
        }
        self.pushed &= !self.unapplied.is_empty();
        self.ticket.report(applied, self.stream.report(now));
    }
}

fn response(push: Push) -> DeltaDiscoveryResponse {
    let type_url = push.kind.type_url();
    let resources = push.resources.into_iter().map(|(name, resource)| Resource {
        name,
        version: resource.version.as_ref().to_owned(),
        resource: Some(Any { type_url: type_url.to_owned(), value: resource.body.to_vec() }),
        ..Resource::default()
    });
    DeltaDiscoveryResponse {
        system_version_info: push.version.as_ref().to_owned(),
        resources: resources.collect(),
        type_url: type_url.to_owned(),
        removed_resources: push.removed,
        nonce: push.nonce,
        control_plane: Some(ControlPlane {
            identifier: concat!("sidegate ", env!("CARGO_PKG_VERSION")).to_owned(),
        }),
        ..DeltaDiscoveryResponse::default()
    }
}

/// How long a stream may be open without a word.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How long responses may wait for a client that does not read.
const SEND_LIMIT: Duration = Duration::from_secs(60);

/// How long the reason of an end may take to get out.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// Without any deadline, the next look at the clock.
const IDLE_WAKE: Duration = Duration::from_secs(3600);

/// How much of a proxy's words on what it refuses is kept and logged, in bytes.
const LONGEST_REJECTION: usize = 4096;

/// How many generations wait for their convergence to be measured.
const UNAPPLIED_LIMIT: usize = 64;
