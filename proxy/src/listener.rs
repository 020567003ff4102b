//! Accepting connections. The control thread binds ([`bind`]); every worker accepts on a socket of its own (`SO_REUSEPORT`, D2),
//! finds the listener's current form, and conducts the connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::drain::Phase;
use crate::error::Reason;
use crate::exchange::Downstream;
use crate::io::Io;
use crate::message::Scheme;
use crate::snapshot::{Direction, FilterChain, Listener, Road};
use crate::worker::Worker;
use crate::{http, tcp, telemetry, tls};

use arrival::{Arrival, Chosen, Refusal};
use bytes::BytesMut;

mod arrival;
pub(crate) mod bind;
mod first_bytes;
mod race;

/// What the control thread, or another worker, tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on this socket, which is bound to the configured address.
    Accept(SocketAddr, std::net::TcpListener),
    /// Stop accepting on the configured address.
    Stop(SocketAddr),
    /// Serve a connection that another worker accepted on the configured address.
    Take(SocketAddr, (std::net::TcpStream, SocketAddr), Load),
}

/// Connections of every worker, and the ways to hand one over.
#[derive(Debug)]
pub(crate) struct Balance {
    loads: Box<[AtomicUsize]>,
    workers: Box<[mpsc::Sender<Command>]>,
    /// Connections that the process may have open.
    limit: usize,
}

impl Balance {
    /// For as many workers as there are ways to reach one.
    pub(crate) fn new(workers: Vec<mpsc::Sender<Command>>, limit: usize) -> Self {
        let loads = workers.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { loads, workers: workers.into(), limit }
    }

    /// Connections open now.
    pub(crate) fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// A worker that has clearly fewer connections than this one.
    fn lighter(&self, own: usize) -> Option<usize> {
        let load = |index: usize| self.loads[index].load(Ordering::Relaxed);
        let lightest = (0..self.loads.len()).min_by_key(|index| load(*index))?;
        let margin = 2 + load(lightest) / 8;
        (load(own) > load(lightest) + margin).then_some(lightest)
    }
}

/// One connection's place in its worker's load.
#[derive(Debug)]
pub(crate) struct Load {
    balance: Arc<Balance>,
    worker: usize,
}

impl Load {
    fn new(balance: &Arc<Balance>, worker: usize) -> Self {
        balance.loads[worker].fetch_add(1, Ordering::Relaxed);
        Self { balance: balance.clone(), worker }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.balance.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's place among those of its filter chain, over all workers.
struct ChainPlace {
    open: Arc<AtomicU32>,
}

impl ChainPlace {
    /// A place, unless `connection_limit` is reached.
    fn take(chain: &FilterChain) -> Option<Self> {
        let before = chain.open.fetch_add(1, Ordering::Relaxed);
        let place = Self { open: chain.open.clone() };
        chain.max_connections.is_none_or(|most| before < most).then_some(place)
    }
}

impl Drop for ChainPlace {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's accepting side.
pub(crate) struct Acceptor {
    worker: Rc<Worker>,
    index: usize,
    balance: Arc<Balance>,
    /// Dropping a sender ends the accept loop of that address.
    accepting: RefCell<FxHashMap<SocketAddr, watch::Sender<()>>>,
}

impl Acceptor {
    /// The acceptor of worker `index`.
    pub(crate) fn new(worker: Rc<Worker>, index: usize, balance: Arc<Balance>) -> Rc<Self> {
        Rc::new(Self { worker, index, balance, accepting: RefCell::default() })
    }

    /// Follows commands, and what is published, until the shutdown's end.
    pub(crate) async fn run(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut drain = self.worker.drain.clone();
        let mut changed = self.worker.snapshots.changed();
        loop {
            let command = tokio::select! {
                biased;
                () = drain.reached(Phase::Ended) => return,
                Ok(()) = changed.changed() => {
                    self.worker.chains.follow(&self.worker.snapshots);
                    continue;
                }
                command = commands.recv() => command,
            };
            match command {
                Some(Command::Accept(address, socket)) => self.start(address, socket),
                Some(Command::Stop(address)) => drop(self.accepting.borrow_mut().remove(&address)),
                Some(Command::Take(address, (stream, peer), load)) => {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.serve(address, stream, peer, load);
                    }
                }
                None => return,
            }
        }
    }

    fn start(self: &Rc<Self>, address: SocketAddr, socket: std::net::TcpListener) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!("cannot accept on {address}: {error}"),
        };
        let (stop, stopped) = watch::channel(());
        self.accepting.borrow_mut().insert(address, stop);
        tokio::task::spawn_local(self.clone().accept(address, socket, stopped));
    }

