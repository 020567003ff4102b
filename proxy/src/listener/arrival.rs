//! From an accepted connection to its filter chain: listener filters, hand-over to the listener of the original destination, and,
//! only where some chain depends on them, a look at the first bytes.
//!
//! Who speaks first decides (`docs/adr/0009-listeners.md`): while a client is silent, the endpoint of the opaque chain that would take
//! a connection without TLS is dialled, and if it speaks before the client does, that chain has the connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::connection;
use super::first_bytes::{self, Looks, Sight};
use super::race::Race;
use crate::error::Reason;
use crate::io::{Io, canonical};
use crate::proxy_header::{self, Header};
use crate::snapshot::{
    Choice, Facts, FilterChain, Inspection, Listener, Preamble, ProxyHeaderRule, Road, Told,
};
use crate::tcp::Opening;
use crate::timer;
use crate::worker::Worker;

/// A connection on its way to a filter chain.
pub(super) struct Arrival {
    pub(super) io: Io,
    /// Read already.
    pub(super) ahead: BytesMut,
    /// Where it wanted to go.
    pub(super) destination: SocketAddr,
    /// Who it comes from.
    pub(super) source: SocketAddr,
    /// The destination is not our own address.
    pub(super) redirected: bool,
}

/// A connection that ends before it is on a chain.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// The listener and the chain that have a connection; and its endpoint, when that was dialled to find out.
pub(super) struct Chosen {
    pub(super) listener: Arc<Listener>,
    pub(super) chain: Arc<FilterChain>,
    pub(super) opening: Option<Opening>,
    /// The name that its first bytes ask for, empty when they ask for none; `None` when nobody knows yet.
    pub(super) server_name: Option<Box<str>>,
}

impl Arrival {
    /// Just accepted.
    pub(super) fn new(io: Io) -> Self {
        let (destination, source) = (io.local, io.peer);
        Self { io, ahead: BytesMut::new(), destination, source, redirected: false }
    }

    /// Runs what comes before the chain, and finds it.
    pub(super) async fn choose(
        &mut self,
        worker: &Rc<Worker>,
        listener: Arc<Listener>,
    ) -> Result<Chosen, Refusal> {
        let mut listener = listener;
        let mut deadline = deadline_of(&listener.preamble);
        let mut looks = self.run_filters(&listener, deadline).await?;
        if listener.hand_over
            && self.redirected
            && let Some(other) = worker.snapshots.load().by_address.for_destination(self.destination)
            && other.name != listener.name
        {
            listener = other.clone();
            deadline = deadline_of(&listener.preamble);
            looks = self.run_filters(&listener, deadline).await?;
        }
        if !listener.preamble.filters.is_empty() {
            listener = current(worker, &listener)?;
        }
        match listener.chains.choose(&self.facts(None)) {
            // Its network filters may ask for what the first bytes say.
            Choice::Chain(chain) if chain.security.is_none() && chain.gate.asks_server_name() => {}
            Choice::Chain(chain) => {
                let chain = chain.clone();
                // No HTTP without TLS asks for a name.
                let server_name = chain.http().is_some().then(Box::default);
                return Ok(Chosen { listener, chain, opening: None, server_name });
            }
            Choice::Nothing => return Err(self.no_chain(&Told::NOTHING)),
            Choice::NeedsBytes => {}
        }
        self.choose_by_bytes(worker, listener, looks, deadline).await
    }

