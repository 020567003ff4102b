//! Connections to endpoints that no pool evicts, because each belongs to one client for its whole life: relays and tunnels. They end when
//! their endpoint is revoked, as nobody would be connected to it anew.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;

use crate::cluster::Cluster;
use crate::tls::{self, Revoked};

/// Every such connection of one worker.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    all: RefCell<Vec<Weak<Slot>>>,
}

/// One of them; dropped with the connection.
#[derive(Debug)]
pub(crate) struct Watched {
    /// `None` without TLS.
    slot: Option<Rc<Slot>>,
}

#[derive(Debug)]
struct Slot {
    cluster: Arc<str>,
    session: Arc<tls::Security>,
    /// What was revoked when it was last looked at.
    seen: Cell<u64>,
    revoked: Cell<Option<Revoked>>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    /// Watches a connection to the cluster with this session from now on.
    pub(crate) fn add(&self, cluster: &Cluster, session: Option<&Arc<tls::Security>>) -> Watched {
        let session = session.filter(|session| session.peer.is_some());
        let slot = session.map(|session| {
            let slot = Rc::new(Slot {
                cluster: cluster.name.clone(),
                session: session.clone(),
                // Looked at once in any case: something may have been revoked since hands were shaken.
                seen: Cell::new(0),
                revoked: Cell::new(None),
                waker: RefCell::default(),
            });
            self.all.borrow_mut().push(Rc::downgrade(&slot));
            slot
        });
        Watched { slot }
    }

    /// Holds the endpoints against what is revoked now. Call every second.
    pub(crate) fn recheck(&self, clusters: &FxHashMap<Arc<str>, Arc<Cluster>>) {
        let mut states: FxHashMap<&Arc<str>, u64> = FxHashMap::default();
        self.all.borrow_mut().retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            if let Some((name, cluster)) = clusters.get_key_value(&slot.cluster) {
                let now = *states.entry(name).or_insert_with(|| cluster.sockets.revocation());
                if slot.seen.replace(now) != now {
                    slot.look(cluster);
                }
            }
            true
        });
    }
}

impl Slot {
    /// Whichever socket of the cluster says that the endpoint is revoked is believed.
    fn look(&self, cluster: &Cluster) {
        let Some(peer) = &self.session.peer else { return };
        let revoked = cluster.sockets.all().find_map(|security| security.context.revokes(peer));
        if revoked.is_some() {
            self.revoked.set(revoked);
            self.waker.borrow_mut().take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Watched {
    /// Until the endpoint is revoked; one waiter at a time.
    pub(crate) fn poll_revoked(&self, context: &Context<'_>) -> Poll<Revoked> {
        let Some(slot) = &self.slot else { return Poll::Pending };
        if let Some(revoked) = slot.revoked.get() {
            return Poll::Ready(revoked);
        }
        let mut waker = slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Until the endpoint is revoked.
    pub(crate) async fn revoked(&self) -> Revoked {
        poll_fn(|context| self.poll_revoked(context)).await
    }
}
