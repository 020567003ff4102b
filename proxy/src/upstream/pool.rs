//! One worker's connections, by endpoint identity (D8): an address that is handed to another pod is another endpoint.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::{ConnectionPlace, Want, connect};
use super::watch::Watch;
use super::{Destination, SendError, http1, http2};
use crate::cluster::{Cluster, EndpointId};
use crate::error::Reason;
use crate::telemetry::Recorder;
use crate::tls::ClientContext;

/// Every pooled connection of one worker.
pub(crate) struct Pools {
    by_key: RefCell<FxHashMap<Key, Rc<Pool>>>,
    /// Numbers for the names that endpoints are asked for by TLS, where requests say them.
    names: RefCell<FxHashMap<Arc<str>, u64>>,
    next_name: Cell<u64>,
    pub(super) recorder: Recorder,
    /// Connections that are taken out of here for good.
    pub(super) watch: Rc<Watch>,
}

/// What connections may be shared by: a credential or a context that changes makes another pool, so that connections of the old one
/// serve no new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    endpoint: EndpointId,
    credentials: Credentials,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Credentials {
    /// None: plaintext.
    Plain,
    /// Of a context's generation.
    Tls(u64),
    /// The same, asked for by the name of this number.
    Named(u64, u64),
}

/// The connections to one endpoint under one set of credentials.
pub(super) struct Pool {
    /// The context that they were made by, and its generation then.
    context: Option<(Weak<ClientContext>, u64)>,
    /// Lives as long as some endpoint set has the endpoint; the identity's own count of requests.
    alive: Weak<AtomicU32>,
    /// Idle HTTP/1.1 connections, the most recently used last.
    #[allow(clippy::vec_box, reason = "a connection keeps its box from one exchange to the next")]
    idle: RefCell<Vec<Box<http1::Connection>>>,
    /// HTTP/2 connections.
    pub(super) shared: RefCell<Vec<http2::Connection>>,
    /// A stream has ended on one of them.
    pub(super) freed: Rc<Notify>,
    /// An HTTP/2 connection is being made: others wait for it instead of making their own.
    pub(super) connecting: Cell<bool>,
    /// How often that failed, and how it did last: those who wait for the connection fail with it.
    pub(super) failures: Cell<u64>,
    pub(super) failure: RefCell<(Reason, String)>,
    /// HTTP/1.1 connections open, idle or not.
    open: Cell<u32>,
    /// Requests that wait for one of them.
    waiting: Cell<u32>,
    /// A connection came back or was closed, or an HTTP/2 connection is there.
    pub(super) changed: Notify,
    /// How long a connection may be idle: what the endpoint announced or was seen to do.
    idle_limit: Cell<Duration>,
    /// No request comes here any more: what comes back is closed. Kept, it would keep the pool, and the pool it, for ever.
    retired: Cell<bool>,
}

impl Pools {
    /// No connections yet.
    pub(crate) fn new(recorder: Recorder, watch: Rc<Watch>) -> Self {
        Self {
            by_key: RefCell::default(),
            names: RefCell::default(),
            next_name: Cell::new(0),
            recorder,
            watch,
        }
    }

