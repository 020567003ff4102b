//! URI templates: `/a/*/b`, `/a/**`, `/a/{*}/b`, `/a/{name}/b`, `/a/{name=**}`, `/v*/x.json`.
//!
//! Envoy's `uri_template_matcher`, and the spelling of Istio's and our own policies (`{*}`, `{**}`).

use super::truth::Truth;

/// A template, ready to run.
#[derive(Debug)]
pub(crate) struct Template {
    segments: Box<[Segment]>,
    /// `**` at the end: what must follow it.
    rest: Option<Box<str>>,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Literal(Box<str>),
    /// One or more characters between two literals.
    Any(Box<str>, Box<str>),
}

/// What is wrong with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// Empty, or longer than Envoy allows.
    #[error("must have 1 to 256 bytes")]
    Length,
    /// It does not begin with a slash.
    #[error("must begin with /")]
    Root,
    /// Braces that do not match, or a name that is none.
    #[error("has a variable that cannot be read: write {{name}}, {{name=*}}, {{name=**}}, {{*}} or {{**}}")]
    Variable,
    /// A `**` before the end.
    #[error("has an operator behind `**`, which must be the last")]
    NotLast,
    /// Two operators in one segment.
    #[error("has more than one operator between two slashes")]
    Crowded,
    /// A character that no path has.
    #[error("has a character that a path cannot have")]
    Character,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(template: &str) -> Result<Self, Malformed> {
        if template.is_empty() || template.len() > 256 {
            return Err(Malformed::Length);
        }
        let plain = without_variables(template)?;
        let Some(path) = plain.strip_prefix('/') else { return Err(Malformed::Root) };
        if !plain.bytes().all(|byte| byte == b'/' || byte == b'*' || is_plain(byte)) {
            return Err(Malformed::Character);
        }
        let (path, rest) = match path.split_once("**") {
            Some((_, rest)) if rest.contains('*') => return Err(Malformed::NotLast),
            Some((path, rest)) => (path, Some(rest.into())),
            None => (path, None),
        };
        let mut segments = Vec::new();
        for segment in path.split('/') {
            segments.push(match segment.split_once('*') {
                None => Segment::Literal(segment.into()),
                Some((_, after)) if after.contains('*') => return Err(Malformed::Crowded),
                Some((before, after)) => Segment::Any(before.into(), after.into()),
            });
        }
        if rest.is_some() && segments.pop() != Some(Segment::Literal("".into())) {
            // `/a**`: what is before the operator must end with a slash.
            return Err(Malformed::Crowded);
        }
        Ok(Self { segments: segments.into(), rest })
    }

    /// Whether a path (no query) is one of the template's; `as_it_stands`: it is the request's own, and not some decoding of it.
    pub(crate) fn judge(&self, path: &[u8], as_it_stands: bool) -> Truth {
        let Some(mut path) = path.strip_prefix(b"/") else { return Truth::No };
        let mut odd = false;
        let mut segments = self.segments.iter().peekable();
        while let Some(segment) = segments.next() {
            let more = segments.peek().is_some() || self.rest.is_some();
            let slash = path.iter().position(|byte| *byte == b'/');
            let (own, left) = match (slash, more) {
                (Some(slash), true) => (&path[..slash], &path[slash + 1..]),
                (None, false) => (path, &path[path.len()..]),
                _ => return Truth::No,
            };
            match segment {
                Segment::Literal(literal) if own == literal.as_bytes() => {}
                Segment::Any(before, after) => {
                    let part = own.strip_prefix(before.as_bytes());
                    let part = part.and_then(|part| part.strip_suffix(after.as_bytes()));
                    let Some(part) = part.filter(|part| !part.is_empty()) else { return Truth::No };
                    odd |= !part.iter().copied().all(is_plain);
                }
                Segment::Literal(_) => return Truth::No,
            }
            path = left;
        }
        if let Some(rest) = &self.rest {
            let Some(part) = path.strip_suffix(rest.as_bytes()) else { return Truth::No };
            odd |= !part.iter().all(|byte| *byte == b'/' || is_plain(*byte));
        }
        // Envoy's operators take none of these characters; whoever wrote the template meant everything.
        if odd && as_it_stands { Truth::Unclear } else { Truth::Yes }
    }

    /// What every path begins with that is one of the template's; and whether that is all of it.
    pub(crate) fn beginning(&self) -> (String, bool) {
        let mut text = String::new();
        for segment in &self.segments {
            text.push('/');
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::Any(before, _) => {
                    text.push_str(before);
                    return (text, false);
                }
            }
        }
        if self.rest.is_some() {
            text.push('/');
        }
        (text, self.rest.is_none())
    }
}

