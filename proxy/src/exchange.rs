//! The conductor of one request: prepare → route → filter → attempts → response; every phase a named call.
//!
//! The server side of either codec calls [`serve`] once per request, streams what it returns, and tells [`Ending`] how that went.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::authorization::HeaderChange;
use crate::cluster::{Cluster, Endpoint, EndpointId};
use crate::drain::Phase;
use crate::error::Reason;
use crate::filter::authz::Gate;
use crate::filter::{self, GrpcWeb};
use crate::message::{Body, Headers, Request, RequestHead, Response, Scheme, Tunnel, Version};
use crate::route::{Action, HeaderChanges, Route, Silent};
use crate::snapshot::{Http, Loaded, Snapshot};
use crate::telemetry::{self, AccessLog, Record};
use crate::timer::{self, Elapsed};
use crate::tls;
use crate::worker::{Member, Worker};

mod asked;
mod attempts;
mod bodies;
mod call;
mod certificate;
mod bounds;
mod deadline;
mod explain;
mod filters;
mod forwarded;
mod gate;
mod jwks;
mod mirror;
mod outdated;
mod peek;
mod prepare;
mod reply;
mod retry;
mod rewrite;
mod tunnel;

pub(crate) use bounds::Bounds;
pub(crate) use explain::{Question, explain};
pub(crate) use jwks::refresh as refresh_keys;
pub(crate) use reply::Reply;

/// The connection that requests come from.
#[derive(Debug)]
pub(crate) struct Downstream {
    /// Its place on its filter chain.
    pub(crate) member: Member,
    /// Its addresses and names, as records have them.
    pub(crate) connection: telemetry::Downstream,
    /// What the connection implies.
    pub(crate) scheme: Scheme,
    /// The address that accepted it, which is not where it wanted to go when it was redirected.
    pub(crate) accepted: SocketAddr,
    /// The connection's own other end, which is not the client where a PROXY header names one.
    pub(crate) direct_source: SocketAddr,
    /// The network filters that have let it through.
    pub(crate) gate: Arc<Gate>,
    /// The name that its first bytes asked for without a handshake of ours; `None` when nobody looked.
    pub(crate) server_name: Option<Box<str>>,
    /// Endpoints that are told who this client is: their connections are its own, and end with it.
    pub(crate) introduced: RefCell<Vec<(EndpointId, Arc<Endpoint>)>>,
}

impl Downstream {
    /// The same connection after its handshake; `None` is none.
    #[must_use]
    pub(crate) fn secured(mut self, security: Option<Arc<tls::Security>>) -> Self {
        if let Some(security) = &security {
            self.scheme = Scheme::Https;
            self.member.identify(security);
        }
        self.connection.security = security;
        self
    }

    /// The connection manager in force, of the chain's current form; `None` when the chain is opaque.
    pub(crate) fn http(&self, worker: &Worker) -> Option<Arc<Http>> {
        self.load(worker).1
    }

    /// What to serve a request by, and the connection manager in force.
    fn load(&self, worker: &Worker) -> (Loaded, Option<Arc<Http>>) {
        let (snapshot, chain) = self.in_force(worker);
        (snapshot, chain.http().cloned())
    }

    /// The endpoint as this client alone has it, where the cluster is told who the client is.
    pub(crate) fn introduced(&self, cluster: &Cluster, endpoint: Arc<Endpoint>) -> Arc<Endpoint> {
        if cluster.proxy_header.is_none() {
            return endpoint;
        }
        let mut introduced = self.introduced.borrow_mut();
        if let Some((_, own)) = introduced.iter().find(|(id, _)| *id == endpoint.id) {
            return own.clone();
        }
        let own = Arc::new(endpoint.for_client(self.connection.peer, self.connection.local));
        if introduced.len() >= MOST_INTRODUCED {
            introduced.remove(0);
        }
        introduced.push((endpoint.id, own.clone()));
        own
    }

    /// Whether the connection should end after what it is doing: the proxy shuts down, its filter chain is gone, or its
    /// client revoked.
    pub(crate) fn is_leaving(&self, worker: &Worker) -> bool {
        worker.is_draining() || self.member.is_unwanted()
    }

    /// Until [`Self::is_leaving`] becomes true.
    pub(crate) async fn leaving(&self) {
        poll_fn(|context| self.member.poll_leaving(context)).await;
    }