    pub(super) fn of(&self, destination: &Destination) -> Rc<Pool> {
        let security = destination.security();
        let context = security.map(|security| (&security.context, security.context.generation()));
        let credentials = match (&context, &destination.server_name) {
            (None, _) => Credentials::Plain,
            (Some((_, generation)), None) => Credentials::Tls(*generation),
            (Some((_, generation)), Some(name)) => Credentials::Named(*generation, self.number_of(name)),
        };
        let key = Key { endpoint: destination.endpoint.id, credentials };
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(Pool {
                context: context.map(|(context, generation)| (Arc::downgrade(context), generation)),
                alive: Arc::downgrade(&destination.endpoint.in_flight),
                idle: RefCell::default(),
                shared: RefCell::default(),
                freed: Rc::default(),
                connecting: Cell::new(false),
                failures: Cell::new(0),
                failure: RefCell::new((Reason::ConnectFailure, String::new())),
                open: Cell::new(0),
                waiting: Cell::new(0),
                changed: Notify::new(),
                idle_limit: Cell::new(DEFAULT_IDLE),
                retired: Cell::new(false),
            })
        });
        pool.clone()
    }

    fn number_of(&self, name: &Arc<str>) -> u64 {
        if let Some(number) = self.names.borrow().get(name) {
            return *number;
        }
        let number = self.next_name.replace(self.next_name.get() + 1);
        self.names.borrow_mut().insert(name.clone(), number);
        number
    }

    /// An HTTP/1.1 connection: an idle one that is still good, or a new one. `repeatable` says that the request is sent again if the
    /// connection turns out to be closed; `fresh` asks for a new one.
    pub(super) async fn checkout(
        &self,
        destination: &Destination,
        repeatable: bool,
        fresh: bool,
    ) -> Result<Box<http1::Connection>, SendError> {
        let pool = self.of(destination);
        let cluster = &destination.cluster;
        // Who waits was here before.
        let mut turn = pool.waiting.get() == 0;
        let place = loop {
            if !std::mem::replace(&mut turn, true) {
                Box::pin(wait_for_connection(cluster, &pool)).await?;
                continue;
            }
            if !fresh && let Some(connection) = pool.take_idle(repeatable) {
                destination.took(connection.session.as_ref());
                return Ok(connection);
            }
            // One connection for each worker is always allowed, so that a limit below the number of workers cannot starve one.
            if let Some(place) = ConnectionPlace::take(cluster, pool.open.get() == 0) {
                break place;
            }
            if fresh && pool.drop_idle() {
                continue;
            }
            Box::pin(wait_for_connection(cluster, &pool)).await?;
        };
        let count = OpenCount::new(pool);
        // Boxed: every request would carry the room that making a connection needs.
        let want = Want { protocol: Some(b"http/1.1"), server_name: destination.server_name.as_deref() };
        let connecting = Box::pin(connect(cluster, &destination.endpoint, want, &self.recorder));
        let opened = connecting.await?;
        destination.took(opened.session.as_ref());
        Ok(Box::new(http1::Connection::new(opened, place.opened(&self.recorder), count)))
    }

    /// Drops what was closed by the other end or idle for too long, and the pools of endpoints that are gone. Runs every second.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut numbers = FxHashSet::default();
        self.by_key.borrow_mut().retain(|key, pool| {
            let alive = pool.alive.strong_count() > 0 && pool.is_current();
            pool.sweep(now, alive);
            // Requests choose the names: what nothing uses makes room.
            let kept = match key.credentials {
                Credentials::Named(_, number) => {
                    let kept = alive && (Rc::strong_count(pool) > 1 || !pool.is_empty());
                    if kept {
                        numbers.insert(number);
                    }
                    kept
                }
                Credentials::Plain | Credentials::Tls(_) => alive,
            };
            pool.retired.set(!kept);
            kept
        });
        self.names.borrow_mut().retain(|_, number| numbers.contains(number));
    }
}

/// For when memory is scarce.
impl Pools {
    /// Closes every HTTP/1.1 connection that no exchange uses.
    pub(crate) fn shrink(&self) {
        let pools: Vec<_> = self.by_key.borrow().values().cloned().collect();
        for pool in pools {
            // Taken out first: dropping a connection looks back into the pool.
            let idle = std::mem::take(&mut *pool.idle.borrow_mut());
            drop(idle);
        }
    }
}

/// Waits until a connection comes back or a place is free, first come first served.
async fn wait_for_connection(cluster: &Arc<Cluster>, pool: &Pool) -> Result<(), SendError> {
    let _claim = PendingClaim::new(cluster)?;
    let _waiting = Waiting::new(pool);
    tokio::select! {
        biased;
        () = pool.changed.notified() => {}
        // Another worker's connection may be the one that closes.
        () = cluster.live.freed.notified() => {}
    }
    Ok(())
}

/// One that waits for a connection of a pool.
struct Waiting<'a> {
    pool: &'a Pool,
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        Self { pool }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiting.set(self.pool.waiting.get().saturating_sub(1));
    }
}

/// A place among the requests that wait for a connection.
pub(super) struct PendingClaim<'a> {
    cluster: &'a Cluster,
}

