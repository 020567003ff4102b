//! Where tokens are in a request, and how they are taken out of it.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;

use crate::message::{Headers, Name, RequestHead, Value};

/// The places where a provider's tokens are.
#[derive(Debug)]
pub(crate) struct Locations {
    /// Header fields, lower case, and what stands before the token in them.
    pub(crate) headers: Vec<(Arc<str>, Box<str>)>,
    /// Query parameters.
    pub(crate) parameters: Vec<Box<str>>,
    /// Cookies.
    pub(crate) cookies: Vec<Box<str>>,
}

impl Locations {
    /// Where tokens are when nothing is said (RFC 6750).
    pub(crate) fn usual() -> Self {
        Self {
            headers: vec![("authorization".into(), "Bearer ".into())],
            parameters: vec!["access_token".into()],
            cookies: Vec::new(),
        }
    }

    /// Every token there is.
    pub(super) fn find(&self, head: &RequestHead) -> Vec<String> {
        let mut tokens = Vec::new();
        for (name, prefix) in &self.headers {
            for value in head.headers.get_all(name) {
                if let Some(token) = after(value, prefix) {
                    // What is not text is no token either, but it must not count as none.
                    tokens.push(String::from_utf8_lossy(token.trim_ascii()).into_owned());
                }
            }
        }
        for pair in head.path.query().unwrap_or_default().split('&').filter(|pair| self.is_parameter(pair)) {
            let value = pair.split_once('=').map_or("", |(_, value)| value);
            tokens.push(decoded(value).into_owned());
        }
        for cookie in cookies(&head.headers) {
            if let Some((_, value)) = self.cookie(&cookie) {
                tokens.push(value.to_owned());
            }
        }
        tokens
    }

    /// Takes the tokens out.
    pub(super) fn remove(&self, head: &mut RequestHead) {
        for (name, prefix) in &self.headers {
            head.headers.retain(|candidate, value| {
                !candidate.eq_ignore_ascii_case(name.as_bytes()) || after(value, prefix).is_none()
            });
        }
        self.remove_parameters(head);
        self.remove_cookies(&mut head.headers);
    }

    fn remove_parameters(&self, head: &mut RequestHead) {
        let Some(query) = head.path.query() else { return };
        if !query.split('&').any(|pair| self.is_parameter(pair)) {
            return;
        }
        let rest: Vec<&str> = query.split('&').filter(|pair| !self.is_parameter(pair)).collect();
        let path = head.path.path();
        let path = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
        // A part of a valid target is one.
        if let Ok(path) = path.parse() {
            head.path = path;
        }
    }

    fn remove_cookies(&self, headers: &mut Headers) {
        let found = |value: &[u8]| split_cookies(value).any(|cookie| self.cookie(&cookie).is_some());
        if self.cookies.is_empty() || !headers.get_all("cookie").any(found) {
            return;
        }
        let rest: Vec<String> =
            cookies(headers).filter(|cookie| self.cookie(cookie).is_none()).map(Cow::into_owned).collect();
        headers.remove("cookie");
        if let (false, Ok(value)) = (rest.is_empty(), HeaderValue::from_str(&rest.join("; "))) {
            headers.append(Name::Static("cookie"), Value::Http(value));
        }
    }

    /// As an application would read it: a name may be written in escapes.
    fn is_parameter(&self, pair: &str) -> bool {
        let name = decoded(pair.split_once('=').map_or(pair, |(name, _)| name));
        self.parameters.iter().any(|wanted| **wanted == *name)
    }

    fn cookie<'a>(&self, cookie: &'a str) -> Option<(&'a str, &'a str)> {
        let (name, value) = cookie.split_once('=')?;
        self.cookies.iter().any(|wanted| **wanted == *name).then_some((name, value.trim_matches('"')))
    }
}

fn cookies(headers: &Headers) -> impl Iterator<Item = Cow<'_, str>> {
    headers.get_all("cookie").flat_map(split_cookies)
}

fn split_cookies(value: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    value.split(|byte| *byte == b';').map(|cookie| String::from_utf8_lossy(cookie.trim_ascii()))
}

/// What follows the prefix. Its case does not count: `bearer` is a scheme as good as `Bearer` to the application behind, and what some
/// library or other takes for white space as good as a space.
fn after<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    let alike = |(own, wanted): (&u8, u8)| match wanted {
        b' ' => matches!(own, b' ' | b'\t' | 0x85 | 0xa0),
        _ => own.eq_ignore_ascii_case(&wanted),
    };
    start.iter().zip(prefix.bytes()).all(alike).then_some(rest)
}

/// Percent-decoded; what cannot be stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) if *byte == b'%' => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}
