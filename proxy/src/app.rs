//! Wiring: creates every thread and task and hands each its ends. The only room that knows all others.
//!
//! One control thread (this one: xDS, binding, admin, signals) and as many workers as `--concurrency` says, each with a runtime of its own (D2).

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::compile::Compiler;
use crate::drain::{Drain, Phase};
use crate::listener::bind::Binder;
use crate::listener::{Acceptor, Balance, Command};
use crate::settings::{Mode, Settings};
use crate::snapshot::{Handle, Publisher};
use crate::telemetry::Metrics;
use crate::worker::Worker;
use crate::{compile, exchange, identity, overload, timer, xds};

mod logging;
mod offline;
mod operator;
mod panics;
mod shutdown;

pub use offline::explain;

use shutdown::Ended;

/// Runs the proxy to its end. `arguments` without the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(stop) => return stop.report(),
    };
    if settings.mode == Mode::Validate {
        return settings.validate(|settings| {
            let (rejections, ineffective) = compile::validate(&settings.bootstrap);
            (rejections.iter().map(ToString::to_string).collect(), ineffective)
        });
    }
    let log = logging::start(settings.log_level);
    for ignored in &settings.ignored {
        tracing::warn!("{}: {ignored}", settings.source);
    }
    let runtime = match Builder::new_current_thread().enable_all().max_blocking_threads(8).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(2);
        }
    };
    LocalSet::new().block_on(&runtime, Proxy::start(settings, log))
}

/// The running parts.
struct Proxy {
    drain: Rc<Drain>,
    balance: Arc<Balance>,
    workers: Vec<JoinHandle<()>>,
    /// A worker has ended.
    lost: Arc<Notify>,
    metrics: Metrics,
}

impl Proxy {
    async fn start(settings: Settings, log: logging::Level) -> ExitCode {
        let metrics = Metrics::new(settings.concurrency.get());
        metrics.set_local(operator::local_workload(&settings));
        panics::count(metrics.clone());
        logging::reopen_on_signal(metrics.clone());
        let publisher = Publisher::new();
        let snapshots = publisher.handle();
        let compiled = static_configuration(&settings, publisher, metrics.clone());
        let Ok(compiler) = compiled else { return ExitCode::FAILURE };
        let admin = operator::bind(&settings).map_err(|error| eprintln!("{error}"));
        let Ok(admin) = admin else { return ExitCode::from(2) };
        let (identity, keeper) = settings.identity.clone().map(identity::new).unzip();
        let (ledger, certificates) = (compiler.ledger(), compiler.certificates());
        let client = xds::Client::new(compiler, settings.ads.clone(), settings.node.clone(), metrics.clone());
        let client = client.with_identity(identity.clone());
        let drain = Rc::new(Drain::new(settings.drain_time));
        let overload = overload::Watch::default();
        let (commands, receivers): (Vec<_>, Vec<_>) =
            (0..settings.concurrency.get()).map(|_| mpsc::channel(COMMANDS)).unzip();
        let limit = connection_limit().min(settings.overload.connections.unwrap_or(usize::MAX));
        let balance = Arc::new(Balance::new(commands.clone(), limit));
        let mut binder = Binder::new(snapshots.clone(), commands);
        let signals = (drain.clone(), overload.clone());
        let spawned = Self::spawn_workers(&snapshots, metrics.clone(), signals, balance, receivers);
        let proxy = match spawned {
            Ok(proxy) => proxy,
            Err(error) => {
                eprintln!("cannot start a worker: {error}");
                return ExitCode::from(2);
            }
        };
        let errors = binder.sync().await;
        if !errors.is_empty() {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return ExitCode::from(2);
        }
        let status = client.status();
        if let Some(bound) = settings.overload.memory.clone() {
            tokio::task::spawn_local(overload::run(bound, overload.clone(), drain.clone()));
        }
        let identity = identity.as_ref().map(identity::Handle::status);
        let parts = operator::Parts {
            metrics,
            snapshots,
            drain,
            overload,
            ledger,
            certificates,
            identity,
            status,
            log,
        };
        if let Some(admin) = admin {
            operator::start(admin, &settings, parts);
        }
        tokio::task::spawn_local(binder.run());
        tokio::task::spawn_local(client.run());
        keeper.map(|keeper| tokio::task::spawn_local(keeper.run()));
        proxy.serve(&settings).await
    }