impl<'a> PendingClaim<'a> {
    /// Takes one, unless `max_pending_requests` is reached.
    pub(super) fn new(cluster: &'a Cluster) -> Result<Self, SendError> {
        let waiting = cluster.live.pending.fetch_add(1, Ordering::Relaxed);
        let claim = Self { cluster };
        if waiting >= cluster.limits.pending {
            let open = cluster.live.connections.load(Ordering::Relaxed);
            let detail = format!("{open} connections open and {waiting} requests waiting");
            return Err(SendError::not_sent(Reason::UpstreamOverflow, detail));
        }
        Ok(claim)
    }
}

impl Drop for PendingClaim<'_> {
    fn drop(&mut self) {
        self.cluster.live.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An HTTP/1.1 connection's place in its pool's count, from before it is made until it is closed.
pub(super) struct OpenCount {
    pub(super) pool: Rc<Pool>,
}

impl OpenCount {
    fn new(pool: Rc<Pool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        Self { pool }
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.pool.open.set(self.pool.open.get().saturating_sub(1));
        self.pool.changed.notify_one();
    }
}

impl Pool {
    /// Whether its context still has the credentials that its connections were made with.
    fn is_current(&self) -> bool {
        self.context.as_ref().is_none_or(|(context, generation)| {
            context.upgrade().is_some_and(|context| context.generation() == *generation)
        })
    }

    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// The most recently used idle connection that is still good.
    fn take_idle(&self, repeatable: bool) -> Option<Box<http1::Connection>> {
        let now = Instant::now();
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            let age = now.duration_since(connection.idle_since);
            if age > connection.idle_limit.unwrap_or(self.idle_limit.get()) {
                continue;
            }
            // A request that cannot be sent twice pays for a look at the socket; one that can is told by the runtime, and costs
            // another attempt when the runtime has not yet heard of the end.
            let stale = if repeatable && age < LOOK_AFTER {
                connection.io.is_known_stale()
            } else {
                connection.io.is_stale()
            };
            if !stale {
                return Some(connection);
            }
            self.learn_close(age);
        }
    }

    /// Closes an idle connection to make room for a new one; false when there is none.
    fn drop_idle(&self) -> bool {
        let connection = self.idle.borrow_mut().pop();
        connection.is_some()
    }

    /// Puts a connection back after a complete exchange.
    pub(super) fn put_idle(&self, mut connection: Box<http1::Connection>) {
        if self.retired.get() {
            return;
        }
        connection.idle_since = Instant::now();
        self.idle.borrow_mut().push(connection);
        self.changed.notify_one();
    }

    /// The endpoint closed a connection that had been idle for `age`: from now on we stop using them before that.
    fn learn_close(&self, age: Duration) {
        if age >= LEARN_FROM {
            self.idle_limit.set(self.idle_limit.get().min(age.mul_f64(0.8)));
        }
    }

    fn sweep(&self, now: Instant, alive: bool) {
        // Taken out first: dropping a connection looks back into the pool.
        let all = std::mem::take(&mut *self.idle.borrow_mut());
        let (mut keep, mut closed) = (Vec::with_capacity(all.len()), Vec::new());
        for mut connection in all {
            let age = now.duration_since(connection.idle_since);
            let stale = connection.io.is_known_stale();
            if stale {
                self.learn_close(age);
            }
            let limit = connection.idle_limit.unwrap_or(self.idle_limit.get());
            if stale || age > limit || !alive {
                closed.push(connection);
            } else {
                connection.release_buffers();
                keep.push(connection);
            }
        }
        self.idle.borrow_mut().extend(keep);
        drop(closed);
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        let keep: Vec<_> =
            shared.into_iter().filter(|connection| alive && !connection.is_closed(now)).collect();
        self.shared.borrow_mut().extend(keep);
    }
}

/// How long an idle connection is kept when nothing better is known. Common servers close after 60 s or more; those
/// that close earlier are noticed, and learned from.
const DEFAULT_IDLE: Duration = Duration::from_secs(50);

/// Closes after less idle time than this say nothing about an idle limit.
const LEARN_FROM: Duration = Duration::from_secs(1);

/// Past this age every connection is looked at before use: an end that came in the meantime saves an attempt.
const LOOK_AFTER: Duration = Duration::from_secs(1);
