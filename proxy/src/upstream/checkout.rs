//! An HTTP/1.1 connection for a request: an idle one, or the first that comes back or is made.
//!
//! Connections are made by tasks of their own, within `connect_timeout`. A request that gives up before takes nothing down with it: were its
//! half-done handshake thrown away, an endpoint that is slower than the requests' patience would shake hands for ever and serve nobody.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::connect::{ConnectionPlace, Dial, Want};
use super::pool::{Pool, Pools};
use super::{Destination, SendError, http1};
use crate::cluster::Cluster;
use crate::error::Reason;

impl Pools {
    /// An HTTP/1.1 connection: an idle one that is still good, or one that has just come back or been made. `repeatable` says that the
    /// request is sent again if the connection turns out to be closed; `fresh` asks for none that was idle.
    pub(super) async fn checkout(
        &self,
        destination: &Destination,
        repeatable: bool,
        fresh: bool,
    ) -> Result<Box<http1::Connection>, SendError> {
        loop {
            let pool = self.of(destination);
            let idle = if fresh { None } else { pool.take_idle(repeatable) };
            let connection = match idle {
                Some(connection) => connection,
                // Boxed: every request would carry the room that waiting needs.
                None => match Box::pin(self.stand_in_line(destination, &pool, fresh)).await? {
                    Some(connection) if pool.is_good(&connection, repeatable) => connection,
                    // It has ended since it was put back, or the pool has: another one has what is good now.
                    _ => continue,
                },
            };
            destination.took(connection.session.as_ref());
            return Ok(connection);
        }
    }

    /// Waits for a connection, and sees to it that one is on its way; `None` when the pool is no longer used.
    async fn stand_in_line(
        &self,
        destination: &Destination,
        pool: &Rc<Pool>,
        fresh: bool,
    ) -> Result<Option<Box<http1::Connection>>, SendError> {
        let cluster = &destination.cluster;
        let mut turn = pool.line.join(fresh);
        let mut coming = self.see_to_attempt(destination, pool, fresh).is_some();
        // Counted as waiting: who depends on what others have.
        let mut pending = (!coming).then(|| PendingClaim::new(cluster)).transpose()?;
        loop {
            // One wakes for all: whoever looks begins the attempt that the line needs, and its first gets what comes.
            let freed = tokio::select! {
                biased;
                come = turn.come() => return come,
                () = pool.changed.notified() => false,
                // Another worker's connection may be the one that closes.
                () = cluster.live.freed.notified(), if !coming => true,
            };
            let seen_to = self.see_to_attempt(destination, pool, fresh);
            if freed && seen_to == Some(Attempt::OnItsWay) {
                // The place is somebody else's to take, who would not hear of it again.
                cluster.live.freed.notify_one();
            }
            coming = seen_to.is_some();
            if coming {
                drop(pending.take());
            }
        }
    }

    /// Begins an attempt if the line needs one and there is a place for it; `None` when there is no place.
    fn see_to_attempt(&self, destination: &Destination, pool: &Rc<Pool>, fresh: bool) -> Option<Attempt> {
        if !pool.line.needs_attempt() {
            return Some(Attempt::OnItsWay);
        }
        loop {
            // One connection for each worker is always allowed, so that a limit below the number of workers cannot starve one.
            if let Some(place) = ConnectionPlace::take(&destination.cluster, pool.open.get() == 0) {
                self.begin_attempt(destination, pool, place);
                return Some(Attempt::Begun);
            }
            if !(fresh && pool.drop_idle()) {
                return None;
            }
        }
    }

    fn begin_attempt(&self, destination: &Destination, pool: &Rc<Pool>, place: ConnectionPlace) {
        let want = Want { protocol: Some(b"http/1.1"), server_name: destination.server_name.as_deref() };
        let dial = Dial::new(&destination.cluster, &destination.endpoint, want);
        let (underway, count) = (Underway::new(pool.clone()), OpenCount::new(pool.clone()));
        let recorder = self.recorder.clone();
        tokio::task::spawn_local(async move {
            let made = tokio::select! {
                biased;
                () = count.pool.line.closed() => return,
                made = dial.run(&recorder) => made,
            };
            drop(underway);
            let pool = count.pool.clone();
            match made {
                Ok(opened) => {
                    let connection = http1::Connection::new(opened, place.opened(&recorder), count);
                    pool.line.give(Box::new(connection));
                }
                Err(error) => {
                    // Given back first: who fails may try again at once.
                    drop((place, count));
                    pool.line.fail(&error, pool.open.get() > pool.line.attempts());
                }
            }
        });
    }
}

/// How a request is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// By an attempt that was begun for it.
    Begun,
    /// By one that somebody else began, and perhaps waits for no more.
    OnItsWay,
}

/// An attempt that is on its way.
struct Underway {
    pool: Rc<Pool>,
}

impl Underway {
    fn new(pool: Rc<Pool>) -> Self {
        pool.line.begin();
        Self { pool }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.pool.line.end();
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
