//! Picking an endpoint: pure over a set and injected randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::endpoint::{Endpoint, EndpointId, EndpointSet};

/// How an endpoint is picked (`lb_policy`).
#[derive(Debug)]
pub(crate) enum Policy {
    /// The better of two random ones by requests in flight (Mitzenmacher's power of two choices), weights considered.
    LeastRequest,
    /// One after the other, over all workers.
    RoundRobin(AtomicU32),
    /// Any.
    Random,
}

/// Picks an endpoint: not one in `tried` while there is another, and not one that could not be reached a moment ago (`now`, in
/// milliseconds, asked for only where that ever happened) while there is a better one. `roll` yields uniform `u32`s.
pub(crate) fn pick(
    policy: &Policy,
    set: &EndpointSet,
    tried: &[EndpointId],
    now: impl Fn() -> u64,
    roll: &mut impl FnMut() -> u32,
) -> Option<Arc<Endpoint>> {
    let untried = |endpoint: &Endpoint| !tried.contains(&endpoint.id);
    let good = |endpoint: &Endpoint| untried(endpoint) && !endpoint.is_suspect(&now);
    let mut first = pick_once(policy, set, roll)?;
    // Asking the policy again keeps its shares; a few times is enough unless most are bad.
    for _ in 0..REPICKS {
        if good(first) {
            return Some(first.clone());
        }
        first = pick_once(policy, set, roll)?;
    }
    let find = |wanted: &dyn Fn(&Endpoint) -> bool| set.available.iter().find(|endpoint| wanted(endpoint));
    Some(find(&good).or_else(|| find(&untried)).unwrap_or(first).clone())
}

/// How often the policy is asked again for an endpoint that is not to be avoided.
const REPICKS: usize = 4;

fn pick_once<'a>(
    policy: &Policy,
    set: &'a EndpointSet,
    roll: &mut impl FnMut() -> u32,
) -> Option<&'a Arc<Endpoint>> {
    let endpoints = &set.available[..];
    match endpoints {
        [] => None,
        [only] => Some(only),
        _ => match policy {
            Policy::LeastRequest => least_request(set, roll),
            Policy::RoundRobin(next) => round_robin(set, next),
            Policy::Random => random(set, roll()),
        },
    }
}

fn least_request<'a>(set: &'a EndpointSet, roll: &mut impl FnMut() -> u32) -> Option<&'a Arc<Endpoint>> {
    let one = random(set, roll())?;
    // The second choice is another endpoint where weights allow it cheaply.
    let two = if set.weighted {
        random(set, roll())?
    } else {
        let index = set.available.iter().position(|endpoint| Arc::ptr_eq(endpoint, one))?;
        let step = 1 + scale(roll(), set.available.len() as u32 - 1) as usize;
        &set.available[(index + step) % set.available.len()]
    };
    let load = |endpoint: &Endpoint| endpoint.in_flight.load(Ordering::Relaxed);
    Some(if load(two) < load(one) { two } else { one })
}

fn round_robin<'a>(set: &'a EndpointSet, next: &AtomicU32) -> Option<&'a Arc<Endpoint>> {
    let turn = next.fetch_add(1, Ordering::Relaxed);
    if !set.weighted {
        return set.available.get(turn as usize % set.available.len());
    }
    // A low-discrepancy walk over the weights: each endpoint's share is exact in the long run and evenly spread.
    random(set, turn.wrapping_mul(0x9E37_79B9))
}

fn random(set: &EndpointSet, roll: u32) -> Option<&Arc<Endpoint>> {
    if !set.weighted {
        return set.available.get(scale(roll, set.available.len() as u32) as usize);
    }
    let total: u64 = set.available.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    let mut point = (u64::from(roll) * total) >> 32;
    set.available.iter().find(|endpoint| {
        let weight = u64::from(endpoint.weight);
        let hit = point < weight;
        point = point.saturating_sub(weight);
        hit
    })
}

/// A uniform `u32` scaled to `0..bound`.
fn scale(roll: u32, bound: u32) -> u32 {
    ((u64::from(roll) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn set(weights: &[u32]) -> EndpointSet {
        let endpoints = weights.iter().enumerate().map(|(index, weight)| {
            let address = ([127, 0, 0, 1], 8000 + index as u16).into();
            Arc::new(Endpoint::new(address, *weight))
        });
        EndpointSet::new(endpoints.collect())
    }

    fn shares(policy: &Policy, set: &EndpointSet, rounds: u32) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts: HashMap<EndpointId, u32> = HashMap::new();
        for _ in 0..rounds {
            let endpoint = pick(policy, set, &[], || 0, &mut || rng.random()).unwrap();
            *counts.entry(endpoint.id).or_default() += 1;
        }
        set.all.iter().map(|endpoint| counts.get(&endpoint.id).copied().unwrap_or_default()).collect()
    }

    #[test]
    fn nothing_to_pick_from() {
        assert!(pick(&Policy::Random, &EndpointSet::default(), &[], || 0, &mut || 0).is_none());
    }

    #[test]
    fn round_robin_is_even() {
        assert_eq!(shares(&Policy::RoundRobin(AtomicU32::new(0)), &set(&[1, 1, 1]), 300), [100, 100, 100]);
    }

    #[test]
    fn weights_are_respected() {
        for policy in [Policy::RoundRobin(AtomicU32::new(0)), Policy::Random] {
            let shares = shares(&policy, &set(&[1, 3]), 40_000);
            assert!((9_400..10_600).contains(&shares[0]), "{policy:?} {shares:?}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let set = set(&[1, 1, 1]);
        set.all[0].in_flight.store(100, Ordering::Relaxed);
        assert_eq!(shares(&Policy::LeastRequest, &set, 3_000)[0], 0);
    }

    #[test]
    fn one_that_cannot_be_reached_attracts_nobody_for_a_moment() {
        let set = set(&[1, 1, 1]);
        set.all[1].in_flight.store(5, Ordering::Relaxed);
        set.all[2].in_flight.store(5, Ordering::Relaxed);
        set.all[0].suspect(1_000);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut picks_of_first = |now: u64| {
            let picked = (0..300)
                .map(|_| pick(&Policy::LeastRequest, &set, &[], || now, &mut || rng.random()).unwrap());
            picked.filter(|endpoint| endpoint.id == set.all[0].id).count()
        };
        assert_eq!(picks_of_first(1_500), 0);
        assert!(picks_of_first(2_001) > 100);
        set.all[1].suspect(1_000);
        set.all[2].suspect(1_000);
        assert!(picks_of_first(1_500) > 0, "when all are suspect, any is better than none");
    }

    #[test]
    fn a_retry_goes_elsewhere_when_it_can() {
        let set = set(&[1, 1]);
        let tried = [set.all[0].id];
        for roll in [0, u32::MAX] {
            let picked = pick(&Policy::Random, &set, &tried, || 0, &mut || roll).unwrap();
            assert_eq!(picked.id, set.all[1].id);
        }
        let tried = [set.all[0].id, set.all[1].id];
        assert!(pick(&Policy::Random, &set, &tried, || 0, &mut || 0).is_some());
    }
}
