//! A shared connection for a request: the least busy one, or the one that is being made.
//!
//! As in HTTP/1.1, connections are made by tasks of their own: requests that give up before take nothing down with them.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Connection, STREAMS_BEFORE_ANOTHER, start};
use crate::cluster::Cluster;
use crate::upstream::checkout::PendingClaim;
use crate::upstream::connect::{ConnectionPlace, Dial, Want};
use crate::upstream::pool::{Pool, Pools};
use crate::upstream::{Destination, SendError};

/// How much a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Light,
    /// Another connection would be better.
    Busy,
    /// The endpoint, or the configuration, allows no more streams.
    Full,
}

impl Pools {
    pub(super) async fn checkout_http2(&self, destination: &Destination) -> Result<Connection, SendError> {
        let cluster = &destination.cluster;
        let mut pool = self.of(destination);
        // Who waits for a stream was here before: those of them who have been woken go first.
        if pool.streamless.get() > 0 {
            tokio::task::yield_now().await;
        }
        loop {
            if pool.line.is_closed() {
                pool = self.of(destination);
            }
            let best = pool.least_busy();
            let load = best.as_ref().map_or(Load::Full, Connection::load);
            // More connections help where each takes few streams, not where none takes any.
            let helps = best.as_ref().is_some_and(|best| best.sender.current_max_send_streams() > 0);
            let most = if load == Load::Full && helps { MOST_CONNECTIONS } else { MAX_CONNECTIONS };
            let may_open = pool.shared.borrow().len() < most && !pool.connecting.get();
            // At the bound on connections, streams share what there is.
            let place = (load != Load::Light && may_open)
                .then(|| ConnectionPlace::take(cluster, best.is_none()))
                .flatten();
            let began = place.map(|place| self.open_http2(destination, &pool, place)).is_some();
            match best {
                // Whoever comes when the next one is there takes that.
                Some(best) if load != Load::Full => {
                    best.state.begun.set(best.state.begun.get().saturating_add(1));
                    return Ok(best);
                }
                Some(_) if !pool.connecting.get() => pool.await_stream(cluster).await?,
                _ => pool.await_connection(cluster, began).await?,
            }
        }
    }

    /// Begins to make a connection, whoever still waits for it once it is there.
    fn open_http2(&self, destination: &Destination, pool: &Rc<Pool>, place: ConnectionPlace) {
        let connecting = Connecting::new(pool.clone());
        let cluster = &destination.cluster;
        let want = Want { protocol: Some(b"h2"), server_name: destination.server_name.as_deref() };
        let dial = Dial::new(cluster, &destination.endpoint, want);
        let (options, recorder) = (cluster.http2, self.recorder.clone());
        tokio::task::spawn_local(async move {
            let pool = &connecting.pool;
            let making = async {
                let opened = dial.run(&recorder).await?;
                start(opened, place.opened(&recorder), options, pool.freed.clone()).await
            };
            let made = tokio::select! {
                biased;
                () = pool.line.closed() => return,
                made = making => made,
            };
            match made {
                Ok(connection) => pool.shared.borrow_mut().push(connection),
                Err(error) => {
                    pool.failures.set(pool.failures.get() + 1);
                    pool.failure.replace(Some(error));
                }
            }
        });
    }
}

impl Connection {
    fn load(&self) -> Load {
        let streams = self.state.guard.active();
        let most = self.sender.current_max_send_streams().min(self.state.most);
        // Before its SETTINGS have come, what the endpoint allows is a guess.
        if streams >= most && self.state.guard.reads() > 0 {
            Load::Full
        } else if streams >= STREAMS_BEFORE_ANOTHER {
            Load::Busy
        } else {
            Load::Light
        }
    }
}

impl Pool {
    fn least_busy(&self) -> Option<Connection> {
        let mut shared = self.shared.borrow_mut();
        let (now, keep) = (Instant::now(), self.keep.get());
        // Those that are over end with their last stream.
        shared.retain(|connection| !connection.is_closed(now, &keep));
        shared.iter().min_by_key(|connection| connection.state.guard.active()).cloned()
    }

    /// Waits until the connection that is being made is there, and fails with it: one bound of time for all who wait, not one after the
    /// other against an address that does not answer. Who `began` it counts as no request that waits for others.
    async fn await_connection(&self, cluster: &Cluster, began: bool) -> Result<(), SendError> {
        let made = self.made.notified();
        let _pending = (!began).then(|| PendingClaim::new(cluster)).transpose()?;
        let failures = self.failures.get();
        made.await;
        match &*self.failure.borrow() {
            Some(error) if self.failures.get() != failures => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until a stream has ended on one of the connections, the endpoint allows more, or there is another connection; first come,
    /// first served.
    async fn await_stream(&self, cluster: &Cluster) -> Result<(), SendError> {
        let _pending = PendingClaim::new(cluster)?;
        let _streamless = Streamless::new(self);
        let more = async {
            tokio::select! {
                biased;
                () = self.freed.notified() => {}
                () = self.made.notified() => {}
            }
        };
        // Of a place among the cluster's connections that others gave up, only those hear who can take nothing else.
        let _ = tokio::time::timeout(PLACE_LOOK, more).await;
        Ok(())
    }
}

/// One that waits for a stream.
struct Streamless<'a> {
    pool: &'a Pool,
}

impl<'a> Streamless<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.streamless.set(pool.streamless.get() + 1);
        Self { pool }
    }
}

impl Drop for Streamless<'_> {
    fn drop(&mut self) {
        self.pool.streamless.set(self.pool.streamless.get().saturating_sub(1));
    }
}

/// Only one connection to an endpoint is being made at a time; those who wait look again when this is dropped.
struct Connecting {
    pool: Rc<Pool>,
}

impl Connecting {
    fn new(pool: Rc<Pool>) -> Self {
        pool.connecting.set(true);
        Self { pool }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.pool.connecting.set(false);
        self.pool.made.notify_waiters();
    }
}

/// Connections to one endpoint from one worker.
pub(super) const MAX_CONNECTIONS: usize = 4;
/// Connections where each takes few streams.
const MOST_CONNECTIONS: usize = 64;
/// How often a request that waits for a stream looks for a place among the cluster's connections.
const PLACE_LOOK: Duration = Duration::from_secs(1);