    fn facts<'a>(&self, told: Option<Told<'a>>) -> Facts<'a> {
        Facts { destination: self.destination, direct_source: self.io.peer, source: self.source, told }
    }

    fn no_chain(&self, told: &Told<'_>) -> Refusal {
        let Told { server_name, transport, protocols } = told;
        let detail = format!(
            "to {}, from {}, {transport}, server name {server_name:?}, protocols {protocols:?}",
            self.destination, self.source
        );
        Refusal::new(Reason::NoFilterChain, detail)
    }

    /// Runs the listener filters; what is left is to look at the first bytes.
    async fn run_filters(
        &mut self,
        listener: &Listener,
        deadline: Option<Instant>,
    ) -> Result<Looks, Refusal> {
        let preamble = &listener.preamble;
        // Without an inspector, chains that need to know of TLS are told all the same, as Envoy does.
        let inspected = preamble.filters.iter().any(|filter| filter.kind == Inspection::Tls);
        let mut looks = Looks { tls: !inspected, http: false };
        for filter in &preamble.filters {
            let port = self.destination.port();
            if filter.disabled.as_ref().is_some_and(|rule| rule.holds(port)) {
                continue;
            }
            match filter.kind {
                Inspection::Tls => looks.tls = true,
                Inspection::Http => looks.http = true,
                Inspection::OriginalDestination => self.restore_destination(),
                Inspection::ProxyHeader(rule) => {
                    let reading = pin!(self.read_proxy_header(rule));
                    match timer::until(deadline, reading).await {
                        Ok(read) => read?,
                        // Nobody is behind the connection then but its other end.
                        Err(timer::Elapsed) if preamble.goes_on_late => {}
                        Err(timer::Elapsed) => return Err(late("no whole PROXY header")),
                    }
                }
            }
        }
        Ok(looks)
    }

    fn restore_destination(&mut self) {
        if let Some(original) = self.io.original_destination()
            && original != self.io.local
        {
            self.destination = original;
            self.redirected = true;
        }
    }

    async fn read_proxy_header(&mut self, rule: ProxyHeaderRule) -> Result<(), Refusal> {
        let malformed = |why: &str| Err(Refusal::new(Reason::BadPreamble, why));
        loop {
            match proxy_header::parse(&self.ahead) {
                Header::Complete(header) => {
                    let allowed = match header.version {
                        proxy_header::Version::V1 => rule.v1,
                        proxy_header::Version::V2 => rule.v2,
                    };
                    if !allowed {
                        return malformed("a PROXY header of a version that is not allowed here");
                    }
                    self.ahead.advance(header.length);
                    if let Some((source, destination)) = header.addresses {
                        let (source, destination) = (canonical(source), canonical(destination));
                        self.redirected |= destination != self.io.local;
                        (self.source, self.destination) = (source, destination);
                    }
                    return Ok(());
                }
                Header::Absent if rule.optional => return Ok(()),
                Header::Absent => return malformed("no PROXY header"),
                Header::Malformed(why) => return malformed(why),
                Header::Incomplete => {}
            }
            if !self.read_more(proxy_header::MOST_BYTES).await {
                return Err(Refusal::new(Reason::DownstreamClosed, "it closed within its PROXY header"));
            }
        }
    }

    /// Reads on; false at the end of the stream.
    pub(super) async fn read_more(&mut self, most: usize) -> bool {
        // Room for more than is missing saves a second read; what belongs to the protocol is handed on with the rest.
        self.ahead.reserve(most.saturating_sub(self.ahead.len()).clamp(1, FIRST_READ));
        let (io, ahead) = (&self.io, &mut self.ahead);
        matches!(poll_fn(|context| io.poll_read(context, ahead)).await, Ok(1..))
    }

    async fn choose_by_bytes(
        &mut self,
        worker: &Rc<Worker>,
        mut listener: Arc<Listener>,
        looks: Looks,
        deadline: Option<Instant>,
    ) -> Result<Chosen, Refusal> {
        let mut race = Race::new(&listener, self.quiet_chain(&listener));
        let mut seen = true;
        loop {
            let sight = first_bytes::look(&self.ahead, looks);
            let sight = match sight {
                Sight::Told(told) => told,
                Sight::Malformed(why) => return Err(Refusal::new(Reason::BadPreamble, why)),
                Sight::Needs(needed) => match race.wait(worker, self, needed, deadline).await {
                    Waited::Bytes => continue,
                    // What there is says nothing more than that it is no TLS.
                    Waited::End => first_bytes::Seen::default(),
                    Waited::Silence if race.is_on() => return race.won(worker, self).await,
                    Waited::Silence if listener.preamble.goes_on_late => {
                        seen = false;
                        first_bytes::Seen::default()
                    }
                    Waited::Silence => return Err(late("too few bytes to tell what it is")),
                    Waited::UpstreamSpoke => return race.won(worker, self).await,
                },
            };
            listener = current(worker, &listener)?;
            let told = sight.told();
            return match listener.chains.choose(&self.facts(Some(told))) {
                Choice::Chain(chain) => {
                    let chain = chain.clone();
                    let server_name = seen.then(|| told.server_name.into());
                    let opening = race.into_opening(chain.id).await;
                    Ok(Chosen { listener, chain, opening, server_name })
                }
                _ if self.ahead.is_empty() => {
                    Err(Refusal::new(Reason::DownstreamClosed, "it closed without a word"))
                }
                Choice::Nothing | Choice::NeedsBytes => Err(self.no_chain(&told)),
            };
        }
    }

    /// The opaque chain that has the connection if it turns out to say nothing.
    fn quiet_chain(&self, listener: &Listener) -> Option<Arc<FilterChain>> {
        match listener.chains.choose(&self.facts(Some(Told::NOTHING))) {
            // An endpoint is not bothered for those whom it would not be let have.
            Choice::Chain(chain)
                if chain.security.is_none()
                    && matches!(chain.road, Road::Tcp(_))
                    && (chain.gate.is_open()
                        || chain.gate.would_admit(&connection(listener, chain, self), self.io.peer.ip())) =>
            {
                Some(chain.clone())
            }
            _ => None,
        }
    }
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The bytes that were asked for.
    Bytes,
    /// The client will not send more.
    End,
    /// Neither side has spoken in time.
    Silence,
    /// The endpoint has spoken first.
    UpstreamSpoke,
}

/// The listener's form now: what was published while a connection's bytes were waited for decides.
fn current(worker: &Worker, listener: &Listener) -> Result<Arc<Listener>, Refusal> {
    let current = worker.snapshots.load().listeners.get(&listener.name).cloned();
    current.ok_or_else(|| Refusal::new(Reason::Draining, "its listener is gone"))
}

fn deadline_of(preamble: &Preamble) -> Option<Instant> {
    // Most connections need none of it: then the clock is not asked.
    preamble.timeout.map(|timeout| Instant::now() + timeout)
}

fn late(what: &str) -> Refusal {
    Refusal::new(Reason::DownstreamTimeout, format!("{what} within listener_filters_timeout"))
}

/// Bytes asked for first: most ClientHellos fit.
const FIRST_READ: usize = 4 * 1024;

/// How long a client may be silent before the endpoint is dialled to hear whether it speaks first. Clients that speak first do so
/// within a round trip.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// The same where mutual TLS is spoken too: there a client that is taken for one without TLS, because its first word was lost once (200 ms
/// until it is repeated) or its processor was busy, has failed.
pub(super) const QUIET_BESIDE_MUTUAL: Duration = Duration::from_millis(250);
