//! YAML or JSON text → a bounded tree of values; and back from a place in the tree to its line.
//!
//! Bounds: size of the text, depth, number of values and bytes of text after anchors are expanded (so that a few lines of
//! anchors cannot fill the memory). Keys that stand twice are mistakes. YAML is read by the 1.2 rules: `yes`
//! and `on` are words, not booleans.

mod locate;
mod tree;

use std::path::Path;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::problem::{Found, Problem};

pub(super) use locate::locate_all;

/// How a document is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON when the text begins with `{` and reads as JSON, otherwise YAML.
    #[default]
    Auto,
    /// JSON only.
    Json,
    /// YAML, which contains JSON but for a few escapes.
    Yaml,
}

impl Format {
    /// The format that a file's name promises.
    pub fn of_file(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Auto,
        }
    }
}

/// A document as a tree.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) value: Value,
    /// Keys that stand twice in one object.
    pub(super) duplicates: Vec<Found>,
    /// The format that it turned out to have.
    pub(super) format: Format,
}

/// Reads a document.
pub(super) fn parse(text: &str, format: Format) -> Result<Parsed, Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::whole(format!(
            "the document has {} bytes; the limit is {MAX_BYTES}",
            text.len()
        )));
    }
    if text.trim().is_empty() {
        return Err(Problem::whole("the document is empty"));
    }
    match format {
        Format::Json => parse_json(text),
        Format::Yaml => parse_yaml(text),
        Format::Auto if !text.trim_start().starts_with('{') => parse_yaml(text),
        // A YAML flow mapping looks like JSON at its start; what is neither is reported as the JSON it resembles.
        Format::Auto => parse_json(text).or_else(|as_json| parse_yaml(text).map_err(|_| as_json)),
    }
}

fn parse_json(text: &str) -> Result<Parsed, Problem> {
    let mut state = tree::State::new(false);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value =
        state.root().deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(value) => Ok(Parsed { value, duplicates: state.into_duplicates(), format: Format::Json }),
        Err(error) => Err(unreadable("JSON", &error, Some(error.line()))),
    }
}

fn parse_yaml(text: &str) -> Result<Parsed, Problem> {
    let mut state = tree::State::new(true);
    match state.root().deserialize(serde_yaml::Deserializer::from_str(text)) {
        // A text of nothing but comments.
        Ok(Value::Null) => Err(Problem::whole("the document is empty")),
        Ok(value) => Ok(Parsed { value, duplicates: state.into_duplicates(), format: Format::Yaml }),
        Err(error) => Err(unreadable("YAML", &error, error.location().map(|place| place.line()))),
    }
}

fn unreadable(form: &str, error: &dyn std::fmt::Display, line: Option<usize>) -> Problem {
    Problem {
        path: String::new(),
        line: line.filter(|line| *line > 0),
        message: format!("not readable as {form}: {error}"),
    }
}

/// The longest document that is read.
const MAX_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
