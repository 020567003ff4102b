//! One delta ADS stream: connect, read, have it compiled, acknowledge; and begin again when it breaks.
//!
//! The client is the config staircase's one task. It owns the compiler, so everything that changes the configuration passes
//! here, one after the other: responses, resolved names, and waits that have ended. While the control plane is away it serves
//! what was accepted last, for ever.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3 as wire;
use sidegate_xds::resource::ResourceType;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::compile::Compiler;
use crate::identity::{self, Handle};
use crate::settings::{Ads, AdsEndpoint};
use crate::telemetry::Metrics;

mod backoff;
mod resolver;
mod status;
mod subscription;
mod transport;

pub(crate) use status::Status;

use backoff::Backoff;
use resolver::{Answers, Resolver};
use subscription::{Request, Subscriptions};

/// The client of the control plane, and whatever else changes the configuration.
pub(crate) struct Client {
    compiler: Compiler,
    ads: Option<Ads>,
    subscriptions: Subscriptions,
    resolver: Resolver,
    /// The proxy's own certificate, if it has one.
    identity: Option<Handle>,
    /// When the files that certificates are in are looked at next.
    next_look: Instant,
    /// Requests that wait for room on the stream.
    outbox: VecDeque<Request>,
    status: Status,
    metrics: Metrics,
    random: SmallRng,
}

/// How a stream ended.
struct Ended {
    /// Whether the server answered anything on it.
    answered: bool,
    why: String,
}

impl Client {
    /// A client for the settings' control plane, if any: without one, only names are resolved.
    pub(crate) fn new(compiler: Compiler, ads: Option<Ads>, node: Node, metrics: Metrics) -> Self {
        let (clusters, listeners) = ads.as_ref().map_or((false, false), |ads| (ads.clusters, ads.listeners));
        Self {
            compiler,
            ads,
            subscriptions: Subscriptions::new(node, clusters, listeners),
            resolver: Resolver::new(resolver::system(), rand::random),
            identity: None,
            next_look: Instant::now() + FILES,
            outbox: VecDeque::new(),
            status: Status::default(),
            metrics,
            random: SmallRng::from_os_rng(),
        }
    }

    /// With an identity: what is in force of it is handed to the compiler, and proves us to the control plane.
    #[must_use]
    pub(crate) fn with_identity(mut self, identity: Option<Handle>) -> Self {
        // Other roots sign one day: whoever connects with TLS must have heard of it before.
        if identity.is_some() && self.ads.as_ref().is_some_and(|ads| ads.tls.is_some()) {
            self.compiler.always_want(identity::ROOTS);
        }
        self.identity = identity;
        self
    }

    /// How the stream is doing, for admin.
    pub(crate) fn status(&self) -> Status {
        self.status.clone()
    }

    /// Follows the control plane until dropped.
    pub(crate) async fn run(mut self) {
        self.follow();
        if let Some(ads) = self.ads.take() {
            self.follow_control_plane(&ads).await;
        }
        loop {
            self.keep_house().await;
        }
    }

