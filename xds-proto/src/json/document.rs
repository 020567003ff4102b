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
    // The parser takes time that grows with the square of the open brackets, long before the tree's own bound on nesting.
    if let Some(line) = first_line_too_deep(text) {
        let message = format!("nested too deeply: more than {DEEPEST_BRACKETS} brackets are open");
        return Err(Problem { path: String::new(), line: Some(line), message });
    }
    let mut state = tree::State::new(true);
    match state.root().deserialize(serde_yaml::Deserializer::from_str(text)) {
        // A text of nothing but comments.
        Ok(Value::Null) => Err(Problem::whole("the document is empty")),
        Ok(value) => Ok(Parsed { value, duplicates: state.into_duplicates(), format: Format::Yaml }),
        Err(error) => Err(unreadable("YAML", &error, error.location().map(|place| place.line()))),
    }
}

/// The line on which too many more brackets are open than closed. Brackets in strings count too: the bound is far above both what is read
/// and what stands unbalanced in the strings of a real document.
fn first_line_too_deep(text: &str) -> Option<usize> {
    let (mut open, mut line) = (0_usize, 1);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'\n' => line += 1,
            _ => {}
        }
        if open > DEEPEST_BRACKETS {
            return Some(line);
        }
    }
    None
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

/// Brackets open at once.
const DEEPEST_BRACKETS: usize = 1000;

#[cfg(test)]
mod tests;
