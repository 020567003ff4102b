//! What one worker thread owns: its reader of the snapshot, its pools, its recorder, its randomness.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::drain;
use crate::overload::{self, Action};
use crate::snapshot::{Handle, Reader};
use crate::telemetry::Recorder;
use crate::upstream::{Pools, Resolver, Watch};

mod chains;

pub(crate) use chains::{Chains, Member};

/// One worker. Lives on its thread; everything on the request path borrows it.
pub(crate) struct Worker {
    /// The current snapshot.
    pub(crate) snapshots: Reader,
    /// Filter chains that connections are on.
    pub(crate) chains: Rc<Chains>,
    /// Connections to endpoints.
    pub(crate) pools: Pools,
    /// Connections to endpoints that are in no pool: relays and tunnels.
    pub(crate) watch: Rc<Watch>,
    /// Destinations outside the mesh.
    pub(crate) resolver: Resolver,
    /// Counters and logs.
    pub(crate) recorder: Recorder,
    /// How far the shutdown is.
    pub(crate) drain: drain::Watcher,
    /// What is given up or refused for want of memory.
    pub(crate) overload: overload::Watch,
    random: RefCell<SmallRng>,
    /// Where short texts are written that outlive their requests' heads.
    texts: RefCell<BytesMut>,
}

impl Worker {
    /// A worker with no connections.
    pub(crate) fn new(
        snapshots: &Handle,
        recorder: Recorder,
        drain: drain::Watcher,
        overload: overload::Watch,
    ) -> Self {
        let snapshots = snapshots.reader();
        let watch = Rc::new(Watch::default());
        Self {
            chains: Rc::new(Chains::new(&snapshots)),
            snapshots,
            pools: Pools::new(recorder.clone(), watch.clone()),
            watch,
            resolver: Resolver::default(),
            recorder,
            drain,
            overload,
            random: RefCell::new(SmallRng::from_os_rng()),
            texts: RefCell::default(),
        }
    }

    /// A uniform `u32`.
    pub(crate) fn roll(&self) -> u32 {
        self.random.borrow_mut().random()
    }

    /// A uniform `u64`.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    /// A short text that can be shared: many of them share one piece of memory, which is given back with the last of them.
    pub(crate) fn text(&self, text: &str) -> Bytes {
        let mut texts = self.texts.borrow_mut();
        if texts.capacity() < text.len() {
            *texts = BytesMut::with_capacity(TEXTS.max(text.len()));
        }
        texts.extend_from_slice(text.as_bytes());
        texts.split().freeze()
    }

    /// Whether connections should end after what they are doing.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.phase() >= drain::Phase::Draining || self.overload.is(Action::DisableKeepAlive)
    }

    /// Runs every second: what nobody uses goes, and while memory is scarce also what somebody might use.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pools.sweep(now);
        self.watch.recheck(&self.snapshots.load().clusters);
        self.chains.recheck();
        for listener in self.chains.take_revoked() {
            self.recorder.peer_revoked(&listener);
        }
        if self.overload.is(Action::Shrink) {
            self.pools.shrink();
            crate::io::drop_spare_buffers();
            crate::message::drop_spare_fields();
        }
    }
}

/// Bytes of texts that share a piece of memory.
const TEXTS: usize = 4 * 1024;
