//! Answers about tokens, for a short while. Tokens themselves are not kept: only their SHA-256.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

use crate::authn::refusal::Refusal;
use crate::authn::subject::Subject;

/// What the API server said.
pub(super) type Answer = Result<Subject, Refusal>;

type Key = [u8; 32];

/// Good answers and refusals apart, so that strangers cannot crowd out those who belong here.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Locked for a map operation, never across an await.
    shelves: Mutex<Shelves>,
}

#[derive(Debug, Default)]
struct Shelves {
    good: Shelf,
    refused: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<Key, (Instant, Answer)>,
    /// The keys in the order in which they came, which is about the order in which they end.
    order: VecDeque<Key>,
}

impl Cache {
    /// What is known of a token and still holds.
    pub(super) fn find(&self, token: &str, now: Instant) -> Option<Answer> {
        let key = key(token);
        let shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.good.find(&key, now).or_else(|| shelves.refused.find(&key, now))
    }

    /// Keeps an answer until then.
    pub(super) fn keep(&self, token: &str, answer: Answer, until: Instant) {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = if answer.is_ok() { &mut shelves.good } else { &mut shelves.refused };
        shelf.keep(key(token), until, answer);
    }
}

impl Shelf {
    fn find(&self, key: &Key, now: Instant) -> Option<Answer> {
        self.answers.get(key).filter(|(until, _)| now < *until).map(|(_, answer)| answer.clone())
    }

    fn keep(&mut self, key: Key, until: Instant, answer: Answer) {
        if self.answers.insert(key, (until, answer)).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

fn key(token: &str) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

/// How many answers each shelf holds.
const LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authn::refusal::Reason;

    #[tokio::test(start_paused = true)]
    async fn answers_end_and_strangers_crowd_nobody_out() {
        let cache = Cache::default();
        let good: Answer = Subject::parse("system:serviceaccount:shop:web", None);
        let refused: Answer = Err(Refusal::new(Reason::TokenRejected, "no"));
        let now = Instant::now();
        cache.keep("good", good.clone(), now + Duration::from_secs(60));
        for stranger in 0..LIMIT + 10 {
            cache.keep(&stranger.to_string(), refused.clone(), now + Duration::from_secs(5));
        }
        assert_eq!(cache.find("good", now), Some(good));
        assert_eq!(cache.find("0", now), None, "the oldest gave way");
        assert_eq!(cache.find("10", now), Some(refused));
        assert_eq!(cache.find("10", now + Duration::from_secs(5)), None);
        assert_eq!(cache.find("good", now + Duration::from_secs(60)), None);
        let shelves = cache.shelves.lock().unwrap();
        assert_eq!((shelves.refused.answers.len(), shelves.refused.order.len()), (LIMIT, LIMIT));
    }
}
