//! What the writer of an unknown name may have meant.

use prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor};

/// The text about a key that is no field of the message.
pub(super) fn unknown_field(descriptor: &MessageDescriptor, key: &str) -> String {
    let fields: Vec<_> = descriptor.fields().collect();
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    let mut text = format!("unknown field of {}", descriptor.full_name());
    if let Some(name) = nearest(key, &names).or_else(|| containing(key, &names)) {
        text.push_str(&format!("; did you mean `{name}`?"));
    } else if names.is_empty() {
        text.push_str(", which has no fields");
    } else if names.len() <= MAX_LISTED {
        text.push_str(&format!("; it has {}", names.join(", ")));
    }
    text
}

/// The text about a name that is no value of the enum.
pub(super) fn unknown_value(descriptor: &EnumDescriptor, found: &str) -> String {
    let values: Vec<_> = descriptor.values().collect();
    let names: Vec<&str> = values.iter().map(|value| value.name()).collect();
    let mut text = format!("{found:?} is no value of {}", descriptor.full_name());
    if let Some(name) = nearest(&found.to_ascii_uppercase(), &names) {
        text.push_str(&format!("; did you mean {name}?"));
    } else if names.len() <= MAX_LISTED {
        text.push_str(&format!("; it has {}", names.join(", ")));
    }
    text
}

/// The text about an `@type` that no known message has.
pub(super) fn unknown_type(pool: &DescriptorPool, name: &str) -> String {
    let mut text = format!("no message type is called {name:?}");
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let messages: Vec<_> = pool.all_messages().collect();
    let names: Vec<&str> = messages.iter().map(|message| message.full_name()).collect();
    // The package is what moves between versions and what people remember least: a type of the same own name comes first.
    let same_own_name = names.iter().copied().filter(|candidate| last(candidate) == last(name));
    let close = same_own_name.min_by_key(|candidate| strsim::osa_distance(candidate, name));
    if let Some(candidate) = close.or_else(|| nearest(name, &names)) {
        text.push_str(&format!("; did you mean {candidate}?"));
    } else if name.starts_with("envoy.") && (name.contains(".v2.") || name.contains(".v2alpha.")) {
        text.push_str(" (Envoy's v2 API is gone; use the v3 type)");
    }
    text
}

/// The candidate within a few slips of the pen.
fn nearest<'names>(word: &str, candidates: &[&'names str]) -> Option<&'names str> {
    let tolerated = (word.chars().count() / 4).clamp(1, 6);
    candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The only candidate that has the word as its last part (`config` → `typed_config`), or else as its first.
fn containing<'names>(word: &str, candidates: &[&'names str]) -> Option<&'names str> {
    let only = |matches: &dyn Fn(&str) -> bool| {
        let mut matching = candidates.iter().copied().filter(|candidate| matches(candidate));
        matching.next().filter(|_| matching.next().is_none())
    };
    only(&|candidate| candidate.strip_suffix(word).is_some_and(|rest| rest.ends_with('_')))
        .or_else(|| only(&|candidate| candidate.strip_prefix(word).is_some_and(|rest| rest.starts_with('_'))))
}

/// Longer lists of names help nobody.
const MAX_LISTED: usize = 10;
