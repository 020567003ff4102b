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

impl Template {
    /// Of what stands between slashes, a text or two with an operator between them; and what must follow a `**`.
    pub(crate) fn new(
        segments: impl IntoIterator<Item = (Box<str>, Option<Box<str>>)>,
        rest: Option<Box<str>>,
    ) -> Self {
        let segment = |(before, after)| match after {
            None => Segment::Literal(before),
            Some(after) => Segment::Any(before, after),
        };
        Self { segments: segments.into_iter().map(segment).collect(), rest }
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

/// What Envoy's operators take: the characters of a path (RFC 3986 `pchar`, `*` left out).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()+,;:@=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use sidegate_xds::path_template::{self, Malformed, PathTemplate};

    use super::Truth::{No, Unclear, Yes};
    use super::*;

    impl Template {
        pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
            PathTemplate::parse(text).map(|template| Self::new(template.segments, template.rest))
        }
    }

    #[test]
    fn operators_take_what_templates_may_be_written_with() {
        assert!((0..=u8::MAX).all(|byte| is_plain(byte) == path_template::is_plain(byte)));
    }

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