    /// Until the client is revoked.
    pub(crate) async fn revoked(&self) {
        poll_fn(|context| self.member.poll_revoked(context)).await;
    }

    /// Until its filter chain is gone.
    pub(crate) async fn gone(&self) {
        poll_fn(|context| self.member.poll_gone(context)).await;
    }

    /// Until the connection should end if it serves nothing: for one of these reasons, or for want of memory.
    pub(crate) async fn unwelcome(&self) {
        poll_fn(|context| self.member.poll_unwelcome(context)).await;
    }
}

/// Endpoints that one client may have of its own: the oldest makes room.
const MOST_INTRODUCED: usize = 64;

/// What the codec sends back.
pub(crate) struct Served {
    /// The response.
    pub(crate) response: Response,
    /// The request was for a tunnel and the other side has agreed: the response's body is what comes through.
    pub(crate) tunnel: bool,
    /// What bounds the sending of it.
    pub(crate) bounds: Bounds,
    /// To be told how it ended.
    pub(crate) ending: Ending,
}

/// Serves one request. Dropping the future abandons the exchange: attempts are cancelled, and it is logged as abandoned by the client.
/// The request is lent, since a future holds what it is given twice; what is left of it is of no more use.
pub(crate) async fn serve(worker: &Rc<Worker>, downstream: &Downstream, request: &mut Request) -> Served {
    let (snapshot, http) = downstream.load(worker);
    let mut exchange = Exchange::begin(worker, downstream, &snapshot, http.as_deref(), request);
    let outcome = match &http {
        _ if let Some(revoked) = downstream.member.revoked() => {
            Err(Reply::new(Reason::PeerRevoked).detail(revoked.to_string()))
        }
        _ if worker.overload.refuses_requests() => Err(overloaded(worker)),
        _ if let Err(reply) = downstream.refuse_outdated(worker) => Err(reply),
        Some(_) if let Err(reply) = downstream.readmit(worker) => Err(reply),
        Some(http) => exchange.run(http, request).await,
        None => Err(Reply::new(Reason::NoRoute).detail("the filter chain does not speak HTTP")),
    };
    exchange.complete(outcome, http.as_deref())
}

/// What is said while memory is scarce.
fn overloaded(worker: &Worker) -> Reply {
    let memory = worker.overload.report().words();
    Reply::new(Reason::Overload).detail(format!("{memory} of memory are used"))
}

/// Answers a request that is not served at all: malformed (without a head where none could be read), or one that asks for what is not configured.
pub(crate) fn refuse(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    head: Option<RequestHead>,
    reason: Reason,
    detail: Option<String>,
) -> Served {
    let (snapshot, http) = downstream.load(worker);
    let head = head.unwrap_or_else(|| RequestHead {
        method: Method::from_bytes(b"-").unwrap_or_default(),
        scheme: downstream.scheme,
        authority: None,
        path: PathAndQuery::from_static("/"),
        version: Version::Http11,
        headers: Headers::new(),
    });
    let request = Request { head, body: Body::Empty, tunnel: None };
    let exchange = Exchange::begin(worker, downstream, &snapshot, http.as_deref(), &request);
    let mut reply = Reply::new(reason);
    if let Some(detail) = detail {
        reply = reply.detail(detail);
    }
    exchange.complete(Err(reply), http.as_deref())
}

/// One request on its way.
struct Exchange<'a> {
    worker: &'a Rc<Worker>,
    downstream: &'a Downstream,
    snapshot: &'a Snapshot,
    ending: Ending,
    tunnel: bool,
    bounds: Bounds,
    grpc_web: Option<GrpcWeb>,
    route: Option<Arc<Route>>,
    /// The weighted cluster's own changes to the response; they come before the route's.
    response_changes: Option<Arc<HeaderChanges>>,
    /// What filters add to the response; it comes before the route's.
    filtered: Vec<HeaderChange>,
    /// The caller may steer us (`x-envoy-*`).
    inside: bool,
    /// The virtual host wants `x-envoy-attempt-count`.
    attempt_count: bool,
}

