//! Builds the tree: one visitor for both formats, with the bounds and the notes about double keys.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::super::problem::{Found, Step};

/// What the visitors of one document share.
pub(super) struct State {
    steps: Vec<Step>,
    duplicates: Vec<Found>,
    values: usize,
    text_bytes: usize,
    /// Whether `<<` merges, as it does in YAML.
    merges: bool,
}

impl State {
    pub(super) fn new(merges: bool) -> Self {
        Self { steps: Vec::new(), duplicates: Vec::new(), values: 0, text_bytes: 0, merges }
    }

    /// The visitor of the document's root.
    pub(super) fn root(&mut self) -> Node<'_> {
        Node { state: self }
    }

    pub(super) fn into_duplicates(self) -> Vec<Found> {
        self.duplicates
    }

    /// Counts one more value. Anchors are expanded while they are read, so counting as we go is what stops a bomb.
    fn count<E: Error>(&mut self) -> Result<(), E> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(E::custom(format_args!(
                "more than {MAX_VALUES} values (anchors count wherever they are used)"
            )));
        }
        if self.steps.len() > MAX_DEPTH {
            return Err(E::custom(format_args!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(())
    }

    fn count_text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        self.text_bytes += text.len();
        if self.text_bytes > MAX_TEXT_BYTES {
            return Err(E::custom(format_args!(
                "more than {MAX_TEXT_BYTES} bytes of text (anchors count wherever they are used)"
            )));
        }
        Ok(())
    }

    fn note_duplicate(&mut self, key: &str) {
        let mut steps = self.steps.clone();
        steps.push(Step::Key(key.to_owned()));
        if self.duplicates.len() < MAX_DUPLICATES {
            let message = "is given twice: keep one of them".to_owned();
            self.duplicates.push(Found { steps, passed_over: 1, message });
        }
    }
}

/// Reads one value.
pub(super) struct Node<'state> {
    state: &'state mut State,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.state.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a plain value, list or object")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // YAML's `.inf` and `.nan` become the words that the protobuf JSON form has for them.
        let word = || match value {
            _ if value.is_nan() => "NaN",
            _ if value > 0.0 => "Infinity",
            _ => "-Infinity",
        };
        Ok(Number::from_f64(value).map_or_else(|| Value::String(word().to_owned()), Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.state.count_text(value)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("a YAML tag (`!name`) stands here; only plain values are understood"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.state.steps.push(Step::Index(list.len()));
            let element = elements.next_element_seed(Node { state: self.state })?;
            self.state.steps.pop();
            match element {
                Some(element) => list.push(element),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            self.state.count_text(&key)?;
            self.state.steps.push(Step::Key(key.clone()));
            let value = entries.next_value_seed(Node { state: self.state })?;
            self.state.steps.pop();
            if self.state.merges && key == "<<" {
                merged.push(value);
            } else if object.contains_key(&key) {
                self.state.note_duplicate(&key);
            } else {
                object.insert(key, value);
            }
        }
        for value in merged {
            merge(&mut object, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(object))
    }
}

/// Adds what a merge key (`<<`) brings: keys that the object itself has win, then the earlier of several sources.
fn merge(object: &mut Map<String, Value>, source: Value) -> Result<(), &'static str> {
    match source {
        Value::Object(entries) => {
            for (key, value) in entries {
                object.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(sources) => sources.into_iter().try_for_each(|source| merge(object, source)),
        _ => Err("`<<` takes an object or a list of objects"),
    }
}

/// Reads a key; numbers and booleans are taken as they would be written.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key, which is text")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// The most values in a document; a bootstrap with ten thousand clusters has under half a million.
const MAX_VALUES: usize = 2_000_000;

/// The most text in a document, counted where it is used.
const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// The deepest nesting; protobuf itself stops at 100 messages.
const MAX_DEPTH: usize = 80;

/// The most double keys worth noting.
const MAX_DUPLICATES: usize = 100;
