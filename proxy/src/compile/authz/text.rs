//! `StringMatcher`, `RegexMatcher`, `MetadataMatcher` → what rules run.

use sidegate_xds::envoy::r#type::matcher::v3 as wire;
use wire::double_matcher::MatchPattern as DoublePattern;
use wire::list_matcher::MatchPattern as ListPattern;
use wire::metadata_matcher::path_segment::Segment;
use wire::string_matcher::MatchPattern as StringPattern;
use wire::value_matcher::MatchPattern as ValuePattern;

use super::{Budget, MOST_DEPTH};
use crate::compile::problem::{At, Problem, fail};
use crate::compile::value;
use crate::filter::authz::{AttributeRule, Text, ValueTest};

/// `StringMatcher`.
pub(super) fn string(wire: &wire::StringMatcher, budget: &mut Budget) -> Result<Text, Problem> {
    let ignore_case = wire.ignore_case;
    Ok(match &wire.match_pattern {
        None => return fail("match_pattern is required"),
        Some(StringPattern::Exact(text)) => Text::exact(text, ignore_case),
        Some(StringPattern::Prefix(text)) => Text::prefix(text, ignore_case),
        Some(StringPattern::Suffix(text)) => Text::suffix(text, ignore_case),
        Some(StringPattern::Contains(text)) => Text::contains(text, ignore_case),
        Some(StringPattern::SafeRegex(pattern)) => regex(pattern, budget).at("safe_regex")?,
        Some(StringPattern::Custom(_)) => return fail("is not supported yet").at("custom"),
    })
}

/// `RegexMatcher`. What says no more than a prefix, a suffix or a part does (`.*/ns/shop/.*`) becomes that: it costs a fraction.
pub(super) fn regex(wire: &wire::RegexMatcher, budget: &mut Budget) -> Result<Text, Problem> {
    if let Some(text) = simple(&wire.regex) {
        return Ok(text);
    }
    budget.take_regex()?;
    Ok(Text::regex(value::whole_regex(wire)?))
}

fn simple(pattern: &str) -> Option<Text> {
    let (start, pattern) = match pattern.strip_prefix(".*") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (end, pattern) = match pattern.strip_suffix(".*") {
        // `\.*` is any number of dots.
        Some(rest) if !rest.ends_with('\\') => (true, rest),
        _ => (false, pattern),
    };
    let mut literal = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => literal.push(characters.next().filter(char::is_ascii_punctuation)?),
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => return None,
            character => literal.push(character),
        }
    }
    Some(match (start, end) {
        // `.` is no line end, and no text that is matched here has one.
        (true, true) => Text::contains(&literal, false),
        (true, false) => Text::suffix(&literal, false),
        (false, true) => Text::prefix(&literal, false),
        (false, false) => Text::exact(&literal, false),
    })
}

/// `MetadataMatcher`.
pub(super) fn attribute(wire: &wire::MetadataMatcher, budget: &mut Budget) -> Result<AttributeRule, Problem> {
    if wire.filter.is_empty() {
        return fail("is required").at("filter");
    }
    let key = |segment: &wire::metadata_matcher::PathSegment| match &segment.segment {
        Some(Segment::Key(key)) if !key.is_empty() => Some(key.as_str().into()),
        _ => None,
    };
    let path: Option<Box<[Box<str>]>> = wire.path.iter().map(key).collect();
    let path = path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Problem::new("needs at least one key, none of them empty").at("path"))?;
    let Some(value) = &wire.value else { return fail("is required").at("value") };
    let test = value_test(value, budget, 0).at("value")?;
    Ok(AttributeRule { filter: wire.filter.as_str().into(), path, test, invert: wire.invert })
}

fn value_test(wire: &wire::ValueMatcher, budget: &mut Budget, depth: usize) -> Result<ValueTest, Problem> {
    budget.take_rule()?;
    if depth > MOST_DEPTH {
        return fail(format!("tests within tests, more than {MOST_DEPTH} deep"));
    }
    Ok(match &wire.match_pattern {
        None => return fail("has no test that this proxy knows"),
        Some(ValuePattern::NullMatch(_)) => ValueTest::Null,
        Some(ValuePattern::DoubleMatch(double)) => match &double.match_pattern {
            Some(DoublePattern::Exact(number)) => ValueTest::Number(*number),
            Some(DoublePattern::Range(range)) => ValueTest::Range(range.start, range.end),
            None => return fail("has no test that this proxy knows").at("double_match"),
        },
        Some(ValuePattern::StringMatch(test)) => ValueTest::Text(string(test, budget).at("string_match")?),
        Some(ValuePattern::BoolMatch(flag)) => ValueTest::Flag(*flag),
        Some(ValuePattern::PresentMatch(present)) => ValueTest::Present(*present),
        Some(ValuePattern::ListMatch(list)) => match &list.match_pattern {
            Some(ListPattern::OneOf(test)) => {
                ValueTest::Element(Box::new(value_test(test, budget, depth + 1).at("list_match.one_of")?))
            }
            None => return fail("has no test that this proxy knows").at("list_match"),
        },
        Some(ValuePattern::OrMatch(either)) => {
            let mut tests = Vec::with_capacity(either.value_matchers.len());
            for test in &either.value_matchers {
                tests.push(value_test(test, budget, depth + 1).at("or_match")?);
            }
            if tests.len() < 2 {
                return fail("needs at least two").at("or_match.value_matchers");
            }
            ValueTest::Either(tests.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_expressions_need_no_engine() {
        let parts = |pattern: &str| {
            simple(pattern).map(|text| {
                (text.only().is_some(), text.beginning().is_some(), text.part().map(str::to_owned))
            })
        };
        let part = |text: &str| Some(text.to_owned());
        assert_eq!(parts(".*/ns/shop/.*"), Some((false, false, part("/ns/shop/"))));
        assert_eq!(parts(r"spiffe://a\.test/.*"), Some((false, true, part("spiffe://a.test/"))));
        assert_eq!(parts(".*/sa/web"), Some((false, false, part("/sa/web"))));
        assert_eq!(parts("a-b/c"), Some((true, true, part("a-b/c"))));
        for pattern in ["a.b", r"a\d", r"a\.*", ".+", "a|b", "[a]", "a?", "(a)", "^a", r"a\"] {
            assert_eq!(parts(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn simple_expressions_mean_what_the_engine_says() {
        for pattern in [".*/ns/a/.*", r"x\.y.*", ".*z", r"a\-b", ".*", r"\..*"] {
            let engine = regex::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
            let text = simple(pattern).unwrap();
            for value in ["", "x.y", "x.yz", "q/ns/a/b", "/ns/a", "z", "a-b", "xzy", ".", "..a", "xay"] {
                assert_eq!(text.holds(value), engine.is_match(value), "{pattern} {value}");
            }
        }
    }
}
