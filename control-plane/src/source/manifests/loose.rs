//! Text → a tree of values, in YAML or JSON, within bounds and with what must not pass unseen refused: a key twice, an
//! anchor that multiplies, nesting without end.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::source::validate::path::quoted;

/// Parses one YAML document. `lines_before` makes the lines in messages those of the file.
pub(super) fn yaml(text: &str, lines_before: usize) -> Result<Value, String> {
    // The parser takes time that grows with the square of the open brackets, long before its own bound on nesting.
    if open_brackets(text) > DEEPEST_BRACKETS {
        return Err("nested too deeply: at most 128 levels are read".to_owned());
    }
    let budget = Budget::for_text(text);
    let parsed = Tree { budget: &budget }.deserialize(serde_yaml::Deserializer::from_str(text));
    parsed.map_err(|error| with_lines_shifted(&error.to_string(), lines_before))
}

/// Parses a file of JSON documents, one after the other; stops at the first that is broken.
pub(super) fn json(text: &str, mut each: impl FnMut(Result<Value, String>) -> bool) {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let budget = Budget::for_text(text);
    while deserializer.end().is_err() {
        let parsed =
            Tree { budget: &budget }.deserialize(&mut deserializer).map_err(|error| error.to_string());
        let is_broken = parsed.is_err();
        if !each(parsed) || is_broken {
            return;
        }
    }
}

/// How many more brackets open than close, at most. Brackets in strings count too: the bound is far above both what
/// is read (128) and what stands unbalanced in the strings of a real manifest.
fn open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

const DEEPEST_BRACKETS: usize = 512;

/// Moves every `line N` of a message down.
fn with_lines_shifted(message: &str, by: usize) -> String {
    let mut pieces = message.split("line ");
    let mut shifted = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.len() - piece.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        let (number, rest) = piece.split_at(digits);
        match number.parse::<usize>() {
            Ok(number) if rest.starts_with(" column") => {
                shifted.push_str(&format!("line {}{rest}", number + by))
            }
            _ => shifted.push_str(&format!("line {piece}")),
        }
    }
    shifted
}

/// What the tree may still grow by, in values and characters. Without anchors a tree never outgrows its text; with
/// them, a few lines can say a billion values.
struct Budget(Cell<usize>);

impl Budget {
    fn for_text(text: &str) -> Self {
        Self(Cell::new(text.len().saturating_mul(16).saturating_add(4096)))
    }

    fn spend<E: Error>(&self, amount: usize) -> Result<(), E> {
        match self.0.get().checked_sub(amount) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(E::custom(
                "aliases (*name) repeat too much: the document grows to over 16 times its text",
            )),
        }
    }
}

struct Tree<'b> {
    budget: &'b Budget,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a plain value (no custom !tag)")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(1)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number that JSON knows"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(1 + value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.budget.spend(1)?;
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.budget.spend(1)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Tree { budget: self.budget })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.budget.spend(1)?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            self.budget.spend(1 + key.len())?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {} stands here twice", quoted(&key))));
            }
            let value = entries.next_value_seed(Tree { budget: self.budget })?;
            map.insert(key, value);
        }
        merge(&mut map);
        Ok(Value::Object(map))
    }
}

/// `<<: *base` takes over the entries of another mapping, or of several, that are not written here.
fn merge(map: &mut Map<String, Value>) {
    let sources = match map.get_mut("<<").map(Value::take) {
        Some(Value::Object(source)) => vec![Value::Object(source)],
        Some(Value::Array(sources)) if sources.iter().all(Value::is_object) => sources,
        Some(other) => {
            map.insert("<<".to_owned(), other);
            return;
        }
        None => return,
    };
    map.remove("<<");
    for (key, value) in sources.into_iter().filter_map(into_object).flatten() {
        map.entry(key).or_insert(value);
    }
}

fn into_object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// A key: text, or a number or truth value that is meant as text (`8080: web`).
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
        formatter.write_str("a key that is a text")
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
}

#[cfg(test)]
mod tests;
