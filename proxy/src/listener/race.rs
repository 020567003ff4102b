//! Who speaks first, the client or the endpoint?

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::arrival::{Arrival, Chosen, QUIET, QUIET_BESIDE_MUTUAL, Refusal, Waited};
use super::downstream;
use crate::snapshot::{ChainId, FilterChain, Listener, Road};
use crate::tcp::{self, Opening};
use crate::worker::Worker;

/// The endpoint's part of a race.
pub(super) struct Race {
    listener: Arc<Listener>,
    /// The opaque chain that has the connection when its endpoint speaks first; `None`: there is no race.
    chain: Option<Arc<FilterChain>>,
    runner: Runner,
}

enum Runner {
    Waiting,
    Dialling(Pin<Box<dyn Future<Output = Opening>>>),
    Listening(Box<Opening>),
}

impl Race {
    /// Nobody runs yet.
    pub(super) fn new(listener: &Arc<Listener>, chain: Option<Arc<FilterChain>>) -> Self {
        Self { listener: listener.clone(), chain, runner: Runner::Waiting }
    }

    /// Whether the endpoint takes part.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.runner, Runner::Waiting)
    }

    /// Waits until the client has sent so many bytes, or something else is clear.
    pub(super) async fn wait(
        &mut self,
        worker: &Rc<Worker>,
        arrival: &mut Arrival,
        needed: usize,
        deadline: Option<Instant>,
    ) -> Waited {
        let patience = if self.listener.chains.has_mutual() { QUIET_BESIDE_MUTUAL } else { QUIET };
        let quiet = Instant::now() + patience;
        loop {
            let silent = arrival.ahead.is_empty() && self.chain.is_some() && !self.is_on();
            let wake =
                if silent { Some(deadline.map_or(quiet, |deadline| deadline.min(quiet))) } else { deadline };
            let more = tokio::select! {
                biased;
                more = arrival.read_more(crate::detect::MOST_HELLO) => more,
                () = self.runner.run() => return Waited::UpstreamSpoke,
                () = until(wake) => {
                    if !silent || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Waited::Silence;
                    }
                    self.start(worker, arrival);
                    continue;
                }
            };
            match more {
                true if arrival.ahead.len() >= needed => return Waited::Bytes,
                true => {}
                // Half a close is no word: the endpoint may still have some.
                false if arrival.ahead.is_empty() && self.chain.is_some() => {
                    if !self.is_on() {
                        self.start(worker, arrival);
                    }
                    return Waited::UpstreamSpoke;
                }
                false => return Waited::End,
            }
        }
    }

    /// Dials the endpoint.
    fn start(&mut self, worker: &Rc<Worker>, arrival: &Arrival) {
        let Some(chain) = &self.chain else { return };
        let Road::Tcp(tcp) = &chain.road else { return };
        let downstream = Rc::new(downstream(worker, &self.listener, chain, arrival));
        let dialling = tcp::open(worker.clone(), downstream, tcp.clone());
        self.runner = Runner::Dialling(Box::pin(dialling));
    }

    /// The opaque chain has the connection.
    pub(super) async fn won(self, worker: &Rc<Worker>, arrival: &Arrival) -> Result<Chosen, Refusal> {
        let mut race = self;
        let Some(chain) = race.chain.clone() else {
            return Err(Refusal::new(crate::error::Reason::NoFilterChain, "nobody was in the race"));
        };
        if !race.is_on() {
            race.start(worker, arrival);
        }
        let listener = race.listener.clone();
        let opening = race.into_opening(chain.id).await;
        // It has not spoken: what it may yet ask for is not known.
        Ok(Chosen { listener, chain, opening, server_name: None })
    }

    /// The connection to the endpoint, if this is its chain.
    pub(super) async fn into_opening(self, chain: ChainId) -> Option<Opening> {
        if self.chain.is_none_or(|own| own.id != chain) {
            return None;
        }
        match self.runner {
            Runner::Waiting => None,
            Runner::Dialling(dialling) => Some(dialling.await),
            Runner::Listening(opening) => Some(*opening),
        }
    }
}

impl Runner {
    /// Until the endpoint has spoken; for ever when nobody runs.
    async fn run(&mut self) {
        if let Self::Dialling(dialling) = self {
            let opening = dialling.as_mut().await;
            *self = Self::Listening(Box::new(opening));
        }
        match self {
            Self::Listening(opening) => opening.spoke().await,
            _ => std::future::pending().await,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