    /// Accepts until told to stop. Survives every error (R9): those of one connection at once, those of the system with a pause.
    async fn accept(
        self: Rc<Self>,
        address: SocketAddr,
        socket: TcpListener,
        mut stopped: watch::Receiver<()>,
    ) {
        let mut drain = self.worker.drain.clone();
        let mut pause = FIRST_PAUSE;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopped.changed() => return,
                () = drain.reached(Phase::Draining) => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    self.place(address, stream, peer);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("cannot accept on {address}: {error}; trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Serves the connection here, or hands it to a worker that has clearly fewer: long-lived ones must not pile up on one core.
    fn place(self: &Rc<Self>, address: SocketAddr, stream: TcpStream, peer: SocketAddr) {
        if let Some(lighter) = self.balance.lighter(self.index)
            && let Ok(permit) = self.balance.workers[lighter].try_reserve()
        {
            if let Ok(stream) = stream.into_std() {
                // Counted there at once: a burst must not all go to the worker that was the lightest before it.
                permit.send(Command::Take(address, (stream, peer), Load::new(&self.balance, lighter)));
            }
            return;
        }
        self.serve(address, stream, peer, Load::new(&self.balance, self.index));
    }

    fn serve(self: &Rc<Self>, address: SocketAddr, stream: TcpStream, peer: SocketAddr, load: Load) {
        let snapshot = self.worker.snapshots.load();
        // A listener that was removed a moment ago still has connections in its queue: they are closed.
        let Some(listener) = snapshot.by_address.bound(address) else { return };
        let Ok(io) = Io::new(stream, peer) else { return };
        if self.worker.overload.refuses_connections() {
            self.worker.recorder.downstream_overload(&listener.name);
            io.reset_on_close();
            return;
        }
        if self.balance.connections() > self.balance.limit {
            self.worker.recorder.downstream_overflow(&listener.name);
            io.reset_on_close();
            return;
        }
        // Boxed: the runtime moves a task several times.
        tokio::task::spawn_local(Box::pin(serve_connection(self.worker.clone(), listener.clone(), io, load)));
    }
}

/// The conductor of one connection.
async fn serve_connection(worker: Rc<Worker>, listener: Arc<Listener>, io: Io, _load: Load) {
    let _open = worker.recorder.downstream_opened(&listener.name);
    let mut arrival = Arrival::new(io);
    let Chosen { listener, chain, opening, server_name } =
        match arrival.choose(&worker, listener.clone()).await {
            Ok(chosen) => chosen,
            Err(refusal) => return refuse(&worker, &listener, &arrival, refusal),
        };
    let Some(_place) = ChainPlace::take(&chain) else {
        let detail =
            format!("{} connections on filter chain {}", chain.open.load(Ordering::Relaxed), chain.name);
        let refusal = Refusal { reason: Reason::DownstreamOverflow, detail };
        return refuse(&worker, &listener, &arrival, refusal);
    };
    if listener.chains.accepts_unproven(&chain) {
        worker.recorder.downstream_unsecured(&listener.name);
    }
    let downstream = downstream(&worker, &listener, &chain, &arrival);
    let Arrival { io, ahead, .. } = arrival;
    let Some((io, ahead, security)) = secure(&worker, &listener, &chain, io, ahead).await else { return };
    let mut downstream = downstream.secured(security);
    downstream.server_name = server_name;
    let chain = match admit(&worker, &mut downstream) {
        Ok(chain) => chain,
        Err((chain, reason, detail)) => return deny(&worker, &downstream, &chain, &io, (reason, detail)),
    };
    let downstream = Rc::new(downstream);
    if let Some(opening) = opening {
        return opening.carry(io, ahead).await;
    }
    match &chain.road {
        Road::Http(http) => http::serve(worker, downstream, http.clone(), io, ahead).await,
        Road::Tcp(tcp) => tcp::serve(worker, downstream, tcp.clone(), io, ahead).await,
    }
}

/// Whether the network filters let a connection through: those in force now, since a client may take its time with the handshake. The chain
/// in its present form.
fn admit(
    worker: &Worker,
    downstream: &mut Downstream,
) -> Result<Arc<FilterChain>, (Arc<FilterChain>, Reason, String)> {
    let (_, chain) = downstream.member.load(&worker.snapshots);
    // Requests are judged one by one; bytes are not.
    if chain.http().is_none() && downstream.member.gone_since().is_some() {
        let detail = "its filter chain was taken away before it was established".to_owned();
        return Err((chain, Reason::NoFilterChain, detail));
    }
    if let Err(detail) = downstream.admitted_by(&chain, worker) {
        return Err((chain, Reason::AccessDenied, detail));
    }
    downstream.gate = chain.gate.clone();
    Ok(chain)
}

/// Shakes hands where the chain has TLS. `None` when that failed: the connection is over.
async fn secure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    io: Io,
    ahead: BytesMut,
) -> Option<(Io, BytesMut, Option<Arc<tls::Security>>)> {
    let Some(security) = &chain.security else { return Some((io, ahead, None)) };
    let peer = io.peer;
    match tls::accept(io, ahead, &security.context, security.time_limit).await {
        Ok((io, established)) => {
            worker.recorder.handshake_done(&listener.name, &established.security);
            Some((io, BytesMut::new(), Some(established.security)))
        }
        Err(failure) => {
            worker.recorder.handshake_failed(&listener.name, failure.kind);
            tracing::debug!(listener = &*listener.name, %peer, failure.detail, "no TLS session");
            None
        }
    }
}

/// What the rest of the way knows of a connection.
fn downstream(
    worker: &Worker,
    listener: &Listener,
    chain: &Arc<FilterChain>,
    arrival: &Arrival,
) -> Downstream {
    Downstream {
        member: worker.chains.join(&worker.snapshots, listener, chain),
        connection: connection(listener, chain, arrival),
        scheme: Scheme::Http,
        accepted: arrival.io.local,
        direct_source: arrival.io.peer,
        gate: chain.gate.clone(),
        server_name: None,
        introduced: RefCell::default(),
    }
}

fn connection(listener: &Listener, chain: &FilterChain, arrival: &Arrival) -> telemetry::Downstream {
    unchained(listener, chain.stat_prefix().clone(), arrival)
}

fn unchained(listener: &Listener, stat_prefix: Arc<str>, arrival: &Arrival) -> telemetry::Downstream {
    telemetry::Downstream {
        listener: listener.name.clone(),
        stat_prefix,
        inbound: listener.direction == Direction::Inbound,
        peer: arrival.source,
        local: arrival.destination,
        security: None,
    }
}

/// Ends a connection that no chain has: with RST, so that the client does not take it for an answer.
fn refuse(worker: &Worker, listener: &Listener, arrival: &Arrival, refusal: Refusal) {
    arrival.io.reset_on_close();
    worker.recorder.connection_refused(&listener.name, refusal.reason);
    let mut record = tcp::new_record(&unchained(listener, listener.name.clone(), arrival));
    tracing::debug!(listener = &*listener.name, client = %arrival.source, "{:?}: {}", refusal.reason, refusal.detail);
    record.reason = Some(refusal.reason);
    record.reason_id = Some(worker.recorder.next_reason_id());
    record.detail = Some(refusal.detail);
    record.duration = record.start.elapsed();
    worker.recorder.connection_ended(&*record, &[]);
}

/// Ends a connection that may not be established, with RST.
fn deny(
    worker: &Worker,
    downstream: &Downstream,
    chain: &FilterChain,
    io: &Io,
    (reason, detail): (Reason, String),
) {
    io.reset_on_close();
    let mut record = tcp::new_record(&downstream.connection);
    record.reason = Some(reason);
    record.reason_id = Some(worker.recorder.next_reason_id());
    record.detail = Some(detail);
    record.duration = record.start.elapsed();
    let logs = match &chain.road {
        Road::Tcp(tcp) => &tcp.access_logs[..],
        Road::Http(http) => &http.access_logs,
    };
    worker.recorder.connection_ended(&*record, logs);
}

/// Errors that say something about the connection at the head of the queue, not about us.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn connections_go_to_a_worker_that_has_clearly_fewer() {
        let balance = Arc::new(Balance::new((0..3).map(|_| mpsc::channel(1).0).collect(), 100));
        let take = |worker, count| (0..count).map(|_| Load::new(&balance, worker)).collect::<Vec<_>>();
        let mut held = [take(0, 2), take(1, 1), take(2, 0)];
        assert_eq!(balance.lighter(0), None, "two more are not clearly more");
        held[0].extend(take(0, 1));
        assert_eq!(balance.lighter(0), Some(2));
        assert_eq!((balance.lighter(1), balance.lighter(2)), (None, None));
        // The more there are, the more it takes: past 16 it is two, and an eighth of them.
        held = [take(0, 20), take(1, 16), take(2, 16)];
        assert_eq!(balance.lighter(0), None);
        held[0].extend(take(0, 1));
        assert_eq!(balance.lighter(0), Some(1));
        drop(held);
        assert_eq!(balance.connections(), 0);
    }

    #[test]
    fn d3_what_says_something_about_one_connection_needs_no_pause() {
        let about_one = |number| is_about_one_connection(&io::Error::from_raw_os_error(number));
        for number in [libc::ECONNABORTED, libc::ECONNRESET, libc::EINTR] {
            assert!(about_one(number), "{}", io::Error::from_raw_os_error(number));
        }
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPERM, libc::EINVAL] {
            assert!(!about_one(number), "{}", io::Error::from_raw_os_error(number));
        }
    }

    #[tokio::test(flavor = "local")]
    async fn h6_a_panic_ends_one_connection_and_gives_back_what_it_held() {
        let metrics = Metrics::new(1);
        let recorder = metrics.recorder(0);
        let balance = Arc::new(Balance::new(vec![mpsc::channel(1).0], 10));
        let name: Arc<str> = "main".into();
        let served = |fails: bool| {
            let (recorder, name, load) = (recorder.clone(), name.clone(), Load::new(&balance, 0));
            async move {
                let _load = load;
                let _open = recorder.downstream_opened(&name);
                tokio::task::yield_now().await;
                assert!(!fails, "a defect");
            }
        };
        let bad = tokio::task::spawn_local(served(true));
        let good = tokio::task::spawn_local(served(false));
        assert_eq!(balance.connections(), 2);
        assert!(bad.await.is_err_and(|error| error.is_panic()));
        assert!(good.await.is_ok(), "others go on");
        assert_eq!(balance.connections(), 0);
        let mut page = String::new();
        metrics.encode_stats(&mut page, &|name| name.contains("downstream_cx_active"), &Default::default());
        assert_eq!(page, "listener.main.downstream_cx_active: 0\n");
    }
}
