//! Forwarding: choose a cluster, then an endpoint for each attempt, until a response may go to the client.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::asked::Asked;
use super::bodies::Received;
use super::bounds::Terms;
use super::deadline::Deadline;
use super::{Exchange, Reply, forwarded, mirror, retry, rewrite, tunnel};
use crate::cluster::{
    Cluster, Discovery, Endpoint, EndpointId, Lease, RequestClaim, RetryClaim, now_millis, pick,
};
use crate::error::Reason;
use crate::message::{Body, Replay, Request, RequestHead, Response, Tunnel};
use crate::route::{Forward, HostRewrite, RetryPolicy, Route};
use crate::snapshot::Http;
use crate::timer;
use crate::upstream::{Attempt, Destination, Processed, SendError};

/// What a forwarded exchange holds until its response has been sent.
#[derive(Debug)]
pub(super) struct Claims {
    _request: RequestClaim,
    _retry: Option<RetryClaim>,
    _lease: Lease,
}

/// A forwarded request between attempts.
struct Plan<'a> {
    forward: &'a Forward,
    asked: Asked,
    cluster: Arc<Cluster>,
    head: &'a mut RequestHead,
    body: Source,
    deadline: Deadline,
    tunnel: Option<Tunnel>,
    /// Endpoints of attempts that were not enough.
    tried: Vec<EndpointId>,
    /// Retries that the route's policy made.
    retries: u32,
    /// Attempts that the pool made again by itself, over the whole request.
    free: u32,
    /// The last attempt was refused.
    refused: bool,
    /// An endpoint has turned the request away: another is better.
    aside: bool,
    /// The pause before the next attempt.
    wait: Option<Duration>,
    fresh: bool,
    retry_claim: Option<RetryClaim>,
}

/// The route's timeout only starts once the whole request has come, or is off: then something else must end what stalls.
fn is_watched(received: &Received, terms: &Terms) -> bool {
    !received.has_ended()
        || terms.fixed.is_some()
        || terms.timeout.is_none_or(|most| terms.idle.is_some_and(|idle| idle < most))
}

/// The request body, for one attempt or several.
enum Source {
    Whole(Body),
    Replay(Replay),
}