impl<'a> Exchange<'a> {
    fn begin(
        worker: &'a Rc<Worker>,
        downstream: &'a Downstream,
        snapshot: &'a Snapshot,
        http: Option<&Http>,
        request: &Request,
    ) -> Self {
        worker.recorder.exchange_started(&downstream.connection.stat_prefix);
        let mut record =
            Box::new(Record::new(&downstream.connection, &request.head, Instant::now(), SystemTime::now()));
        record.grpc = crate::http2::is_grpc(&request.head.headers);
        let logs = http.map(|http| http.access_logs.clone()).unwrap_or_default();
        let ending = Ending {
            worker: worker.clone(),
            record: Some(record),
            logs,
            received: None,
            grpc_status: None,
            sent: Cell::new(0),
            claims: None,
        };
        Self {
            worker,
            downstream,
            snapshot,
            ending,
            tunnel: false,
            bounds: Bounds::default(),
            grpc_web: None,
            route: None,
            response_changes: None,
            filtered: Vec::new(),
            inside: false,
            attempt_count: false,
        }
    }

    async fn run(&mut self, http: &Http, request: &mut Request) -> Result<Response, Reply> {
        self.prepare(http, &mut request.head)?;
        let route = self.select_route(http, request)?;
        let route = self.run_filters(http, route, request).await?;
        if !http.filters.is_empty() && filter::translates_grpc_web(&http.filters, &route.filters) {
            self.grpc_web = GrpcWeb::translate(request);
            self.ending.record().grpc |= self.grpc_web.is_some();
        }
        match &route.action {
            Action::Forward(forward) => self.forward(&route, forward, http, request).await,
            Action::Redirect(redirect) => Err(reply::redirect(redirect, &route, &request.head)),
            Action::Direct(direct) => Err(reply::direct(direct)),
        }
    }

    fn select_route(&mut self, http: &Http, request: &Request) -> Result<Arc<Route>, Reply> {
        let Some(table) = self.snapshot.routes.get(&http.routes) else {
            return Err(Reply::new(Reason::NoRoute).detail("the route table has not arrived yet"));
        };
        let roll = ((u64::from(self.worker.roll()) * 1_000_000) >> 32) as u32;
        let Some((host, route)) = table.select(&request.head, roll, &mut Silent) else {
            if request.tunnel == Some(Tunnel::Connect) && !http.allow_connect {
                return Err(Reply::new(Reason::UpgradeRefused).detail("CONNECT is not configured here"));
            }
            return Err(Reply::new(Reason::NoRoute));
        };
        let record = self.ending.record();
        record.route = Some(route.name.clone());
        record.origin.clone_from(&route.origin);
        self.attempt_count = host.attempt_count;
        if let Some(tunnel) = &request.tunnel {
            tunnel::check(tunnel, http, route)?;
        }
        let route = route.clone();
        self.route = Some(route.clone());
        for changes in &route.response_headers {
            // What a response's header is to tell of the request is kept for it.
            let record = self.ending.record();
            for name in changes.wanted_request_headers() {
                prepare::collect(
                    &request.head.headers,
                    std::slice::from_ref(name),
                    &mut record.request_headers,
                );
            }
        }
        Ok(route)
    }

    /// Turns the outcome into what the codec sends, and notes it.
    fn complete(mut self, outcome: Result<Response, Reply>, http: Option<&Http>) -> Served {
        let mut response = match outcome {
            Ok(response) => response,
            Err(reply) => {
                let worker = self.worker;
                reply.into_response(self.ending.record(), http, || worker.recorder.next_reason_id())
            }
        };
        for change in &self.filtered {
            change.apply(&mut response.head.headers);
        }
        if let Some(changes) = &self.response_changes {
            let record = self.ending.record();
            changes.apply(&mut response.head.headers, |format, headers| format.of_response(record, headers));
        }
        if let Some(route) = &self.route {
            for changes in &route.response_headers {
                let record = self.ending.record();
                changes
                    .apply(&mut response.head.headers, |format, headers| format.of_response(record, headers));
            }
        }
        if let Some(http) = http {
            prepare::finish_response(http, self.ending.record(), &mut response.head);
        }
        self.ending.note_response(&response);
        if let Some(translation) = &self.grpc_web {
            translation.translate_back(&mut response);
            self.ending.grpc_status = Some(translation.status());
        }
        Served { response, tunnel: self.tunnel, bounds: self.bounds, ending: self.ending }
    }
}

/// What remains of an exchange while its response is sent: told how that went, it writes the log line and the counters.
/// Dropped without being told, the client has gone, or the shutdown cut it.
pub(crate) struct Ending {
    worker: Rc<Worker>,
    record: Option<Box<Record>>,
    logs: Vec<Arc<AccessLog>>,
    received: Option<Rc<bodies::Received>>,
    /// Where the status of trailers is noted that go out as a part of the body.
    grpc_status: Option<Rc<Cell<Option<u16>>>>,
    /// Body bytes that have been sent so far: kept here by whoever sends them, so that they are known however that ends.
    pub(crate) sent: Cell<u64>,
    /// Held until the response has been sent: places among the cluster's requests, the endpoint's lease.
    claims: Option<attempts::Claims>,
}

