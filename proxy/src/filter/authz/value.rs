//! Tests of what filters have found out (`MetadataMatcher`): a token's claims above all.

use std::sync::Arc;

use serde_json::Value;

use super::text::Text;
use super::truth::Truth;
use crate::filter::Attributes;

/// `MetadataMatcher`.
#[derive(Debug)]
pub(crate) struct AttributeRule {
    /// The filter whose word it is.
    pub(crate) filter: Arc<str>,
    /// The way to the value.
    pub(crate) path: Box<[Box<str>]>,
    /// What must hold.
    pub(crate) test: ValueTest,
    /// `invert`.
    pub(crate) invert: bool,
}

/// `ValueMatcher`.
#[derive(Debug)]
pub(crate) enum ValueTest {
    /// `null_match`.
    Null,
    /// `double_match`: exactly.
    Number(f64),
    /// `double_match`: from the first to below the second.
    Range(f64, f64),
    /// `string_match`.
    Text(Text),
    /// `bool_match`.
    Flag(bool),
    /// `present_match`.
    Present(bool),
    /// `list_match`: one element of a list.
    Element(Box<ValueTest>),
    /// `or_match`.
    Either(Box<[ValueTest]>),
}

impl AttributeRule {
    /// Whether it holds. What no filter has said does not.
    pub(super) fn judge(&self, attributes: Option<&Attributes>) -> Truth {
        let Some(attributes) = attributes else { return Truth::Unclear };
        let mut value = attributes.get(&self.filter);
        for key in &self.path {
            value = value.and_then(|value| value.as_object()?.get(&**key));
        }
        Truth::of(self.test.holds(value)).not_if(self.invert)
    }
}

impl ValueTest {
    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => value.is_some() == *wanted,
            (Self::Either(tests), value) => tests.iter().any(|test| test.holds(value)),
            (_, None) => false,
            (Self::Null, Some(value)) => value.is_null(),
            (Self::Number(wanted), Some(value)) => value.as_f64() == Some(*wanted),
            (Self::Range(from, to), Some(value)) => {
                value.as_f64().is_some_and(|number| (*from..*to).contains(&number))
            }
            (Self::Text(test), Some(value)) => value.as_str().is_some_and(|text| test.holds(text)),
            (Self::Flag(wanted), Some(value)) => value.as_bool() == Some(*wanted),
            (Self::Element(test), Some(value)) => {
                value.as_array().is_some_and(|list| list.iter().any(|element| test.holds(Some(element))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_their_path() {
        let mut attributes = Attributes::default();
        let claims = json!({"sub": "me", "age": 7, "admin": true, "groups": ["a", "b"], "none": null, "deep": {"x": 1.5}});
        attributes.set("jwt".into(), json!({ "payload": claims }));
        let text = |text| ValueTest::Text(Text::exact(text, false));
        for (path, test, wanted) in [
            (&["sub"][..], text("me"), true),
            (&["sub"], text("you"), false),
            (&["sub", "x"], text("me"), false),
            (&["age"], ValueTest::Number(7.0), true),
            (&["age"], ValueTest::Range(1.0, 7.0), false),
            (&["age"], text("7"), false),
            (&["deep", "x"], ValueTest::Range(1.0, 2.0), true),
            (&["admin"], ValueTest::Flag(true), true),
            (&["groups"], ValueTest::Element(Box::new(text("b"))), true),
            (&["groups"], text("b"), false),
            (
                &["groups"],
                ValueTest::Either([text("b"), ValueTest::Element(Box::new(text("a")))].into()),
                true,
            ),
            (&["none"], ValueTest::Null, true),
            (&["none"], ValueTest::Present(true), true),
            (&["missing"], ValueTest::Present(false), true),
            (&["missing"], ValueTest::Null, false),
        ] {
            let path = std::iter::once(&"payload").chain(path).map(|key| (*key).into()).collect();
            let rule = AttributeRule { filter: "jwt".into(), path, test, invert: false };
            assert_eq!(rule.judge(Some(&attributes)), Truth::of(wanted), "{rule:?}");
            let inverted = AttributeRule { invert: true, ..rule };
            assert_eq!(inverted.judge(Some(&attributes)), Truth::of(!wanted), "{inverted:?}");
        }
        let other =
            AttributeRule { filter: "x".into(), path: [].into(), test: ValueTest::Null, invert: false };
        assert_eq!(other.judge(Some(&attributes)), Truth::No);
        assert_eq!(other.judge(None), Truth::Unclear, "a connection has no claims");
    }
}
