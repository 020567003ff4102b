//! The filter chains that connections of this worker are on: each connection is served by its chain's current form, and told when
//! the chain is gone or the proxy shuts down.
//!
//! Worker-local on purpose: a connection that waits for its next request registers nothing that other threads touch.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::drain::Phase;
use crate::snapshot::{ChainId, FilterChain, Listener, Loaded, Reader};
use crate::tls::{self, Revoked};

/// Every chain that has connections here.
pub(crate) struct Chains {
    in_use: RefCell<FxHashMap<ChainId, Rc<InUse>>>,
    /// The snapshot that `in_use` was last compared with.
    seen: RefCell<Loaded>,
    /// The proxy shuts down: every connection should end.
    ending: Cell<bool>,
    /// Memory is scarce: every connection that serves nothing should.
    pressed: Cell<bool>,
    /// Listeners of the connections whose client was revoked, once for each; until they are counted.
    revoked: RefCell<Vec<Arc<str>>>,
}

/// One chain with connections.
#[derive(Debug)]
struct InUse {
    listener: Arc<str>,
    current: RefCell<Arc<FilterChain>>,
    /// The last snapshot that had the chain, once it is gone; and since when it is.
    last: RefCell<Option<(Loaded, Instant)>>,
    /// Connections to wake when it goes, or lets in others than before.
    members: RefCell<FxHashMap<u64, Rc<Slot>>>,
    next: Cell<u64>,
    /// What was revoked when the members were last held against it.
    revocation: Cell<[u8; 32]>,
}

/// One connection.
#[derive(Debug, Default)]
struct Slot {
    waker: RefCell<Option<Waker>>,
    /// Its TLS session, when its client has shown a certificate.
    session: OnceCell<Arc<tls::Security>>,
    /// Its client would not be accepted any more.
    revoked: Cell<Option<Revoked>>,
}

impl Slot {
    fn wake(&self) {
        self.waker.borrow_mut().take().into_iter().for_each(Waker::wake);
    }

    /// Holds the client against what is revoked now. True when it is, and was not before.
    fn is_newly_revoked(&self, chain: &FilterChain) -> bool {
        let (Some(security), Some(session)) = (&chain.security, self.session.get()) else { return false };
        let peer = session.peer.as_ref();
        let revoked = peer.and_then(|peer| security.context.revokes(peer));
        let news = revoked.is_some() && self.revoked.get().is_none();
        if news {
            self.revoked.set(revoked);
        }
        news
    }
}

impl Chains {
    /// No connections; `reader` says what is published now.
    pub(crate) fn new(reader: &Reader) -> Self {
        Self {
            in_use: RefCell::default(),
            seen: RefCell::new(reader.load()),
            ending: Cell::new(false),
            pressed: Cell::new(false),
            revoked: RefCell::default(),
        }
    }

    /// A connection that is on the chain from now on. What is published is followed first: a client that takes its time until its chain
    /// is found must not be on one that is gone, and nobody know.
    pub(crate) fn join(
        self: &Rc<Self>,
        reader: &Reader,
        listener: &Listener,
        chain: &Arc<FilterChain>,
    ) -> Member {
        self.follow(reader);
        let seen = self.seen.borrow();
        let current = seen.listeners.get(&listener.name).and_then(|listener| listener.chains.get(chain.id));
        let new = || {
            Rc::new(InUse {
                listener: listener.name.clone(),
                current: RefCell::new(current.unwrap_or(chain).clone()),
                last: RefCell::new(current.is_none().then(|| (seen.clone(), Instant::now()))),
                members: RefCell::default(),
                next: Cell::new(0),
                revocation: Cell::new(revocation(chain)),
            })
        };
        let in_use = self.in_use.borrow_mut().entry(chain.id).or_insert_with(new).clone();
        let number = in_use.next.replace(in_use.next.get() + 1);
        let slot = Rc::new(Slot::default());
        in_use.members.borrow_mut().insert(number, slot.clone());
        Member { chains: self.clone(), id: chain.id, in_use, number, slot }
    }

    /// Takes note of what is published now: chains have new forms, or are gone. Call when it changes; until then connections find out
    /// with their next request.
    pub(crate) fn follow(&self, reader: &Reader) {
        let now = reader.load();
        let before = self.seen.replace(now.clone());
        if before.version == now.version {
            return;
        }
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for (id, in_use) in &*self.in_use.borrow() {
            if in_use.last.borrow().is_some() {
                continue;
            }
            let listener = now.listeners.get(&in_use.listener);
            match listener.and_then(|listener| listener.chains.get(*id)) {
                Some(chain) => {
                    let old = in_use.current.replace(chain.clone());
                    if !Arc::ptr_eq(&old.gate, &chain.gate) {
                        changed.push(in_use.clone());
                    }
                }
                None => gone.push(in_use.clone()),
            }
        }
        for in_use in &gone {
            *in_use.last.borrow_mut() = Some((before.clone(), Instant::now()));
        }
        for in_use in gone.into_iter().chain(changed) {
            in_use.wake_members();
        }
        self.recheck();
    }

