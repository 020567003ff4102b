//! A cluster's counters: one block per worker, made when that worker first sends to the cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use rustc_hash::FxHashMap;

use super::counter::{Counter, Histogram, HistogramTotal};

/// The Kubernetes Service behind a cluster, for labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceName {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The port.
    pub(crate) port: u16,
}

/// A cluster's counters and what names it in labels.
#[derive(Debug, Default)]
pub(crate) struct ClusterMetrics {
    /// The cluster's name.
    pub(crate) name: Arc<str>,
    /// The Service behind it.
    pub(crate) service: Option<ServiceName>,
    /// Never used twice in a process; 0 for a cluster that no registry made.
    pub(super) id: u64,
    /// By worker. Clusters past the bound on series share one list.
    blocks: Blocks,
}

type Blocks = Arc<[OnceLock<Box<ClusterBlock>>]>;

/// What one worker counts about a cluster. Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ClusterBlock {
    pub(super) attempts: Counter,
    pub(super) completed: Counter,
    /// Final statuses by class, 1xx to 5xx.
    pub(super) classes: [Counter; 5],
    /// Final statuses, each by its own code: 100 to 599.
    pub(super) codes: CodeCounters,
    pub(super) time: Histogram,
    pub(super) retries: Counter,
    pub(super) retry_success: Counter,
    pub(super) retry_overflow: Counter,
    pub(super) retries_exhausted: Counter,
    pub(super) pending_overflow: Counter,
    pub(super) timeouts: Counter,
    pub(super) per_try_timeouts: Counter,
    pub(super) resets: Counter,
    pub(super) no_endpoint: Counter,
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) connect_fail: Counter,
    pub(super) connect_timeout: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) received_bytes: Counter,
}

/// Counters by status code, made in groups of ten codes when one of them is first seen.
#[derive(Debug)]
pub(super) struct CodeCounters([OnceLock<Box<[Counter; 10]>>; 50]);

impl Default for CodeCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl CodeCounters {
    pub(super) fn add(&self, code: u16) {
        let Some(offset) = code.checked_sub(100) else { return };
        let group = self.0.get(usize::from(offset / 10)).map(|group| group.get_or_init(Box::default));
        if let Some(counter) = group.and_then(|group| group.get(usize::from(offset % 10))) {
            counter.add(1);
        }
    }

    /// Codes that were seen, with their counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0.iter().zip((100_u16..).step_by(10)).flat_map(|(group, first)| {
            let counters = group.get().map(|group| &group[..]).unwrap_or_default();
            counters.iter().zip(first..).map(|(counter, code)| (code, counter.get())).filter(|(_, n)| *n > 0)
        })
    }
}

impl ClusterMetrics {
    /// The worker's block. `None` only for a cluster that no registry made (tests of other rooms).
    pub(super) fn block(&self, worker: usize) -> Option<&ClusterBlock> {
        self.blocks.get(worker).map(|block| &**block.get_or_init(Box::default))
    }

    /// Final statuses over all workers.
    pub(super) fn codes(&self) -> BTreeMap<u16, u64> {
        let mut codes = BTreeMap::new();
        for (code, count) in self.used_blocks().flat_map(|block| block.codes.iter()) {
            *codes.entry(code).or_default() += count;
        }
        codes
    }

    /// Times until the response head, over all workers.
    pub(super) fn time(&self) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        self.used_blocks().for_each(|block| total.add(&block.time));
        total
    }

    /// Every worker's block, of those that sent to the cluster.
    pub(super) fn used_blocks(&self) -> impl Iterator<Item = &ClusterBlock> {
        self.blocks.iter().filter_map(|block| block.get().map(|block| &**block))
    }
}

