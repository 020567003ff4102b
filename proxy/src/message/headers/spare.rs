//! Memory that no section uses, kept for the next one: many requests at once would not all find theirs in the allocator's cache.

use std::cell::RefCell;

use http::HeaderMap;

use super::{Name, Value};

type Fields = Vec<(Name, Value)>;

thread_local! {
    static FIELDS: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
    /// Every head from HTTP/2 leaves one, every head to HTTP/2 takes one.
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn take_fields(capacity: usize) -> Fields {
    let mut fields = FIELDS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default();
    fields.reserve(capacity);
    fields
}

pub(super) fn give_fields(mut fields: Fields) {
    fields.clear();
    if (1..=MOST_FIELDS).contains(&fields.capacity()) {
        // Fails only while the thread ends.
        let _ = FIELDS.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_LISTS {
                spare.push(fields);
            }
        });
    }
}

pub(super) fn take_map(capacity: usize) -> HeaderMap {
    let mut map = MAPS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default();
    map.reserve(capacity);
    map
}

pub(super) fn give_map(mut map: HeaderMap) {
    if (1..=MOST_FIELDS).contains(&map.capacity()) {
        // Also of how it was hashed: an attacker's names must not make the next one slow.
        map.clear();
        let _ = MAPS.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_MAPS {
                spare.push(map);
            }
        });
    }
}

/// Gives up what no section of this thread uses.
pub(crate) fn drop_spare() {
    FIELDS.take();
    MAPS.take();
}

const MOST_LISTS: usize = 128;
const MOST_MAPS: usize = 32;
const MOST_FIELDS: usize = 32;