    /// Stream after stream, each address in its turn. Ends only when there is no address.
    async fn follow_control_plane(&mut self, ads: &Ads) {
        if let Some(identity) = self.identity.clone().filter(|_| ads.tls.is_some()) {
            // Who we are decides what we are sent.
            self.meanwhile(async move { identity.ready().await }).await;
        }
        let mut backoff = Backoff::default();
        for endpoint in ads.endpoints.iter().cycle() {
            let ended = self.session(ads, endpoint).await;
            if ended.answered {
                // The server was there: its going is normal, as when it restarts.
                backoff.reset();
                tracing::info!(server = %name(endpoint), why = ended.why, "the control plane's stream ended");
            } else {
                tracing::warn!(server = %name(endpoint), why = ended.why, "cannot reach the control plane");
            }
            self.note_end(ended.why);
            let pause = backoff.next(self.random.random());
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
    }

    /// One stream, from connecting to its end.
    async fn session(&mut self, ads: &Ads, endpoint: &AdsEndpoint) -> Ended {
        let server = name(endpoint);
        self.status.write(|report| report.server = Some(server));
        let unanswered = |why: String| Ended { answered: false, why };
        let (requests, queue) = mpsc::channel(1);
        // The first requests go out with the headers: some servers answer with theirs only after they have read one.
        self.outbox = self.subscriptions.open().into();
        if let Some(first) = self.outbox.pop_front() {
            drop(requests.try_send(first));
        }
        let requests_queue = ReceiverStream::new(queue);
        let opening = transport::open(ads.clone(), endpoint.clone(), requests_queue, self.identity.clone());
        let mut responses = match self.meanwhile(opening).await {
            Ok(responses) => responses,
            Err(why) => return unanswered(why),
        };
        self.status.write(|report| report.connected_since = Some(SystemTime::now()));
        self.metrics.config().connected(true);
        self.converse(&requests, &mut responses).await
    }

    /// Sends what is to be sent and takes what comes, until the stream ends.
    async fn converse(
        &mut self,
        requests: &mpsc::Sender<Request>,
        responses: &mut Streaming<wire::DeltaDiscoveryResponse>,
    ) -> Ended {
        let mut answered = false;
        let ended = |answered, why: &str| Ended { answered, why: why.to_owned() };
        loop {
            if self.outbox.len() > OUTBOX {
                return ended(answered, "the control plane does not read what it is sent");
            }
            tokio::select! {
                permit = requests.reserve(), if !self.outbox.is_empty() => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(request)) => permit.send(request),
                    _ => return ended(answered, "the stream is closed"),
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        answered = true;
                        self.receive(response, Instant::now());
                    }
                    Ok(None) => return ended(answered, "closed by the control plane"),
                    Err(status) => {
                        if let Some(identity) = &self.identity {
                            identity.heed(&status);
                        }
                        return ended(answered, &identity::describe(&status));
                    }
                },
                () = self.keep_house() => {}
            }
        }
    }

    /// Takes a response: applied first, then acknowledged, so that an ACK means "in force".
    fn receive(&mut self, response: wire::DeltaDiscoveryResponse, now: Instant) {
        let (kind, version) = (response.type_url.clone(), response.system_version_info.clone());
        let control_plane =
            response.control_plane.as_ref().map(|control_plane| control_plane.identifier.clone());
        let Some((update, pending)) = self.subscriptions.receive(response, now) else {
            tracing::debug!(kind, "a response that was not asked for is dropped");
            return;
        };
        let kind = update.kind;
        let (upserts, removals) = (update.upserts.len(), update.removals.len());
        let roots =
            update.upserts.iter().find(|one| kind == ResourceType::Secret && one.name == identity::ROOTS);
        let roots = roots.map(|resource| resource.body.clone());
        let outcome = self.compiler.apply(update, now);
        for rejection in &outcome.rejections {
            tracing::warn!(%rejection, version, "refused; the last good form stays");
        }
        if let (Some(identity), Some(roots)) = (&self.identity, &roots)
            && outcome.rejections.iter().all(|rejection| rejection.name != identity::ROOTS)
        {
            identity.trust(roots);
        }
        let answer = self.subscriptions.answer(pending, &outcome.rejections);
        tracing::debug!(
            kind = kind.noun(),
            upserts,
            removals,
            published = outcome.published,
            version,
            "applied"
        );
        let error = answer.error_detail.as_ref().map(|status| status.message.clone());
        self.outbox.push_back(answer);
        // New endpoints of clusters that serve already refer to nothing new.
        if kind.is_wildcard() || outcome.published {
            self.follow();
        }
        let resources = self.subscriptions.held(kind);
        self.status.write(|report| {
            if control_plane.is_some() {
                report.control_plane = control_plane;
            }
            let report = report.of_mut(kind);
            report.resources = resources;
            report.version = version;
            report.updated = Some(SystemTime::now());
            match error {
                None => report.accepted += 1,
                Some(_) => report.refused += 1,
            }
            report.last_error = error;
        });
    }

    /// Subscribes to what is referred to now, and resolves the names that are there now.
    fn follow(&mut self) {
        for kind in [ResourceType::Secret, ResourceType::Endpoint, ResourceType::Route] {
            let wanted = self.compiler.wanted(kind);
            self.outbox.extend(self.subscriptions.want(kind, wanted));
        }
        self.resolver.follow(self.compiler.resolvable());
    }

    /// Waits for the next thing that needs no control plane, and does it. May be dropped while it waits.
    async fn keep_house(&mut self) {
        let deadline = [self.compiler.deadline(), self.subscriptions.deadline()].into_iter().flatten().min();
        let deadline = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answers = self.resolver.answers() => self.resolved(&answers),
            () = changed(&mut self.identity) => self.identify(Instant::now()),
            () = deadline => self.expire(Instant::now()),
            () = tokio::time::sleep_until(self.next_look) => {
                self.compiler.look_at_files();
                self.next_look = Instant::now() + FILES;
            }
        }
    }

    /// Puts in force what is new of the identity, and takes away what is over.
    fn identify(&mut self, now: Instant) {
        let Some(material) = self.identity.as_ref().map(Handle::material) else { return };
        for (name, secret) in material.secrets() {
            let outcome = self.compiler.identify(name, secret, now);
            for rejection in &outcome.rejections {
                tracing::error!(%rejection, "the proxy's own identity cannot be used; the one before stays");
            }
            if outcome.published {
                self.follow();
            }
        }
    }

    fn resolved(&mut self, answers: &Answers) {
        self.compiler.resolved(&answers.cluster, &|host| answers.of(host), Instant::now());
    }

    fn expire(&mut self, now: Instant) {
        for update in self.subscriptions.expire(now) {
            tracing::warn!(kind = update.kind.noun(), names = ?update.removals, "not confirmed in time; removed");
            self.compiler.apply(update, now);
        }
        self.compiler.expire(now);
        self.follow();
    }

    /// Waits for something else, keeping house.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.keep_house() => {}
            }
        }
    }

    fn note_end(&mut self, why: String) {
        self.subscriptions.close();
        self.outbox.clear();
        self.metrics.config().connected(false);
        self.status.write(|report| {
            report.connected_since = None;
            report.last_failure = Some(why);
        });
    }
}

/// Waits until something else of the identity is in force; for ever without one.
async fn changed(identity: &mut Option<Handle>) {
    match identity {
        Some(identity) => identity.changed().await,
        None => std::future::pending().await,
    }
}

fn name(endpoint: &AdsEndpoint) -> String {
    format!("{}:{}", endpoint.host, endpoint.port)
}

/// How often the files that certificates are in are looked at.
const FILES: Duration = Duration::from_secs(2);

/// Requests that may wait for the stream. Each answers a response or follows from one: more of them means that the server
/// sends without reading.
const OUTBOX: usize = 4096;

#[cfg(test)]
mod tests;