    fn spawn_workers(
        snapshots: &Handle,
        metrics: Metrics,
        (drain, overload): (Rc<Drain>, overload::Watch),
        balance: Arc<Balance>,
        receivers: Vec<mpsc::Receiver<Command>>,
    ) -> std::io::Result<Self> {
        let mut workers = Vec::with_capacity(receivers.len());
        let lost = Arc::new(Notify::new());
        for (index, commands) in receivers.into_iter().enumerate() {
            let (snapshots, metrics, balance) = (snapshots.clone(), metrics.clone(), balance.clone());
            let (drain, overload) = (drain.watch(), overload.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let alive = panics::Alive(lost.clone());
            workers.push(thread.spawn(move || {
                let _alive = alive;
                let worker = Worker::new(&snapshots, metrics.recorder(index), drain, overload);
                run_worker(worker, index, balance, commands);
            })?);
        }
        Ok(Self { drain, balance, workers, lost, metrics })
    }

    /// Serves until told to end, then ends in order.
    async fn serve(self, settings: &Settings) -> ExitCode {
        let ended = shutdown::conduct(&self.drain, &self.balance, &self.lost, settings).await;
        self.drain.advance(Phase::Ended);
        for worker in self.workers {
            // A worker that panicked has said so on stderr.
            let _ = worker.join();
        }
        self.metrics.flush_logs(Duration::from_secs(1));
        match ended {
            Ended::Quietly => tracing::info!("every connection finished; bye"),
            Ended::Cut(connections) => tracing::warn!("{connections} connections were cut"),
            Ended::Broken => {
                tracing::error!("a worker has ended: this process cannot serve on");
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}

/// The bootstrap's own resources, compiled. Otherwise every mistake has been told.
fn static_configuration(settings: &Settings, publisher: Publisher, metrics: Metrics) -> Result<Compiler, ()> {
    let mut compiler = Compiler::new(publisher, metrics);
    if settings.identity.is_some() {
        compiler.has_identity();
    }
    let loaded = compiler.load_static(&settings.bootstrap, Instant::now());
    for ineffective in compiler.ineffective() {
        tracing::warn!("{}: {ineffective}", settings.source);
    }
    loaded.map(|()| compiler).map_err(|rejections| {
        for rejection in &rejections {
            eprintln!("{}: {rejection}", settings.source);
        }
    })
}

/// A worker's thread: accept, serve, sweep the pools, until the end.
fn run_worker(worker: Worker, index: usize, balance: Arc<Balance>, commands: mpsc::Receiver<Command>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("worker {index} cannot start: {error}"),
    };
    runtime.block_on(async move {
        let worker = Rc::new(worker);
        tokio::task::spawn_local(timer::drive());
        tokio::task::spawn_local(tell_connections(worker.clone()));
        let sweeper = worker.clone();
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                sweeper.sweep(ticks.tick().await);
                exchange::refresh_keys(&sweeper);
            }
        });
        Acceptor::new(worker, index, balance).run(commands).await;
        // What knows that it is cut may say so once, in the log and to the other side.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
    });
}

/// Turns of a worker's run queue after the shutdown's deadline.
const LAST_TURNS: usize = 4;

/// Tells the worker's connections what the control thread says: one task listens for all of them.
async fn tell_connections(worker: Rc<Worker>) {
    let mut said = worker.drain.clone();
    while let Some((phase, pressed)) = said.changed().await {
        worker.chains.tell(phase, pressed);
    }
}

/// Connections that the process may have open: what the system allows, less what upstreams and files need.
fn connection_limit() -> usize {
    let files = raise_file_limit();
    // Half of what is left for clients, half for upstreams: with every place taken, an accept or a connect still succeeds, and the
    // admin page has its own reserve.
    files.saturating_sub(OWN_FILES.min(files / 2)) / 2
}

/// Lets the process open as many files as its hard limit allows; says how many that is.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = if raised.is_ok() { maximum } else { current };
    // No limit is no limit of ours either, but the kernel's table has one.
    usize::try_from(files.unwrap_or(1 << 20)).unwrap_or(usize::MAX)
}

/// Files of the process itself: sockets that listen, runtimes, logs, the control plane's stream, the admin page.
const OWN_FILES: usize = 96;

const COMMANDS: usize = 1024;
const SWEEP: Duration = Duration::from_secs(1);