    /// Finds the connections whose client was accepted and is revoked by now: lists of the revoked change with secrets and files too, of
    /// which nothing is published. Call every second.
    pub(crate) fn recheck(&self) {
        for in_use in self.in_use.borrow().values() {
            let chain = in_use.current.borrow();
            let now = revocation(&chain);
            if in_use.revocation.replace(now) == now {
                continue;
            }
            for slot in in_use.members.borrow().values() {
                if slot.is_newly_revoked(&chain) {
                    self.revoked.borrow_mut().push(in_use.listener.clone());
                    slot.wake();
                }
            }
        }
    }

    /// The listeners of connections that were found since the last call.
    pub(crate) fn take_revoked(&self) -> Vec<Arc<str>> {
        self.revoked.take()
    }

    /// Tells every connection that waits, and those that will, what the control thread says.
    pub(crate) fn tell(&self, phase: Phase, pressed: bool) {
        let ending = phase >= Phase::Draining;
        let news = (ending && !self.ending.replace(ending)) | (pressed && !self.pressed.get());
        self.pressed.set(pressed);
        if news {
            self.in_use.borrow().values().for_each(|in_use| in_use.wake_members());
        }
    }
}

impl InUse {
    fn wake_members(&self) {
        for slot in self.members.borrow().values() {
            slot.wake();
        }
    }
}

/// What tells two states of a chain's revocation apart.
fn revocation(chain: &FilterChain) -> [u8; 32] {
    chain.security.as_ref().map_or([0; 32], |security| security.context.revocation())
}

/// One connection's place on its chain.
pub(crate) struct Member {
    chains: Rc<Chains>,
    id: ChainId,
    in_use: Rc<InUse>,
    number: u64,
    slot: Rc<Slot>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.in_use.fmt(formatter)
    }
}

impl Member {
    /// What to serve a request by: the current snapshot, or the last one that had the chain; and the chain's form in it.
    pub(crate) fn load(&self, reader: &Reader) -> (Loaded, Arc<FilterChain>) {
        let now = reader.load();
        if self.chains.seen.borrow().version != now.version {
            self.chains.follow(reader);
        }
        let last = self.in_use.last.borrow().as_ref().map(|(last, _)| last.clone());
        (last.unwrap_or(now), self.in_use.current.borrow().clone())
    }

    /// Since when the chain is gone from the configuration, if it is.
    pub(crate) fn gone_since(&self) -> Option<Instant> {
        self.in_use.last.borrow().as_ref().map(|(_, since)| *since)
    }

    /// Until the chain is gone.
    pub(crate) fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_asked(self.gone_since().is_some(), context)
    }

    /// Until `denies` says so of the chain's current form, which it is asked whenever that may have changed.
    pub(crate) fn poll_denied<R>(
        &self,
        context: &Context<'_>,
        denies: impl FnOnce(&FilterChain) -> Option<R>,
    ) -> Poll<R> {
        let chain = self.in_use.current.borrow().clone();
        if let Some(reason) = denies(&chain) {
            return Poll::Ready(reason);
        }
        self.register(context);
        Poll::Pending
    }

    /// Whether the chain is gone from the configuration, or the client revoked.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.gone_since().is_some() || self.revoked().is_some()
    }

    /// The handshake is done: who the client is, is known from now on.
    pub(crate) fn identify(&self, session: &Arc<tls::Security>) {
        if session.peer.is_none() {
            return;
        }
        let _ = self.slot.session.set(session.clone());
        // Something may have been revoked while hands were shaken.
        if self.slot.is_newly_revoked(&self.in_use.current.borrow()) {
            self.chains.revoked.borrow_mut().push(self.in_use.listener.clone());
        }
    }

    /// Why the client would not be accepted any more, if so.
    pub(crate) fn revoked(&self) -> Option<Revoked> {
        self.slot.revoked.get()
    }

    /// Until the client is revoked; for ever when it has shown no certificate.
    pub(crate) fn poll_revoked(&self, context: &Context<'_>) -> Poll<()> {
        if self.slot.session.get().is_none() {
            return Poll::Pending;
        }
        self.poll_asked(self.revoked().is_some(), context)
    }

    /// Until the connection should end after what it is doing: its chain is gone, its client revoked, or the proxy shuts down. One
    /// waiter at a time, for each connection.
    pub(crate) fn poll_leaving(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_asked(self.chains.ending.get() || self.is_unwanted(), context)
    }

    /// Until the connection should end if it serves nothing: as [`Self::poll_leaving`], or memory is scarce.
    pub(crate) fn poll_unwelcome(&self, context: &Context<'_>) -> Poll<()> {
        let chains = &self.chains;
        self.poll_asked(chains.pressed.get() || chains.ending.get() || self.is_unwanted(), context)
    }

    fn poll_asked(&self, asked: bool, context: &Context<'_>) -> Poll<()> {
        if asked {
            return Poll::Ready(());
        }
        self.register(context);
        Poll::Pending
    }

    fn register(&self, context: &Context<'_>) {
        let mut slot = self.slot.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *slot = Some(context.waker().clone());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.in_use.members.borrow_mut();
        members.remove(&self.number);
        if members.is_empty() {
            self.chains.in_use.borrow_mut().remove(&self.id);
        }
    }
}