impl Exchange<'_> {
    pub(super) async fn forward(
        &mut self,
        route: &Route,
        forward: &Forward,
        http: &Http,
        request: &mut Request,
    ) -> Result<Response, Reply> {
        let cluster = self.choose_cluster(forward, &mut request.head)?;
        let Some(request_claim) = cluster.claim_request() else {
            let detail = format!("{} requests in flight to {}", cluster.limits.requests, cluster.name);
            return Err(Reply::new(Reason::UpstreamOverflow).detail(detail));
        };
        let asked = if self.inside {
            Asked::take(&mut request.head.headers, forward.retry.as_deref())
        } else {
            Asked::default()
        };
        self.dress(http, route, forward, request)?;
        let (body, received) = Received::watch(std::mem::take(&mut request.body));
        request.body = body;
        self.ending.received = Some(received.clone());
        let record = self.ending.record();
        let (started, is_grpc) = (record.start, record.grpc);
        let mut terms = Terms::new(forward, &http.timeouts, &request.head.headers, is_grpc, started);
        terms.timeout = asked.timeout.unwrap_or(terms.timeout);
        if let Some(millis) = asked.expected() {
            request.head.headers.set("x-envoy-expected-rq-timeout-ms", HeaderValue::from(millis));
        }
        let deadline = Deadline { timeout: terms.timeout, received: received.clone(), at: None };
        let mut plan = Plan::new(forward, asked, cluster, request, deadline);
        // Looked at when there is something to wait for: by then most requests have come. Boxed: most need none.
        let mut watch = None;
        let stall = std::future::poll_fn(|context| {
            let watch = watch.get_or_insert_with(|| {
                is_watched(&received, &terms).then(|| Box::pin(received.stalled(&terms, started)))
            });
            match watch {
                Some(watch) => watch.as_mut().poll(context),
                None => Poll::Pending,
            }
        });
        let (response, lease) = {
            // Pinned here, as `select!` would move it.
            let attempts = pin!(self.attempt_until_done(&mut plan));
            tokio::select! {
                biased;
                done = attempts => done?,
                reason = stall => return Err(stalled(reason, &received)),
            }
        };
        drop(watch);
        self.tunnel = tunnel::outcome(plan.tunnel.as_ref(), plan.head.version, response.head.status)?;
        mirror::mirror(self.worker, self.snapshot, forward, plan.head, || plan.body.again());
        self.ending.claims =
            Some(Claims { _request: request_claim, _retry: plan.retry_claim.take(), _lease: lease });
        self.bound_response(forward, &terms, plan.deadline.at, received);
        Ok(response)
    }

    /// Makes the head what the route wants it to be.
    fn dress(
        &mut self,
        http: &Http,
        route: &Route,
        forward: &Forward,
        request: &mut Request,
    ) -> Result<(), Reply> {
        for changes in &route.request_headers {
            let record = self.ending.record();
            changes.apply(&mut request.head.headers, |format, headers| format.of_request(record, headers));
        }
        rewrite::apply(forward, route, http.normalize_path, &mut request.head)
    }

    /// What holds from the response's head on. A tunnel lasts as long as something moves in it.
    fn bound_response(
        &mut self,
        forward: &Forward,
        terms: &Terms,
        deadline: Option<Instant>,
        received: Rc<Received>,
    ) {
        let per_try = forward.retry.as_ref().and_then(|policy| policy.per_try_idle);
        self.bounds.idle = match (terms.idle, per_try) {
            (Some(idle), Some(per_try)) => Some(idle.min(per_try)),
            (idle, per_try) => per_try.or(idle),
        };
        if self.tunnel {
            return;
        }
        let uploading = !received.has_ended();
        self.bounds.deadline = deadline.filter(|_| !uploading);
        self.bounds.timeout = terms.timeout;
        self.bounds.request = terms.request;
        self.bounds.fixed = terms.fixed;
        self.bounds.received = Some(received).filter(|_| uploading || deadline.is_none());
    }

    fn choose_cluster(&mut self, forward: &Forward, head: &mut RequestHead) -> Result<Arc<Cluster>, Reply> {
        let missing = |name: &str| {
            Reply::new(Reason::NoCluster)
                .status(forward.cluster_not_found)
                .detail(format!("the route names cluster {name}, which does not exist"))
        };
        let Some(choice) = forward.target.choose(head, self.worker.roll()) else {
            return Err(missing("(none)"));
        };
        let Some(cluster) = self.snapshot.clusters.get(choice.cluster).cloned() else {
            return Err(missing(choice.cluster));
        };
        let changes = choice.weighted.and_then(|weighted| weighted.request_headers.clone());
        self.response_changes = choice.weighted.and_then(|weighted| weighted.response_headers.clone());
        if let Some(changes) = changes {
            let record = self.ending.record();
            changes.apply(&mut head.headers, |format, headers| format.of_request(record, headers));
        }
        self.ending.record().cluster = Some(cluster.metrics.clone());
        Ok(cluster)
    }

    async fn attempt_until_done(&mut self, plan: &mut Plan<'_>) -> Result<(Response, Lease), Reply> {
        loop {
            let endpoint = self.choose_endpoint(plan).await?;
            let lease = Lease::new(endpoint.clone());
            let outcome = self.attempt(plan, endpoint).await;
            match outcome {
                Ok(response) if self.retry_response(plan, &response) => {
                    plan.tried.push(lease.endpoint.id);
                    // A peer's proxy says that its app cannot be reached.
                    if response.head.headers.contains("x-sidegate-reason") {
                        lease.endpoint.suspect(now_millis());
                    }
                }
                Ok(response) => return Ok((response, lease)),
                Err(error) => {
                    self.note_failure(&lease.endpoint, &error);
                    plan.tried.push(lease.endpoint.id);
                    drop(lease);
                    if !self.retry_error(plan, &error) {
                        return Err(final_reply(plan, error));
                    }
                }
            }
            if let Some(wait) = plan.wait.take() {
                let slept = timer::until(plan.deadline.at, pin!(tokio::time::sleep(wait))).await;
                if slept.is_err() {
                    return Err(Reply::new(Reason::RequestTimeout));
                }
            }
        }
    }

    async fn choose_endpoint(&mut self, plan: &Plan<'_>) -> Result<Arc<Endpoint>, Reply> {
        let cluster = &plan.cluster;
        if cluster.discovery == Discovery::Forward {
            return Box::pin(self.resolve(cluster, plan.head)).await;
        }
        if let Discovery::Original { port } = cluster.discovery {
            return self.original(port);
        }
        let avoid = match plan.retry() {
            _ if plan.aside => &plan.tried[..],
            Some(policy) if policy.other_endpoint => &plan.tried[..],
            _ => &[],
        };
        let set = cluster.endpoints.load();
        let worker = self.worker;
        pick(&cluster.policy, &set, avoid, now_millis, &mut || worker.roll()).ok_or_else(|| {
            let what = match (set.ready, set.all.is_empty()) {
                (false, _) => "its endpoints have not arrived yet",
                (true, true) => "it has no endpoints",
                (true, false) => "none of its endpoints is available",
            };
            Reply::new(Reason::NoHealthyEndpoint).detail(format!("{}: {what}", cluster.name))
        })
    }

    async fn resolve(&self, cluster: &Cluster, head: &RequestHead) -> Result<Arc<Endpoint>, Reply> {
        let Some(authority) = &head.authority else {
            return Err(Reply::new(Reason::BadRequest).detail("no authority to forward to"));
        };
        let port = if head.scheme == crate::message::Scheme::Https { 443 } else { 80 };
        let found = self.worker.resolver.endpoint(authority.as_str(), port, cluster.connect_timeout).await;
        let endpoint = found.map_err(|error| Reply::new(error.reason).detail(error.detail))?;
        self.leads_on(&endpoint)?;
        Ok(endpoint)
    }

    /// Where a redirected connection wanted to go.
    fn original(&self, port: Option<u16>) -> Result<Arc<Endpoint>, Reply> {
        let endpoint = self.worker.resolver.original(self.downstream.connection.local, port);
        self.leads_on(&endpoint)?;
        Ok(endpoint)
    }

    fn leads_on(&self, endpoint: &Endpoint) -> Result<(), Reply> {
        if endpoint.address != self.downstream.accepted {
            return Ok(());
        }
        let detail = format!("{} is this proxy itself: the request would go in a circle", endpoint.address);
        Err(Reply::new(Reason::NoHealthyEndpoint).detail(detail))
    }

    async fn attempt(&mut self, plan: &mut Plan<'_>, endpoint: Arc<Endpoint>) -> Result<Response, SendError> {
        let started = Instant::now();
        self.note_attempt(plan, &endpoint);
        if self.attempt_count {
            plan.head.headers.set("x-envoy-attempt-count", HeaderValue::from(plan.tried.len() + 1));
        }
        if matches!(plan.forward.host_rewrite, HostRewrite::Auto)
            && let Some(host) = &endpoint.hostname
        {
            plan.head.authority = host.parse().ok().or(plan.head.authority.take());
        }
        let body = match &mut plan.body {
            Source::Whole(Body::Full(data)) => Body::Full(data.clone()),
            Source::Whole(_) => Body::Empty,
            Source::Replay(replay) => replay.attempt(),
        };
        let endpoint = self.downstream.introduced(&plan.cluster, endpoint);
        let destination = Destination::new(plan.cluster.clone(), endpoint, plan.head);
        let attempt = Attempt { head: plan.head, body, fresh: plan.fresh, tunnel: plan.tunnel.as_ref() };
        let per_try = plan.asked.per_try.or(plan.retry().and_then(|policy| policy.per_try_timeout));
        let per_try_idle = plan.retry().and_then(|policy| policy.per_try_idle);
        let sent = {
            // Pinned here, once: each wrapper would otherwise carry a copy of it.
            let sending = pin!(self.worker.pools.send(&destination, attempt));
            let moving = pin!(self.ending.moving(per_try_idle, sending));
            plan.deadline.bound(started, timer::within(per_try, moving)).await
        };
        let late = |what| SendError {
            reason: Reason::RequestTimeout,
            processed: Processed::Maybe,
            reused: false,
            detail: what,
        };
        let mut result = match sent {
            None => Err(late(format!("no response within the route's {:?}", plan.deadline.timeout))),
            Some(Err(timer::Elapsed)) => {
                self.worker.recorder.per_try_timeout(&plan.cluster.metrics);
                Err(late(format!("no response within the {per_try:?} of one attempt")))
            }
            Some(Ok(Err(timer::Elapsed))) => {
                self.worker.recorder.per_try_timeout(&plan.cluster.metrics);
                Err(late(format!("nothing moved for the {per_try_idle:?} of one attempt")))
            }
            Some(Ok(Ok(result))) => result,
        };
        self.ending.record().upstream_security = destination.session().cloned();
        if let Ok(response) = &mut result {
            if !destination.is_mesh() {
                // An app could pass its own failures off as ours, or have its endpoint avoided.
                forwarded::strip_response(&mut response.head.headers);
            }
            self.ending.record().upstream_time = Some(started.elapsed());
        }
        result
    }

    fn note_attempt(&mut self, plan: &Plan<'_>, endpoint: &Endpoint) {
        self.worker.recorder.upstream_attempt(&plan.cluster.metrics);
        let record = self.ending.record();
        record.attempts += 1;
        record.endpoint = Some(endpoint.address);
        record.workload =
            endpoint.origin.as_ref().map(|origin| (origin.namespace.clone(), origin.workload.clone()));
    }

    fn note_failure(&mut self, endpoint: &Endpoint, error: &SendError) {
        if matches!(
            error.reason,
            Reason::ConnectFailure | Reason::ConnectTimeout | Reason::UpstreamTlsFailure
        ) {
            endpoint.suspect(now_millis());
        }
        self.ending.record().attempt_failures.push((Some(endpoint.address), error.reason));
    }

    fn retry_error(&mut self, plan: &mut Plan<'_>, error: &SendError) -> bool {
        let method = &plan.head.method;
        if plan.deadline.has_passed() || !plan.body.can_repeat() {
            return false;
        }
        plan.fresh = error.reused;
        let refused = error.processed == Processed::Refused;
        let again = std::mem::replace(&mut plan.refused, refused);
        if retry::is_free(error, method) && plan.free < MAX_FREE {
            plan.free += 1;
            if retry::is_turned_away(error, again) {
                plan.aside = true;
                plan.wait = Some(retry::back_off(plan.back_off(), plan.free, self.worker.roll()));
            }
            self.worker.recorder.upstream_retry(&plan.cluster.metrics);
            return true;
        }
        let wanted = plan.retry().is_some_and(|policy| {
            plan.retries < policy.retries && retry::wants_after_error(policy, error, method)
        });
        wanted && self.claim_retry(plan)
    }

    fn retry_response(&mut self, plan: &mut Plan<'_>, response: &Response) -> bool {
        plan.refused = false;
        let Some(policy) = plan.retry() else { return false };
        let method: &Method = &plan.head.method;
        let wanted =
            plan.retries < policy.retries && retry::wants_after_response(policy, &response.head, method);
        wanted && plan.body.can_repeat() && !plan.deadline.has_passed() && self.claim_retry(plan)
    }

    fn claim_retry(&mut self, plan: &mut Plan<'_>) -> bool {
        // The place of the previous retry is given back first: it is over.
        plan.retry_claim = None;
        plan.retry_claim = plan.cluster.claim_retry();
        if plan.retry_claim.is_none() {
            self.worker.recorder.retry_overflow(&plan.cluster.metrics);
            return false;
        }
        plan.retries += 1;
        plan.wait = Some(retry::back_off(plan.back_off(), plan.retries, self.worker.roll()));
        self.worker.recorder.upstream_retry(&plan.cluster.metrics);
        true
    }
}

