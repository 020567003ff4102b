//! Where in an object: `spec.rules[0].matches[1].path`, and `metadata.labels["app.kubernetes.io/name"]`.

use std::fmt::Write;

use serde_path_to_error::Segment;

/// A field below a path.
pub fn join(parent: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_$".contains(letter));
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{}]", quoted(key)),
    }
}

/// An item of a list.
pub fn item(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// A piece of a document as findings show it: bounded, control characters made visible.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// The path of a field that a type does not know.
pub(crate) fn of_ignored(field: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match field {
        Path::Root => String::new(),
        Path::Seq { parent, index } => item(&of_ignored(parent), *index),
        Path::Map { parent, key } => join(&of_ignored(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            of_ignored(parent)
        }
    }
}

/// The path at which a type did not fit. An enum's variant is a value, not a place: it is left out.
pub(crate) fn of_error(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |mut place, segment| match segment {
        Segment::Seq { index } => {
            let _ = write!(place, "[{index}]");
            place
        }
        Segment::Map { key } => join(&place, key),
        Segment::Enum { .. } | Segment::Unknown => place,
    })
}
