//! One worker's connections, by endpoint identity (D8): an address that is handed to another pod is another endpoint.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::line::Line;
use super::watch::Watch;
use super::{Destination, SendError, http1, http2};
use crate::cluster::{EndpointId, Keep};
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
    /// HTTP/1.1 connections that are idle, and those who wait for one.
    pub(super) line: Line<Box<http1::Connection>, SendError>,
    /// HTTP/2 connections.
    pub(super) shared: RefCell<Vec<http2::Connection>>,
    /// A stream has ended on one of them.
    pub(super) freed: Rc<Notify>,
    /// An HTTP/2 connection is being made: others wait for it instead of making their own.
    pub(super) connecting: Cell<bool>,
    /// How often that failed, and how it did last: those who wait for the connection fail with it.
    pub(super) failures: Cell<u64>,
    pub(super) failure: RefCell<Option<SendError>>,
    /// Requests that wait for a stream to end.
    pub(super) streamless: Cell<usize>,
    /// An HTTP/2 connection is there, or none could be made.
    pub(super) made: Notify,
    /// HTTP/1.1 connections open, idle or not, or being made.
    pub(super) open: Cell<u32>,
    /// One of them was closed, or came back and is none that those who wait would take.
    pub(super) changed: Notify,
    /// How long a connection may be idle by what the endpoint was seen to do.
    learned: Cell<Duration>,
    /// How long connections are kept, as the cluster was last configured.
    pub(super) keep: Cell<Keep>,
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
                line: Line::default(),
                shared: RefCell::default(),
                freed: Rc::default(),
                connecting: Cell::new(false),
                failures: Cell::new(0),
                failure: RefCell::default(),
                open: Cell::new(0),
                streamless: Cell::new(0),
                made: Notify::new(),
                changed: Notify::new(),
                learned: Cell::new(Duration::MAX),
                keep: Cell::default(),
            })
        });
        // The endpoint stays the same when only its cluster changes.
        pool.keep.set(destination.cluster.keep);
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
            if !kept {
                pool.line.close();
            }
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
            drop(pool.line.take_all_idle());
        }
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
        !self.line.has_idle() && self.shared.borrow().is_empty()
    }

    /// The most recently used idle connection that is still good.
    pub(super) fn take_idle(&self, repeatable: bool) -> Option<Box<http1::Connection>> {
        loop {
            let mut connection = self.line.take_idle()?;
            if self.is_fresh(&connection, repeatable) {
                connection.was_idle = true;
                return Some(connection);
            }
        }
    }

    /// Whether a connection that somebody has just put back, or made, can be used.
    pub(super) fn is_good(&self, connection: &http1::Connection, repeatable: bool) -> bool {
        connection.served == 0 || self.is_fresh(connection, repeatable)
    }

    fn is_fresh(&self, connection: &http1::Connection, repeatable: bool) -> bool {
        let age = Instant::now().duration_since(connection.idle_since);
        if self.is_over(connection, age) {
            return false;
        }
        // A request that cannot be sent twice pays for a look at the socket; one that can is told by the runtime, and costs
        // another attempt when the runtime has not yet heard of the end.
        let stale = if repeatable && age < LOOK_AFTER {
            connection.io.is_known_stale()
        } else {
            connection.io.is_stale()
        };
        if stale {
            self.learn_close(connection, age);
        }
        !stale
    }

    /// Closes an idle connection to make room for a new one; false when there is none.
    pub(super) fn drop_idle(&self) -> bool {
        self.line.take_idle().is_some()
    }

    /// The endpoint closed a connection that had been idle for `age`: from now on we stop using them before that.
    /// What never served may have been refused from the start.
    fn learn_close(&self, connection: &http1::Connection, age: Duration) {
        if age >= LEARN_FROM && connection.served > 0 {
            self.learned.set(self.learned.get().min(age.mul_f64(0.8)));
        }
    }

    /// Whether the connection has been idle, or there, for too long.
    fn is_over(&self, connection: &http1::Connection, idle: Duration) -> bool {
        let keep = self.keep.get();
        let known = match connection.announced {
            // What the endpoint says beats our guess, but not what we are told to do.
            Some(announced) => keep.idle.or(Duration::MAX).min(announced),
            None => keep.idle.or(DEFAULT_IDLE).min(self.learned.get()),
        };
        let age = connection.idle_since.duration_since(connection.made).saturating_add(idle);
        idle > known || keep.is_over(age, connection.served)
    }

    fn sweep(&self, now: Instant, alive: bool) {
        // Taken out first: dropping a connection looks back into the pool.
        let all = self.line.take_all_idle();
        let (mut keep, mut closed) = (Vec::with_capacity(all.len()), Vec::new());
        for mut connection in all {
            let age = now.duration_since(connection.idle_since);
            let stale = connection.io.is_known_stale();
            if stale {
                self.learn_close(&connection, age);
            }
            if stale || self.is_over(&connection, age) || !alive {
                closed.push(connection);
            } else {
                connection.release_buffers();
                keep.push(connection);
            }
        }
        self.line.put_back(keep);
        drop(closed);
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        let keep = self.keep.get();
        let kept: Vec<_> =
            shared.into_iter().filter(|connection| alive && !connection.is_closed(now, &keep)).collect();
        self.shared.borrow_mut().extend(kept);
    }
}

/// How long an idle connection is kept when nothing better is known. Common servers close after 60 s or more; those
/// that close earlier are noticed, and learned from.
const DEFAULT_IDLE: Duration = Duration::from_secs(50);

/// Closes after less idle time than this say nothing about an idle limit.
const LEARN_FROM: Duration = Duration::from_secs(1);

/// Past this age every connection is looked at before use: an end that came in the meantime saves an attempt.
const LOOK_AFTER: Duration = Duration::from_secs(1);
