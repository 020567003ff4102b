//! A mistake in a document: where it stands and what is wrong there.

use std::fmt;

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Where it stands, such as `static_resources.listeners[0].name`; empty when it concerns the document as a whole.
    pub path: String,
    /// The line, counted from one, when it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Problem {
    /// A mistake of the document as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { path: String::new(), line: None, message: message.into() }
    }

    /// The same as one line for people: `FILE:LINE: path: message`, a form that editors and terminals can follow.
    pub fn in_file(&self, file: &str) -> String {
        match self.line {
            Some(line) => format!("{file}:{line}: {self}"),
            None => format!("{file}: {self}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)
    }
}

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value under this key, as the document spells it.
    Key(String),
    /// The element at this position.
    Index(usize),
}

/// A mistake before its line is known.
#[derive(Debug)]
pub(super) struct Found {
    /// The way from the document's root.
    pub(super) steps: Vec<Step>,
    /// How many equal keys to pass over before the one that is meant: not zero for a key that is given twice.
    pub(super) passed_over: usize,
    /// What is wrong.
    pub(super) message: String,
}

impl Found {
    pub(super) fn into_problem(self, line: Option<usize>) -> Problem {
        Problem { path: write_path(&self.steps), line, message: self.message }
    }
}

/// Writes a path the way people write it: `a.b[0]["odd key"].c`.
fn write_path(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) if is_plain(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Key(key) => path.push_str(&format!("[{key:?}]")),
        }
    }
    path
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '@' | '-'))
}