impl Ending {
    /// The record, while the exchange runs.
    fn record(&mut self) -> &mut Record {
        // `finish` consumes `self`, so the record is always there before.
        self.record.as_deref_mut().expect("taken only when the exchange ends")
    }

    fn note_response(&mut self, response: &Response) {
        let grpc_status = response.head.headers.get_str("grpc-status").and_then(|text| text.parse().ok());
        let logs = std::mem::take(&mut self.logs);
        let record = self.record();
        record.status = Some(response.head.status);
        record.grpc_status = grpc_status;
        for log in &logs {
            let wanted = log.format.wanted_response_headers();
            prepare::collect(&response.head.headers, wanted, &mut record.response_headers);
        }
        self.logs = logs;
    }

    /// When the last piece of the request's body came.
    pub(crate) fn last_received(&self) -> Option<Instant> {
        self.received.as_ref().and_then(|received| received.last())
    }

    /// Awaits a step of sending the response until nothing has moved for `idle`, in the request's direction neither.
    pub(crate) async fn moving<F: Future + Unpin>(
        &self,
        idle: Option<Duration>,
        mut step: F,
    ) -> Result<F::Output, Elapsed> {
        let mut wait = idle;
        loop {
            let done = timer::within(wait, &mut step).await;
            let (Err(Elapsed), Some(idle), Some(last)) = (&done, idle, self.last_received()) else {
                return done;
            };
            wait = Some((last + idle).saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO) {
                return Err(Elapsed);
            }
        }
    }

    /// As [`Self::moving`], for a step that waits for the client to take what is there: while memory is too scarce for new work, what
    /// is held for those who do not take it is the first to go. The error says why to cut.
    pub(crate) async fn taken<F: Future + Unpin>(
        &self,
        idle: Option<Duration>,
        mut step: F,
    ) -> Result<F::Output, Reason> {
        let wait = idle.map_or(MOMENT, |idle| idle.min(MOMENT));
        let mut begun = None;
        loop {
            if let Ok(done) = timer::within(Some(wait), &mut step).await {
                return Ok(done);
            }
            let begun = *begun.get_or_insert_with(|| Instant::now() - wait);
            if let Some(cut) = self.cut_of(begun.max(self.last_received().unwrap_or(begun)), idle, true) {
                return Err(cut);
            }
        }
    }

    /// Why a response is cut that has not moved since then, if it is; `blocked`: because the client takes nothing.
    pub(crate) fn cut_of(&self, since: Instant, idle: Option<Duration>, blocked: bool) -> Option<Reason> {
        if blocked && self.worker.overload.refuses_requests() {
            return Some(Reason::Overload);
        }
        idle.filter(|idle| since.elapsed() >= *idle).map(|_| Reason::IdleTimeout)
    }

    /// The response has been sent to its end, or was cut for `cut`.
    pub(crate) fn finish(mut self, grpc_status: Option<u16>, cut: Option<Reason>) {
        let grpc_status = grpc_status.or(self.grpc_status.as_ref().and_then(|status| status.get()));
        let record = self.record();
        if grpc_status.is_some() {
            record.grpc_status = grpc_status;
        }
        if cut.is_some() {
            record.reason = cut;
        }
        self.write();
    }

    fn write(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration = record.start.elapsed();
        record.bytes_sent = self.sent.get();
        if let Some(received) = &self.received {
            record.bytes_received = received.bytes();
        }
        self.claims = None;
        self.worker.recorder.exchange_ended(&*record, &self.logs);
    }
}

/// How long a client that takes nothing goes unnoticed while memory is scarce.
pub(crate) const MOMENT: Duration = Duration::from_secs(1);

impl Drop for Ending {
    fn drop(&mut self) {
        let cut = self.worker.drain.phase() == Phase::Ended;
        if let Some(record) = &mut self.record {
            record.reason = Some(match cut {
                _ if std::thread::panicking() => Reason::Internal,
                true => Reason::Draining,
                false => Reason::DownstreamClosed,
            });
            self.write();
        }
    }
}
