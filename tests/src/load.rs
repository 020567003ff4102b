//! A steady load: so many requests a second, whatever becomes of them, over connections that are kept alive.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::Http1;
use crate::message::{Call, Response};
use crate::wait;

/// A running load.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What has become of the requests.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// 200, complete.
    pub good: usize,
    /// Everything else, in words; the first few.
    pub failures: Vec<String>,
    /// How many failed.
    pub failed: usize,
    /// Good answers by their body.
    pub bodies: BTreeMap<String, usize>,
}

impl Counts {
    /// How many answers had this body.
    pub fn of(&self, body: &str) -> usize {
        self.bodies.get(body).copied().unwrap_or_default()
    }

    fn note(&mut self, outcome: Result<Response, String>) {
        let failure = match outcome {
            Ok(response) if response.status == 200 && response.complete => {
                self.good += 1;
                *self.bodies.entry(response.text()).or_default() += 1;
                return;
            }
            Ok(response) => format!("{} {:?} {:?}", response.status, response.reason(), response.text()),
            Err(error) => error,
        };
        self.failed += 1;
        if self.failures.len() < 10 {
            self.failures.push(failure);
        }
    }
}

impl Load {
    /// Sends this request so often.
    pub fn start(address: SocketAddr, per_second: u32, call: Call) -> Self {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(address, per_second, call, counts.clone(), stopped));
        Self { counts, stop, task }
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more answers were good.
    pub async fn more(&self, number: usize) {
        self.grows("good answers", number, |counts| counts.good).await;
    }

    /// Waits until a backend has answered so many more times.
    pub async fn more_of(&self, body: &str, number: usize) {
        self.grows(&format!("answers of {body}"), number, |counts| counts.of(body)).await;
    }

    async fn grows(&self, what: &str, number: usize, count: impl Fn(&Counts) -> usize) {
        let target = count(&self.counts()) + number;
        let grown =
            timeout(DEADLINE, wait::until(what, async || (count(&self.counts()) >= target).then_some(())));
        assert!(grown.await.is_ok(), "not {number} more {what} within {DEADLINE:?}: {:?}", self.counts());
    }

    /// Sends no more, waits for what is on its way, and counts.
    pub async fn stop(self) -> Counts {
        self.stop.send_replace(true);
        wait::within("the end of the load", self.task).await.expect("the load has not panicked");
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn run(
    address: SocketAddr,
    per_second: u32,
    call: Call,
    counts: Arc<Mutex<Counts>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let pool: Arc<Mutex<Vec<Http1>>> = Arc::default();
    let call = Arc::new(call);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let (pool, call, counts) = (pool.clone(), call.clone(), counts.clone());
        calls.spawn(async move {
            let outcome = timeout(PATIENCE, one(address, &pool, &call)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
            counts.lock().unwrap_or_else(PoisonError::into_inner).note(outcome);
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

async fn one(address: SocketAddr, pool: &Mutex<Vec<Http1>>, call: &Call) -> Result<Response, String> {
    let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut connection = match kept {
        Some(connection) => connection,
        None => Http1::connect(address).await.map_err(|error| format!("connect: {error}"))?,
    };
    let response = connection.call(call).await.map_err(|error| format!("call: {error}"))?;
    if connection.is_reusable() {
        pool.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
    Ok(response)
}

const PATIENCE: Duration = Duration::from_secs(10);
/// Shorter than the patience of what is awaited inside, so that the counts are told.
const DEADLINE: Duration = Duration::from_secs(15);
