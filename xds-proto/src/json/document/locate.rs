//! From a place in the tree to the line it stands on.
//!
//! serde does not tell a visitor where it is, but its errors do: the document is read once more, down to the place in question,
//! and fails there on purpose. That costs one reading per mistake and nothing for a document without mistakes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::problem::{Found, Problem, Step};
use super::Format;

/// Gives every mistake its line and puts them in the order of the lines.
pub(in super::super) fn locate_all(text: &str, format: Format, found: Vec<Found>) -> Vec<Problem> {
    let more = found.len().saturating_sub(MAX_PROBLEMS);
    let locates = text.len() <= MAX_LOCATED_BYTES;
    let mut problems: Vec<Problem> = found
        .into_iter()
        .take(MAX_PROBLEMS)
        .map(|found| {
            let line = if locates { locate(text, format, &found) } else { None };
            found.into_problem(line)
        })
        .collect();
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    if more > 0 {
        problems.push(Problem::whole(format!("and {more} more problems")));
    }
    problems
}

fn locate(text: &str, format: Format, found: &Found) -> Option<usize> {
    let place = Place { steps: &found.steps, passed_over: found.passed_over };
    let line = match format {
        Format::Json => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            place.deserialize(&mut deserializer).err().map(|error| error.line())
        }
        Format::Yaml | Format::Auto => {
            let reached = place.deserialize(serde_yaml::Deserializer::from_str(text));
            reached.err().and_then(|error| error.location().map(|place| place.line()))
        }
    };
    line.filter(|line| *line > 0)
}

/// Descends along the steps and fails at their end. Succeeds only if the place is not there as such, which is so for what a YAML
/// merge key brought in.
#[derive(Clone, Copy)]
struct Place<'found> {
    steps: &'found [Step],
    passed_over: usize,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    /// The text of the failure on scalars, where the steps always end.
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the place in question")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.steps.split_first() else {
            return Err(A::Error::custom(REACHED));
        };
        for _ in 0..*index {
            if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        elements.next_element_seed(Place { steps: rest, ..self })?;
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.steps.split_first() else {
            return Err(A::Error::custom(REACHED));
        };
        let is_last = rest.is_empty();
        loop {
            let fails = is_last && self.passed_over == 0;
            match entries.next_key_seed(KeyPlace { wanted, fails })? {
                None => return Ok(()),
                Some(false) => {
                    entries.next_value::<IgnoredAny>()?;
                }
                Some(true) if is_last => {
                    self.passed_over -= 1;
                    entries.next_value::<IgnoredAny>()?;
                }
                Some(true) => entries.next_value_seed(Place { steps: rest, ..self })?,
            }
        }
    }
}

/// Says whether a key is the wanted one, or fails there.
struct KeyPlace<'found> {
    wanted: &'found str,
    fails: bool,
}

impl KeyPlace<'_> {
    fn compare<E: Error>(&self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.fails) {
            (true, true) => Err(E::custom(REACHED)),
            (same, _) => Ok(same),
        }
    }
}

impl<'de> DeserializeSeed<'de> for KeyPlace<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeyPlace<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        self.compare(key)
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<bool, E> {
        self.compare(&key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<bool, E> {
        self.compare(&key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<bool, E> {
        self.compare(&key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<bool, E> {
        self.compare(&key.to_string())
    }
}

/// What the failure says; nobody reads it.
const REACHED: &str = "reached";

/// The most mistakes that are listed one by one.
const MAX_PROBLEMS: usize = 100;

/// Longer documents get no line numbers: each costs a reading.
const MAX_LOCATED_BYTES: usize = 2 * 1024 * 1024;
