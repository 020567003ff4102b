//! Envoy's format language for access logs: parsed once, at the door, into a form that writes itself without allocating.
//!
//! Whatever a stranger sent is escaped and cut ([`VALUE_LIMIT`]): one exchange is one line, and its fields stay apart.

use std::sync::Arc;
use std::time::SystemTime;

use super::record::Record;

mod escape;
mod header;
mod json;
mod operator;
mod time;

pub(crate) use header::HeaderFormat;
use json::Template;
use operator::{Field, Value};

/// An access log's format.
#[derive(Debug)]
pub(crate) struct LogFormat {
    root: Root,
    omit_empty: bool,
    request_headers: Vec<Arc<str>>,
    response_headers: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Root {
    Text(Vec<Part>),
    Json(Template),
}

/// A piece of a text.
#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    Field(Field),
}

/// Why a format is refused; the text names the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// No such operator.
    #[error("unknown operator %{0}%")]
    UnknownOperator(String),
    /// The operator is there, but not like this.
    #[error("%{operator}%: {message}")]
    BadArgument {
        /// The operator.
        operator: String,
        /// What is wrong.
        message: String,
    },
    /// A `%` that begins no operator.
    #[error("a `%` at byte {0} begins no operator (a literal one is written `%%`)")]
    StrayPercent(usize),
    /// Nested too deep.
    #[error("the JSON format is nested deeper than {}", json::DEPTH_LIMIT)]
    TooDeep,
    /// Not an object.
    #[error("a JSON format must be an object")]
    NotAnObject,
}

/// Bytes of one value, before escaping; the rest is cut.
const VALUE_LIMIT: usize = 4_096;

/// Envoy's default.
const DEFAULT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" "#,
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    r#"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "#,
    r#""%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%""#,
    "\n"
);

impl Default for LogFormat {
    fn default() -> Self {
        // A test sees to it that the constant parses.
        Self::parse_text(DEFAULT).unwrap_or_else(|_| Self::new(Root::Text(Vec::new())))
    }
}

impl LogFormat {
    /// Parses a text format. A line end is added when the format has none.
    ///
    /// # Errors
    /// When it holds an operator that is not known, or a malformed one.
    pub(crate) fn parse_text(text: &str) -> Result<Self, FormatError> {
        let mut parts = parse_parts(text)?;
        if !text.ends_with('\n') {
            parts.push(Part::Literal("\n".into()));
        }
        Ok(Self::new(Root::Text(parts)))
    }

    /// Parses a JSON format (`json_format`): an object whose strings hold operators. A string that is one operator alone gives
    /// a number or `null` where there is one.
    ///
    /// # Errors
    /// As for [`LogFormat::parse_text`], and when it is not an object.
    pub(crate) fn parse_json(format: &serde_json::Value) -> Result<Self, FormatError> {
        if !format.is_object() {
            return Err(FormatError::NotAnObject);
        }
        Ok(Self::new(Root::Json(Template::parse(format, 0)?)))
    }

    /// `omit_empty_values`: nothing instead of `-`, and no JSON member instead of `null`.
    pub(crate) fn omit_empty_values(mut self) -> Self {
        self.omit_empty = true;
        self
    }

    /// The request headers it prints, lower case: what the exchange copies into [`Record::request_headers`].
    pub(crate) fn wanted_request_headers(&self) -> &[Arc<str>] {
        &self.request_headers
    }

    /// The same for response headers.
    pub(crate) fn wanted_response_headers(&self) -> &[Arc<str>] {
        &self.response_headers
    }

    /// Appends the record's line to `out`, its end included.
    pub(super) fn write(&self, record: &Record, out: &mut Vec<u8>) {
        match &self.root {
            Root::Text(parts) => write_parts(parts, record, self.omit_empty, escape::text, out),
            Root::Json(template) => {
                template.write(record, self.omit_empty, out);
                out.push(b'\n');
            }
        }
    }

    fn new(root: Root) -> Self {
        let mut format =
            Self { root, omit_empty: false, request_headers: Vec::new(), response_headers: Vec::new() };
        let (mut request, mut response) = (Vec::new(), Vec::new());
        let mut note = |field: &Field| field.wanted_headers(&mut request, &mut response);
        match &format.root {
            Root::Text(parts) => fields(parts).for_each(&mut note),
            Root::Json(template) => template.for_each_field(&mut note),
        }
        for names in [&mut request, &mut response] {
            names.sort_unstable();
            names.dedup();
        }
        (format.request_headers, format.response_headers) = (request, response);
        format
    }
}

/// A time as RFC 3339 with milliseconds, UTC: `%START_TIME%` without a format.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(time, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Bytes from a stranger as text that is safe to show: escaped, cut.
pub(super) fn sanitize(bytes: &[u8], limit: usize) -> String {
    let mut text = Vec::new();
    escape::text(&bytes[..bytes.len().min(limit)], &mut text);
    String::from_utf8(text).unwrap_or_default()
}

fn parse_parts(text: &str) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(percent) = rest.find('%') {
        literal += &rest[..percent];
        let after = &rest[percent + 1..];
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let offset = text.len() - after.len() - 1;
        let (field, after) = Field::parse(after)?.ok_or(FormatError::StrayPercent(offset))?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Field(field));
        rest = after;
    }
    literal += rest;
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

fn fields(parts: &[Part]) -> impl Iterator<Item = &Field> {
    parts.iter().filter_map(|part| match part {
        Part::Field(field) => Some(field),
        Part::Literal(_) => None,
    })
}

/// Writes the parts one after the other; `escape` is for values, and literals stand as they are.
fn write_parts(
    parts: &[Part],
    record: &Record,
    omit_empty: bool,
    escape: fn(&[u8], &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    let mut scratch = operator::Scratch::default();
    for part in parts {
        scratch.clear();
        match part {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Field(field) => match field.value(record, &mut scratch) {
                Value::Missing if omit_empty => {}
                Value::Missing => out.push(b'-'),
                Value::Number(number) => operator::push_number(number, out),
                Value::Text(bytes) => escape(field.cut(bytes), out),
            },
        }
    }
}

#[cfg(test)]
mod tests;