/// `{name}` is `*`, `{name=x/*}` is `x/*`; and `{*}`, `{**}` are what they hold.
fn without_variables(template: &str) -> Result<String, Malformed> {
    let mut plain = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (variable, after) = after.split_once('}').ok_or(Malformed::Variable)?;
        let (name, pattern) = match variable.split_once('=') {
            Some((name, pattern)) if !pattern.is_empty() => (name, pattern),
            None if matches!(variable, "*" | "**") => ("operator", variable),
            None => (variable, "*"),
            Some(_) => return Err(Malformed::Variable),
        };
        let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let starts = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
        if !named || !starts || variable.contains('{') || before.contains('}') {
            return Err(Malformed::Variable);
        }
        plain.push_str(before);
        plain.push_str(pattern);
        rest = after;
    }
    if rest.contains('}') {
        return Err(Malformed::Variable);
    }
    plain.push_str(rest);
    Ok(plain)
}

/// What Envoy's operators take: the characters of a path (RFC 3986 `pchar`, `*` left out).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()+,;:@=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::Truth::{No, Unclear, Yes};
    use super::*;

    #[test]
    fn templates_match_whole_paths() {
        for (template, path, wanted) in [
            ("/a", "/a", Yes),
            ("/a", "/a/", No),
            ("/", "/", Yes),
            ("/a/*/b", "/a/x/b", Yes),
            ("/a/{*}/b", "/a/x/b", Yes),
            ("/a/{id}/b", "/a/x%2Fy/b", Yes),
            ("/a/{*}/b", "/a//b", No),
            ("/a/{*}/b", "/a/x/y/b", No),
            ("/a/{*}/b", "/a/x/b/", No),
            ("/a/{*}", "/a/", No),
            ("/a/{**}", "/a", No),
            ("/a/{**}", "/a/", Yes),
            ("/a/**", "/a/b/c/", Yes),
            ("/a/{rest=**}", "/ab", No),
            ("/{a=x/*}/y", "/x/1/y", Yes),
            ("/{a=x/*}/y", "/z/1/y", No),
            ("/**.mpd", "/a/b/c.mpd", Yes),
            ("/**.mpd", "/a/b/c.mpx", No),
            ("/a/**/end", "/a/x/y/end", Yes),
            ("/v*/x/{id}.json", "/v2/x/7.json", Yes),
            ("/v*/x/{id}.json", "/v/x/7.json", No),
            ("/v*/x/{id}.json", "/v2/x/.json", No),
            ("/a/*/b", "/a/x|y/b", Unclear),
            ("/a/**", "/a/\"", Unclear),
            ("/a/*", "*", No),
        ] {
            let template = Template::parse(template).unwrap_or_else(|error| panic!("{template}: {error}"));
            assert_eq!(template.judge(path.as_bytes(), true), wanted, "{template:?} {path}");
        }
    }

    #[test]
    fn a_decoding_may_hold_any_character() {
        let template = Template::parse("/a/*").unwrap();
        assert_eq!(template.judge(b"/a/ \xff", false), Yes);
        assert_eq!(template.judge(b"/a/ /b", false), No);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (template, wanted) in [
            ("", Malformed::Length),
            ("a", Malformed::Root),
            ("/{a", Malformed::Variable),
            ("/a}", Malformed::Variable),
            ("/{}", Malformed::Variable),
            ("/{1}", Malformed::Variable),
            ("/{a=}", Malformed::Variable),
            ("/{a b}", Malformed::Variable),
            ("/**/*", Malformed::NotLast),
            ("/{**}/{**}", Malformed::NotLast),
            ("/a**", Malformed::Crowded),
            ("/*x*", Malformed::Crowded),
            ("/***", Malformed::NotLast),
            ("/a b", Malformed::Character),
            ("/a?b", Malformed::Character),
        ] {
            assert_eq!(Template::parse(template).err(), Some(wanted), "{template}");
        }
        assert_eq!(Template::parse(&format!("/{}", "x".repeat(256))).err(), Some(Malformed::Length));
    }

    #[test]
    fn beginnings() {
        for (template, wanted) in [
            ("/a/b", ("/a/b", true)),
            ("/a/b*/c", ("/a/b", false)),
            ("/a/**", ("/a/", false)),
            ("/**", ("/", false)),
        ] {
            let (text, whole) = Template::parse(template).unwrap().beginning();
            assert_eq!((text.as_str(), whole), wanted, "{template}");
        }
    }
}
