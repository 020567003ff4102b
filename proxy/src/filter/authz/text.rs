//! Tests of a text: `StringMatcher`, ready to run.

use memchr::memmem::Finder;
use regex::Regex;

use super::truth::Truth;

/// `StringMatcher`.
#[derive(Debug)]
pub(crate) struct Text {
    test: Test,
    ignore_case: bool,
}

#[derive(Debug)]
enum Test {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<Finder<'static>>),
    Regex(Box<Regex>),
}

impl Text {
    /// `exact`.
    pub(crate) fn exact(text: &str, ignore_case: bool) -> Self {
        Self { test: Test::Exact(text.into()), ignore_case }
    }

    /// `prefix`.
    pub(crate) fn prefix(text: &str, ignore_case: bool) -> Self {
        Self { test: Test::Prefix(text.into()), ignore_case }
    }

    /// `suffix`.
    pub(crate) fn suffix(text: &str, ignore_case: bool) -> Self {
        Self { test: Test::Suffix(text.into()), ignore_case }
    }

    /// `contains`.
    pub(crate) fn contains(text: &str, ignore_case: bool) -> Self {
        Self { test: Test::Contains(Box::new(Finder::new(text).into_owned())), ignore_case }
    }

    /// `safe_regex`, which must be made so that it matches whole texts only.
    pub(crate) fn regex(regex: Box<Regex>) -> Self {
        Self { test: Test::Regex(regex), ignore_case: false }
    }

    /// Whether it holds. Bytes that are no text can be judged by nobody.
    pub(crate) fn judge(&self, value: &[u8]) -> Truth {
        std::str::from_utf8(value).map_or(Truth::Unclear, |text| Truth::of(self.holds(text)))
    }

    /// Whether it holds of bytes that need not be text; a regular expression is about characters.
    pub(crate) fn judge_bytes(&self, value: &[u8]) -> Truth {
        match &self.test {
            Test::Regex(_) => self.judge(value),
            _ => Truth::of(self.compare(value, self.ignore_case)),
        }
    }

    /// Whether it holds of a text.
    pub(crate) fn holds(&self, value: &str) -> bool {
        self.compare(value.as_bytes(), self.ignore_case)
    }

    /// Whether it holds but for the case of letters. A regular expression says itself whether case matters.
    pub(crate) fn nearly(&self, value: &str) -> bool {
        self.compare(value.as_bytes(), true)
    }

    fn compare(&self, value: &[u8], ignore_case: bool) -> bool {
        let same = |part: Option<&[u8]>, wanted: &str| {
            part.is_some_and(|part| {
                if ignore_case {
                    part.eq_ignore_ascii_case(wanted.as_bytes())
                } else {
                    part == wanted.as_bytes()
                }
            })
        };
        match &self.test {
            Test::Exact(wanted) => value.len() == wanted.len() && same(Some(value), wanted),
            Test::Prefix(wanted) => same(value.get(..wanted.len()), wanted),
            Test::Suffix(wanted) => {
                same(value.len().checked_sub(wanted.len()).and_then(|start| value.get(start..)), wanted)
            }
            Test::Contains(wanted) if ignore_case => {
                let wanted = wanted.needle();
                wanted.is_empty()
                    || value.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted))
            }
            Test::Contains(wanted) => wanted.find(value).is_some(),
            Test::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
        }
    }

    /// The one text of which it holds, where there is only one.
    pub(crate) fn only(&self) -> Option<&str> {
        match &self.test {
            Test::Exact(text) if !self.ignore_case => Some(text),
            _ => None,
        }
    }

    /// The one text of which it holds, the case of letters apart.
    pub(crate) fn whole(&self) -> Option<&str> {
        match &self.test {
            Test::Exact(text) => Some(text),
            _ => None,
        }
    }

    /// What every text begins with of which it holds.
    pub(crate) fn beginning(&self) -> Option<&str> {
        match &self.test {
            Test::Exact(text) | Test::Prefix(text) if !self.ignore_case => Some(text),
            _ => None,
        }
    }

    /// What is part of every text of which it holds.
    pub(crate) fn part(&self) -> Option<&str> {
        match &self.test {
            _ if self.ignore_case => None,
            Test::Exact(text) | Test::Prefix(text) | Test::Suffix(text) => Some(text),
            Test::Contains(text) => std::str::from_utf8(text.needle()).ok(),
            Test::Regex(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_texts() {
        let regex = Text::regex(Box::new(Regex::new(r"\A(?:a|bc)\z").unwrap()));
        for (test, yes, no) in [
            (Text::exact("ab", false), "ab", "Ab"),
            (Text::exact("ab", true), "AB", "abc"),
            (Text::prefix("ab", false), "abc", "a"),
            (Text::suffix("bc", false), "abc", "c"),
            (Text::contains("b", false), "abc", "ac"),
            (Text::contains("B", true), "abc", "ac"),
            (Text::contains("", false), "", "\u{0}"),
            (regex, "bc", "abc"),
        ] {
            assert!(test.holds(yes), "{test:?} {yes}");
            assert!(!test.holds(no) || test.part() == Some(""), "{test:?} {no}");
            assert_eq!(test.judge(yes.as_bytes()), Truth::Yes);
            assert_eq!(test.judge(b"\xff"), Truth::Unclear);
        }
        assert!(Text::exact("Ab", false).nearly("aB") && !Text::exact("Ab", false).nearly("b"));
        assert!(Text::contains("Ab", false).nearly("xaBx"));
    }

    #[test]
    fn what_must_be_there() {
        assert_eq!(Text::exact("a", false).only(), Some("a"));
        assert_eq!(Text::exact("a", true).only(), None);
        assert_eq!(Text::prefix("a", false).beginning(), Some("a"));
        assert_eq!(Text::exact("a", false).beginning(), Some("a"));
        assert_eq!((Text::prefix("a", true).beginning(), Text::exact("a", true).beginning()), (None, None));
        assert_eq!(Text::suffix("a", false).beginning(), None);
        assert_eq!(Text::exact("a", true).whole(), Some("a"));
        assert_eq!(Text::prefix("a", false).whole(), None);
        for text in [Text::exact("a", false), Text::prefix("a", false), Text::suffix("a", false)] {
            assert_eq!(text.part(), Some("a"));
            assert_eq!(text.only().is_some(), text.whole().is_some());
        }
        assert_eq!(Text::contains("a", false).part(), Some("a"));
        assert_eq!(Text::contains("a", true).part(), None);
    }
}
