//! Resolves the names of DNS clusters again and again; keeps the last good answer of each name.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::compile::{Dns, Resolvable};

/// Asks for a host's addresses.
pub(crate) type Lookup =
    Arc<dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// A random number from 0 to 1.
pub(crate) type Roll = fn() -> f64;

/// The system's resolver (`getaddrinfo`, on a thread of the runtime's pool).
pub(crate) fn system() -> Lookup {
    Arc::new(|host| {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((&*host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    })
}

/// The answers for a cluster's names.
#[derive(Debug)]
pub(crate) struct Answers {
    /// The cluster.
    pub(crate) cluster: Arc<str>,
    addresses: HashMap<Arc<str>, Vec<IpAddr>>,
}

impl Answers {
    /// A host's addresses; none when it could not be resolved yet.
    pub(crate) fn of(&self, host: &str) -> Vec<IpAddr> {
        self.addresses.get(host).cloned().unwrap_or_default()
    }
}

/// One task for each DNS cluster.
pub(crate) struct Resolver {
    lookup: Lookup,
    roll: Roll,
    tasks: BTreeMap<Arc<str>, Task>,
    sender: mpsc::Sender<Answers>,
    receiver: mpsc::Receiver<Answers>,
}

struct Task {
    dns: Arc<Dns>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Resolver {
    /// A resolver with nothing to do.
    pub(crate) fn new(lookup: Lookup, roll: Roll) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { lookup, roll, tasks: BTreeMap::new(), sender, receiver }
    }

    /// Resolves these clusters' names from now on, and no others.
    pub(crate) fn follow(&mut self, clusters: Vec<Resolvable>) {
        self.tasks.retain(|name, _| clusters.iter().any(|wanted| wanted.cluster == *name));
        for Resolvable { cluster, dns } in clusters {
            let same = |task: &Task| Arc::ptr_eq(&task.dns, &dns) || task.dns == dns;
            if self.tasks.get(&cluster).is_some_and(same) {
                continue;
            }
            let answers = self.sender.clone();
            let work = resolve(cluster.clone(), dns.clone(), self.lookup.clone(), self.roll, answers);
            self.tasks.insert(cluster, Task { dns, handle: tokio::spawn(work) });
        }
    }

    /// The next answers. Waits for ever when there is nothing to resolve.
    pub(crate) async fn answers(&mut self) -> Answers {
        match self.receiver.recv().await {
            Some(answers) => answers,
            // Not reached: this resolver holds a sender itself.
            None => std::future::pending().await,
        }
    }
}

async fn resolve(
    cluster: Arc<str>,
    dns: Arc<Dns>,
    lookup: Lookup,
    roll: Roll,
    answers: mpsc::Sender<Answers>,
) {
    let mut known: HashMap<Arc<str>, Vec<IpAddr>> = HashMap::new();
    loop {
        let mut failed = false;
        for (host, _) in dns.template.names() {
            match tokio::time::timeout(LOOKUP_TIME, lookup(host.clone())).await {
                Ok(Ok(addresses)) if !addresses.is_empty() => drop(known.insert(host, addresses)),
                Ok(Ok(_)) => {
                    failed = true;
                    tracing::warn!(cluster = &*cluster, host = &*host, "no addresses; the last ones stay");
                }
                Ok(Err(error)) => {
                    failed = true;
                    tracing::warn!(cluster = &*cluster, host = &*host, %error, "cannot resolve; the last answer stays");
                }
                Err(_) => {
                    failed = true;
                    tracing::warn!(
                        cluster = &*cluster,
                        host = &*host,
                        "no answer in time; the last one stays"
                    );
                }
            }
        }
        if !known.is_empty() {
            let answer = Answers { cluster: cluster.clone(), addresses: known.clone() };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
        let pause = if failed { dns.refresh.min(AFTER_FAILURE) } else { dns.refresh };
        // Clusters that came together must not ask together for ever.
        tokio::time::sleep(pause + pause.mul_f64(JITTER * roll())).await;
    }
}

/// Answers that may wait for the compiler.
const QUEUE: usize = 64;

/// How long one lookup may take.
const LOOKUP_TIME: Duration = Duration::from_secs(10);

/// When to ask again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The part of a pause that it may last longer.
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests;