/// Every cluster that has counters. Touched by the config staircase and by scrapes, never by a request.
#[derive(Debug)]
pub(super) struct Clusters {
    slots: usize,
    bound: usize,
    next_id: AtomicU64,
    /// Where clusters past the bound are counted together.
    overflow: Arc<ClusterMetrics>,
    /// Clusters live as long as the configuration or a request holds them.
    by_name: Mutex<FxHashMap<Arc<str>, Weak<ClusterMetrics>>>,
}

impl Clusters {
    pub(super) fn new(slots: usize, bound: usize) -> Self {
        let overflow = ClusterMetrics {
            name: super::OVERFLOW.into(),
            service: None,
            id: u64::MAX,
            blocks: new_blocks(slots),
        };
        Self {
            slots,
            bound,
            next_id: AtomicU64::new(1),
            overflow: Arc::new(overflow),
            by_name: Mutex::default(),
        }
    }

    /// The cluster's counters: the same ones as before while somebody still holds them and the Service behind it is the same.
    /// Says also whether the bound is reached, so that the counters are shared.
    pub(super) fn get(&self, name: &str, service: Option<ServiceName>) -> (Arc<ClusterMetrics>, bool) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_name.get(name).and_then(Weak::upgrade);
        if let Some(known) = known.as_ref().filter(|known| known.service == service) {
            return (known.clone(), false);
        }
        if known.is_none() && by_name.len() >= self.bound {
            by_name.retain(|_, metrics| metrics.strong_count() > 0);
        }
        let overflows = known.is_none() && by_name.len() >= self.bound;
        let blocks = match (&known, overflows) {
            // The name is what is counted under; the Service only adds labels.
            (Some(known), _) => known.blocks.clone(),
            (None, true) => self.overflow.blocks.clone(),
            (None, false) => new_blocks(self.slots),
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let metrics = Arc::new(ClusterMetrics { name: name.into(), service, id, blocks });
        if !overflows {
            by_name.insert(metrics.name.clone(), Arc::downgrade(&metrics));
        }
        (metrics, overflows)
    }

    /// Every live cluster, by name; the shared one last.
    pub(super) fn all(&self) -> Vec<Arc<ClusterMetrics>> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = by_name.values().filter_map(Weak::upgrade).collect();
        drop(by_name);
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all.push(self.overflow.clone());
        all
    }
}

fn new_blocks(slots: usize) -> Blocks {
    (0..slots).map(|_| OnceLock::new()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(bound: usize) -> Clusters {
        Clusters::new(2, bound)
    }

    #[test]
    fn counters_are_carried_over_while_held() {
        let clusters = clusters(10);
        let (one, _) = clusters.get("a", None);
        one.block(0).unwrap().attempts.add(1);
        assert!(Arc::ptr_eq(&one, &clusters.get("a", None).0));
        let service = ServiceName { namespace: "shop".into(), name: "web".into(), port: 80 };
        let (renamed, _) = clusters.get("a", Some(service));
        assert_eq!(renamed.block(0).unwrap().attempts.get(), 1);
        drop((one, renamed));
        assert_eq!(clusters.get("a", None).0.block(0).unwrap().attempts.get(), 0);
    }

    #[test]
    fn past_the_bound_they_are_counted_together() {
        let clusters = clusters(1);
        let (first, shared) = clusters.get("a", None);
        assert!(!shared);
        let (second, shared) = clusters.get("b", None);
        assert!(shared);
        assert_eq!(&*second.name, "b");
        second.block(1).unwrap().attempts.add(3);
        let all = clusters.all();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].used_blocks().map(|block| block.attempts.get()).sum::<u64>(), 3);
        drop((first, all));
        assert!(!clusters.get("c", None).1, "a cluster that is gone makes room");
    }

    #[test]
    fn codes_are_counted_one_by_one() {
        let codes = CodeCounters::default();
        for code in [0, 99, 100, 503, 503, 599, 600, 999] {
            codes.add(code);
        }
        assert_eq!(codes.iter().collect::<Vec<_>>(), [(100, 1), (503, 2), (599, 1)]);
    }
}
