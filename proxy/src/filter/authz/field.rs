//! Tests of header fields (I5): certain only of what every reader of the request would see alike.
//!
//! Envoy joins the fields of one name by commas and looks at that alone. Readers behind us take the first, the last, or one element of
//! the list; they ignore case, or white space. What holds by one of these readings only is unclear.

use std::borrow::Cow;

use super::facts::Facts;
use super::text::Text;
use super::truth::Truth;
use crate::message::RequestHead;

/// `HeaderMatcher`.
#[derive(Debug)]
pub(crate) struct FieldRule {
    /// Which field.
    pub(crate) name: FieldName,
    /// What must hold for it.
    pub(crate) test: FieldTest,
    /// `invert_match`.
    pub(crate) invert: bool,
    /// `treat_missing_header_as_empty`.
    pub(crate) missing_as_empty: bool,
}

/// A field, or what HTTP/2 has among the fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FieldName {
    /// `:method`.
    Method,
    /// `:path`: path and query.
    Path,
    /// `:scheme`.
    Scheme,
    /// `:authority`, `host`.
    Authority,
    /// A field's name, lower case.
    Field(Box<str>),
}

/// What must hold.
#[derive(Debug)]
pub(crate) enum FieldTest {
    /// `present_match`.
    Present,
    /// `string_match` and the older forms.
    Text(Text),
    /// `range_match`: from the first to below the second.
    Range(i64, i64),
}

impl FieldRule {
    /// Whether it holds.
    pub(super) fn judge(&self, facts: &Facts<'_>) -> Truth {
        let Some(request) = facts.request else { return Truth::Unclear };
        let truth = match &self.name {
            FieldName::Method => self.of_method(request.method.as_str()),
            FieldName::Scheme => self.of_word(request.scheme.as_str()),
            FieldName::Path => match &self.test {
                FieldTest::Text(text) => facts.judge_target(text),
                _ => self.of_word(request.path.as_str()),
            },
            FieldName::Authority => match &request.authority {
                Some(authority) => self.of_authority(authority.as_str()),
                None => return self.of_nothing(),
            },
            // Many an application takes `X_Role` for `X-Role` (A27).
            FieldName::Field(name) if request.headers.has_alike(name) => return Truth::Unclear,
            FieldName::Field(name) => {
                let mut values = request.headers.get_all(name);
                match (values.next(), values.next()) {
                    (None, _) => return self.of_nothing(),
                    (Some(value), None) => self.of_value(value),
                    (Some(_), Some(_)) => self.of_values(request, name),
                }
            }
        };
        truth.not_if(self.invert)
    }

    /// Without the field a test fails, inverted or not, as in Envoy.
    fn of_nothing(&self) -> Truth {
        match &self.test {
            FieldTest::Present => Truth::No.not_if(self.invert),
            FieldTest::Text(text) if self.missing_as_empty => Truth::of(text.holds("")).not_if(self.invert),
            FieldTest::Text(_) | FieldTest::Range(..) => Truth::No,
        }
    }

    /// What the proxy itself has read already: there is one way to see it.
    fn of_word(&self, word: &str) -> Truth {
        match &self.test {
            FieldTest::Present => Truth::Yes,
            FieldTest::Text(text) => Truth::of(text.holds(word)),
            FieldTest::Range(from, to) => in_range(word.as_bytes(), *from, *to),
        }
    }

    /// Methods are told apart by the case of their letters, and many an application does not.
    fn of_method(&self, method: &str) -> Truth {
        match (&self.test, self.of_word(method)) {
            (FieldTest::Text(text), Truth::No) if text.nearly(method) => Truth::Unclear,
            (_, truth) => truth,
        }
    }

    /// A host means the same in capitals, with the root's dot, and with its port.
    fn of_authority(&self, authority: &str) -> Truth {
        let FieldTest::Text(text) = &self.test else { return self.of_word(authority) };
        if text.holds(authority) {
            return Truth::Yes;
        }
        let port = authority.rfind(':').filter(|colon| authority[*colon..].find(']').is_none());
        let host = port.map_or(authority, |colon| &authority[..colon]);
        let bare = host.strip_suffix('.').unwrap_or(host);
        let same = text.nearly(authority) || text.nearly(host) || text.nearly(bare);
        if same
            || (bare.len() < host.len()
                && port.is_some_and(|colon| text.nearly(&format!("{bare}{}", &authority[colon..]))))
        {
            return Truth::Unclear;
        }
        Truth::No
    }

    /// The only field of its name.
    fn of_value(&self, value: &[u8]) -> Truth {
        match &self.test {
            // Absent to one, there to another.
            FieldTest::Present if value.is_empty() => Truth::Unclear,
            FieldTest::Present => Truth::Yes,
            FieldTest::Range(from, to) => in_range(value, *from, *to),
            FieldTest::Text(text) => match text.judge(value) {
                Truth::No if is_hidden_in(text, value) => Truth::Unclear,
                truth => truth,
            },
        }
    }

    /// Several fields of one name.
    fn of_values(&self, request: &RequestHead, name: &str) -> Truth {
        let values = || request.headers.get_all(name);
        match &self.test {
            FieldTest::Present => Truth::any(values().map(|value| self.of_value(value))),
            // A list of numbers is no number.
            FieldTest::Range(..) => Truth::Unclear,
            FieldTest::Text(text) => {
                let joined = Cow::<[u8]>::Owned(values().collect::<Vec<_>>().join(&b','));
                Truth::agreed(
                    values().map(|value| self.of_value(value)).chain(std::iter::once(text.judge(&joined))),
                )
            }
        }
    }
}

/// Whether an element of the list holds, or the whole but for the case of letters.
fn is_hidden_in(text: &Text, value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return true };
    if text.nearly(value) {
        return true;
    }
    if !value.contains(',') {
        return false;
    }
    let mut elements = value.split(',');
    let found = elements.by_ref().take(MOST_ELEMENTS).any(|element| text.nearly(element.trim()));
    // A longer list is not searched to its end.
    found || elements.next().is_some()
}

/// Elements of a list that are looked at.
const MOST_ELEMENTS: usize = 64;

fn in_range(value: &[u8], from: i64, to: i64) -> Truth {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
    number.map_or(Truth::Unclear, |number| Truth::of((from..to).contains(&number)))
}