impl<'a> Plan<'a> {
    fn new(
        forward: &'a Forward,
        asked: Asked,
        cluster: Arc<Cluster>,
        request: &'a mut Request,
        mut deadline: Deadline,
    ) -> Self {
        let Request { head, body, tunnel } = request;
        let (body, tunnel) = (std::mem::take(body), tunnel.take());
        let limit = forward.retry.as_ref().map_or(DEFAULT_REPLAY, |policy| policy.replay_limit);
        // Nothing goes through a tunnel before it is there: nothing to keep.
        let limit = if tunnel.is_some() { 0 } else { limit };
        let body = match body {
            Body::Stream(_) => Source::Replay(Replay::new(body, limit)),
            whole => Source::Whole(whole),
        };
        if tunnel.is_some() {
            // Its request has no end to wait for: the bound is on the agreement.
            deadline.start();
        }
        Self {
            forward,
            asked,
            cluster,
            head,
            body,
            deadline,
            tunnel,
            tried: Vec::new(),
            retries: 0,
            free: 0,
            refused: false,
            aside: false,
            wait: None,
            fresh: false,
            retry_claim: None,
        }
    }

    /// The policy in force: the route's, or with what an insider asked for beside it.
    fn retry(&self) -> Option<&RetryPolicy> {
        self.asked.retry.as_deref().or(self.forward.retry.as_deref())
    }

