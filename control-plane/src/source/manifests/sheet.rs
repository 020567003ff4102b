//! What one file says: the objects it claims, and what is wrong with it. Pure: text in, sheet out.

use std::path::Path;

use serde_json::{Map, Value};

use super::identity::{Class, classify, identify};
use super::{Limits, loose, sections};
use crate::model::{Kind, Object, ObjectKey};
use crate::source::typed;
use crate::source::validate::Problem;
use crate::source::validate::path::item;

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    /// The objects, in the order of the file.
    pub(super) claims: Vec<Claim>,
    /// What is wrong beside the claims.
    pub(super) remarks: Vec<Remark>,
    /// Something in the file could not be read so far that its objects are known: objects that the file provided
    /// earlier and does not claim now may be in there.
    pub(super) torn: bool,
    /// What is torn may be any object, a policy too.
    pub(super) doubtful: bool,
    /// Objects of kinds that Sidegate does not read.
    pub(super) skipped: usize,
}

/// One object that a file claims.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) key: ObjectKey,
    /// The document, from 1.
    pub(super) document: usize,
    /// The object, when it can be used.
    pub(super) form: Option<Object>,
    pub(super) problems: Vec<Problem>,
}

/// One thing wrong that belongs to no claim.
#[derive(Debug)]
pub(super) struct Remark {
    /// The document, from 1; 0 for the whole file.
    pub(super) document: usize,
    pub(super) object: Option<String>,
    pub(super) problem: Problem,
}

impl Sheet {
    /// A file that cannot be read at all.
    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        let mut sheet = Self::default();
        sheet.tear(0, None, Problem::refused("", message));
        sheet
    }

    /// Reads a file's bytes.
    pub(super) fn read(path: &Path, bytes: &[u8], limits: &Limits) -> Self {
        if bytes.len() as u64 > limits.file_bytes {
            return Self::unreadable(format!("larger than {} bytes; split it", limits.file_bytes));
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Self::unreadable("not UTF-8 text; save it as UTF-8");
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let sheet = if is_json { Self::read_json(text, limits) } else { Self::read_yaml(text, limits) };
        if sheet.documents() > limits.documents {
            return Self::unreadable(format!("more than {} documents; split it", limits.documents));
        }
        sheet
    }

    fn read_yaml(text: &str, limits: &Limits) -> Self {
        let mut sheet = Self::default();
        for section in sections::sections(text) {
            if sheet.documents() > limits.documents {
                break;
            }
            let parsed = loose::yaml(section.text, section.lines_before);
            sheet.document(section.number, parsed, limits);
        }
        sheet
    }

    fn read_json(text: &str, limits: &Limits) -> Self {
        let mut sheet = Self::default();
        let mut number = 0;
        loose::json(text, |parsed| {
            number += 1;
            sheet.document(number, parsed, limits);
            sheet.documents() <= limits.documents
        });
        sheet
    }

    fn documents(&self) -> usize {
        self.claims.len() + self.remarks.len() + self.skipped
    }

    fn tear(&mut self, document: usize, object: Option<String>, problem: Problem) {
        (self.torn, self.doubtful) = (true, true);
        self.remarks.push(Remark { document, object, problem });
    }

    fn document(&mut self, number: usize, parsed: Result<Value, String>, limits: &Limits) {
        match parsed {
            Ok(Value::Object(object)) => self.object_or_list(number, object, limits),
            Ok(_) => self.tear(number, None, not_an_object()),
            Err(message) => self.tear(number, None, Problem::refused("", message)),
        }
    }

    /// A `List`, or a list of one kind such as `kubectl` and the API server write them, is its items.
    fn object_or_list(&mut self, number: usize, mut object: Map<String, Value>, limits: &Limits) {
        let item_kind = text(&object, "kind").and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
        let (Some(item_kind), Some(Value::Array(items))) =
            (item_kind, object.get_mut("items").map(Value::take))
        else {
            self.object(number, "", object);
            return;
        };
        let api_version = object.remove("apiVersion");
        for (index, value) in items.into_iter().enumerate() {
            if self.documents() > limits.documents {
                return;
            }
            let place = item("items", index);
            let Value::Object(mut inner) = value else {
                self.tear(number, None, Problem { field: Some(place), ..not_an_object() });
                continue;
            };
            if !item_kind.is_empty() && !inner.contains_key("kind") {
                inner.insert("kind".to_owned(), Value::String(item_kind.clone()));
                inner.entry("apiVersion").or_insert_with(|| api_version.clone().unwrap_or_default());
            }
            self.object(number, &place, inner);
        }
    }

    fn object(&mut self, document: usize, place: &str, object: Map<String, Value>) {
        let (Some(api_version), Some(kind)) = (text(&object, "apiVersion"), text(&object, "kind")) else {
            // A mapping that has neither is something else, such as the values of a chart.
            let (doubtful, is_other) =
                (self.doubtful, !object.contains_key("apiVersion") && !object.contains_key("kind"));
            self.tear(document, None, below(place, not_an_object()));
            self.doubtful = doubtful || !is_other;
            return;
        };
        match classify(api_version, kind) {
            Class::Foreign => self.skipped += 1,
            Class::Unsupported(message) => {
                let object = Some(described(&object));
                self.remarks.push(Remark {
                    document,
                    object,
                    problem: below(place, Problem::refused("kind", message)),
                });
            }
            Class::Unknown(message) => {
                let object = Some(described(&object));
                self.tear(document, object, below(place, Problem::refused("kind", message)));
            }
            Class::OtherVersion(kind, message) => self.claim(document, place, kind, object, Some(message)),
            Class::Read(kind) => self.claim(document, place, kind, object, None),
        }
    }

    fn claim(
        &mut self,
        document: usize,
        place: &str,
        kind: Kind,
        mut object: Map<String, Value>,
        refusal: Option<String>,
    ) {
        let (key, remark) = match identify(kind, &mut object) {
            Ok(identified) => identified,
            Err(problem) => {
                self.tear(document, Some(described(&object)), below(place, problem));
                return;
            }
        };
        let read = match refusal {
            Some(message) => {
                typed::Read { object: None, problems: vec![Problem::refused("apiVersion", message)] }
            }
            None => typed::read(kind, Value::Object(object)),
        };
        let problems = remark.into_iter().chain(read.problems).map(|problem| below(place, problem)).collect();
        self.claims.push(Claim { key, document, form: read.object, problems });
    }
}

fn text<'m>(object: &'m Map<String, Value>, key: &str) -> Option<&'m str> {
    object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn not_an_object() -> Problem {
    Problem::refused("", "not a Kubernetes object: it needs apiVersion and kind")
}

/// The kind and, if it can be told, the name, of an object that has no key.
fn described(object: &Map<String, Value>) -> String {
    let metadata =
        |key| object.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let kind = text(object, "kind").unwrap_or("?");
    let described = match (metadata("namespace"), metadata("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        _ => kind.to_owned(),
    };
    described.chars().take(300).collect()
}

/// The problem as seen from the document: an item of a list stands at `items[n]`.
fn below(place: &str, problem: Problem) -> Problem {
    if place.is_empty() {
        return problem;
    }
    let field = match problem.field {
        Some(field) if field.starts_with('[') => format!("{place}{field}"),
        Some(field) => format!("{place}.{field}"),
        None => place.to_owned(),
    };
    Problem { field: Some(field), ..problem }
}

#[cfg(test)]
mod tests;
