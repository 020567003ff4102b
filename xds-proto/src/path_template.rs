//! The grammar of URI templates: what Envoy's `uri_template_matcher` takes, and the spelling of Istio's and our own policies (`{*}`, `{**}`).
//!
//! Who writes templates and who runs them read them by the same rules: one that is accepted here and refused there would freeze a listener.

/// A template, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    /// What stands between slashes, up to the end or to `**`: a text, or two with one or more characters between them.
    pub segments: Vec<(Box<str>, Option<Box<str>>)>,
    /// `**` at the end: what must follow it.
    pub rest: Option<Box<str>>,
}

/// Bytes of a template, as Envoy allows.
pub const LONGEST: usize = 256;

/// What is wrong with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
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

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(template: &str) -> Result<Self, Malformed> {
        if template.is_empty() || template.len() > LONGEST {
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
                None => (segment.into(), None),
                Some((_, after)) if after.contains('*') => return Err(Malformed::Crowded),
                Some((before, after)) => (before.into(), Some(after.into())),
            });
        }
        if rest.is_some() && segments.pop() != Some(("".into(), None)) {
            // `/a**`: what is before the operator must end with a slash.
            return Err(Malformed::Crowded);
        }
        Ok(Self { segments, rest })
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
pub fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()+,;:@=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(PathTemplate::parse(template).err(), Some(wanted), "{template}");
        }
        assert_eq!(PathTemplate::parse(&format!("/{}", "x".repeat(256))).err(), Some(Malformed::Length));
    }
}
