//! Walking a tree of values with its path, and collecting what is wrong on the way.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::Problem;
use super::names::{self, Rule};
use super::path::{self, quoted};

/// A place in an object: the value there, if any, and the path to it.
#[derive(Clone, Debug)]
pub(super) struct Node<'v> {
    value: Option<&'v Value>,
    path: String,
}

impl<'v> Node<'v> {
    pub(super) fn root(value: &'v Value) -> Self {
        Self { value: Some(value), path: String::new() }
    }

    /// A field; what is null is as good as absent.
    pub(super) fn get(&self, key: &str) -> Node<'v> {
        let value = self.value.and_then(|value| value.get(key)).filter(|value| !value.is_null());
        Node { value, path: path::join(&self.path, key) }
    }

    /// The items of a list; nothing for anything else.
    pub(super) fn items(&self) -> impl Iterator<Item = Node<'v>> + '_ {
        let items = self.value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        items
            .iter()
            .enumerate()
            .map(|(index, value)| Node { value: Some(value), path: path::item(&self.path, index) })
    }

    pub(super) fn len(&self) -> usize {
        self.value.and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// The entries of a map; nothing for anything else.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'v str, Node<'v>)> + '_ {
        let entries = self.value.and_then(Value::as_object).into_iter().flatten();
        entries.map(|(key, value)| {
            (key.as_str(), Node { value: Some(value), path: path::join(&self.path, key) })
        })
    }

    /// Whether there is no entry in the map here, or no map.
    pub(super) fn has_no_entries(&self) -> bool {
        self.value.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
    }

    pub(super) fn exists(&self) -> bool {
        self.value.is_some()
    }

    pub(super) fn text(&self) -> Option<&'v str> {
        self.value.and_then(Value::as_str)
    }

    /// The text, or what the API server fills in.
    pub(super) fn text_or(&self, default: &'v str) -> &'v str {
        self.text().unwrap_or(default)
    }

    pub(super) fn integer(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }
}

/// What was found wrong.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Problem>,
}

impl Report {
    /// The object cannot be used because of what is at this place.
    pub(super) fn refuse(&mut self, node: &Node<'_>, message: impl Into<String>) {
        self.problems.push(Problem::refused(node.path.clone(), message));
    }

    /// The text here, if there is one, obeys a rule.
    pub(super) fn text(&mut self, node: &Node<'_>, rule: Rule) {
        if let Some(text) = node.text()
            && !(rule.holds)(text)
        {
            self.refuse(node, format!("{} is not {}", quoted(text), rule.says));
        }
    }

    /// The number here, if there is one, lies in a range.
    pub(super) fn range(&mut self, node: &Node<'_>, range: RangeInclusive<i64>) {
        if let Some(number) = node.integer()
            && !range.contains(&number)
        {
            self.refuse(node, format!("{number} is not between {} and {}", range.start(), range.end()));
        }
    }

    pub(super) fn port(&mut self, node: &Node<'_>) {
        self.range(node, 1..=65535);
    }

    pub(super) fn required(&mut self, node: &Node<'_>) {
        if !node.exists() {
            self.refuse(node, "required, and not there");
        }
    }

    pub(super) fn at_most(&mut self, node: &Node<'_>, most: usize) {
        if node.len() > most {
            self.refuse(node, format!("{} items; at most {most} are allowed", node.len()));
        }
    }

    pub(super) fn at_least_one(&mut self, node: &Node<'_>) {
        if node.len() == 0 {
            self.refuse(node, "at least one item is needed");
        }
    }

    /// No two items of a list have the same text in one field.
    pub(super) fn unique(&mut self, list: &Node<'_>, key: &str) {
        let mut seen = BTreeSet::new();
        for item in list.items() {
            let field = item.get(key);
            if let Some(text) = field.text()
                && !seen.insert(text)
            {
                self.refuse(&field, format!("{} stands in this list twice", quoted(text)));
            }
        }
    }

    pub(super) fn regular_expression(&mut self, node: &Node<'_>) {
        let Some(text) = node.text() else { return };
        if let Err(error) = names::regular_expression(text) {
            self.refuse(node, format!("{} is not a regular expression: {error}", quoted(text)));
        }
    }

    /// A Gateway API duration, parsed so that the caller can compare it.
    pub(super) fn duration(&mut self, node: &Node<'_>) -> Option<std::time::Duration> {
        let text = node.text()?;
        let duration = names::duration(text);
        if duration.is_none() {
            let message =
                "is not a duration: write up to four whole numbers with h, m, s or ms, e.g. 1m30s or 500ms";
            self.refuse(node, format!("{} {message}", quoted(text)));
        }
        duration
    }
}