    /// The bounds of pauses between attempts.
    fn back_off(&self) -> (Duration, Duration) {
        self.retry().map_or(retry::DEFAULT_BACK_OFF, |policy| policy.back_off)
    }
}

impl Source {
    /// The whole body once more; `None` when it has not all come, or was too long to be kept.
    fn again(&self) -> Option<Body> {
        match self {
            Self::Whole(Body::Full(data)) => Some(Body::Full(data.clone())),
            Self::Whole(_) => Some(Body::Empty),
            Self::Replay(replay) => replay.is_whole().then(|| replay.attempt()),
        }
    }

    fn can_repeat(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Replay(replay) => replay.can_repeat(),
        }
    }
}

/// A bound of time passed. 408 while the client still owes a part of its request, 504 once the upstream owes the answer: as Envoy.
fn stalled(reason: Reason, received: &Received) -> Reply {
    if received.has_ended() || reason == Reason::RequestTimeout {
        let reply = Reply::new(reason).status(http::StatusCode::GATEWAY_TIMEOUT);
        return reply.grpc_deadline().detail("no answer came in time");
    }
    Reply::new(reason)
        .grpc_deadline()
        .detail(format!("the request's body stalled after {} bytes", received.bytes()))
}

fn final_reply(plan: &Plan<'_>, error: SendError) -> Reply {
    let exhausted = plan.retry().is_some_and(|policy| plan.retries >= policy.retries.max(1));
    let keeps_own_reason = matches!(
        error.reason,
        Reason::RequestTimeout | Reason::DownstreamClosed | Reason::BadRequest | Reason::Internal
    );
    let detail = error.detail;
    if exhausted && !keeps_own_reason {
        let status = error.reason.status();
        return Reply::new(Reason::RetriesExhausted).status(status).detail(format!(
            "after {} attempts, last: {}: {detail}",
            plan.tried.len(),
            error.reason.label()
        ));
    }
    Reply::new(error.reason).detail(detail)
}

/// Attempts that the pool makes again by itself for one request, however many retries its policy adds.
const MAX_FREE: u32 = 3;
/// Bytes of a request body kept for attempts that the pool makes again by itself.
const DEFAULT_REPLAY: usize = 64 * 1024;
