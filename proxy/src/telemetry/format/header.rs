//! The format language in the values of headers that configuration adds (`request_headers_to_add` and its kin).

use std::sync::Arc;

use http::HeaderValue;

use super::operator::{self, Field, Value};
use super::{FormatError, Part, fields, parse_parts};
use crate::message::Headers;
use crate::telemetry::record::Record;

/// A header's value with operators in it.
#[derive(Debug)]
pub(crate) struct HeaderFormat {
    parts: Vec<Part>,
    request: Vec<Arc<str>>,
    response: Vec<Arc<str>>,
    keep_empty: bool,
}

impl HeaderFormat {
    /// Parses a value. `keep_empty` adds the field also where it says nothing.
    ///
    /// # Errors
    /// When it holds an operator that is not known, or a malformed one.
    pub(crate) fn parse(text: &str, keep_empty: bool) -> Result<Self, FormatError> {
        let parts = parse_parts(text)?;
        let (mut request, mut response) = (Vec::new(), Vec::new());
        fields(&parts).for_each(|field| field.wanted_headers(&mut request, &mut response));
        Ok(Self { parts, request, response, keep_empty })
    }

    /// The text, when nothing in it has to be made.
    pub(crate) fn literal(&self) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(piece) => text.push_str(piece),
                Part::Field(_) => return None,
            }
        }
        Some(text)
    }

    /// Makes the value of a request's header, as it is now. `None` where there is nothing to say; empty what no header may hold.
    pub(crate) fn of_request(&self, record: &mut Record, headers: &Headers) -> Option<HeaderValue> {
        self.with(record, headers, |record| (&mut record.request_headers, &self.request))
    }

    /// The same of a response's header; what is asked of the request is what its log formats know.
    pub(crate) fn of_response(&self, record: &mut Record, headers: &Headers) -> Option<HeaderValue> {
        self.with(record, headers, |record| (&mut record.response_headers, &self.response))
    }

    /// Names of request headers that a response's header tells of.
    pub(crate) fn wanted_request_headers(&self) -> &[Arc<str>] {
        &self.request
    }

    fn with<'a>(
        &'a self,
        record: &mut Record,
        headers: &Headers,
        side: impl Fn(&mut Record) -> (&mut Vec<(Arc<str>, Vec<u8>)>, &'a [Arc<str>]),
    ) -> Option<HeaderValue> {
        // The record is lent what the headers say at this point, whatever logs have taken of them before.
        let (place, wanted) = side(record);
        let kept = std::mem::take(place);
        *place = wanted.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.to_vec()))).collect();
        let value = self.write(record);
        *side(record).0 = kept;
        // What no header may hold, or is too long, is there and empty: were it left out, what a client says in the field would stand.
        let Some(value) = value.and_then(|value| HeaderValue::from_bytes(&value).ok()) else {
            return Some(HeaderValue::from_static(""));
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }

    fn write(&self, record: &Record) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut scratch = operator::Scratch::default();
        for part in &self.parts {
            scratch.clear();
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(field) => put(field, field.value(record, &mut scratch), &mut out),
            }
        }
        (out.len() <= LONGEST).then_some(out)
    }
}

fn put(field: &Field, value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Missing => {}
        Value::Number(number) => operator::push_number(number, out),
        Value::Text(bytes) => out.extend_from_slice(field.cut(bytes)),
    }
}

/// Bytes of a value; a longer one is left out.
const LONGEST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Name, Value as Field};

    #[test]
    fn values_are_made_of_the_message_as_it_is() {
        let mut record = crate::telemetry::tests::record();
        let mut headers = Headers::new();
        headers.append(Name::Static("x-a"), Field::Static("one"));
        let made = |text: &str, record: &mut Record| {
            let format = HeaderFormat::parse(text, false).unwrap();
            format.of_request(record, &headers).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(made("%REQ(x-a)%-%PROTOCOL%-50%%", &mut record).as_deref(), Some("one-HTTP/1.1-50%"));
        assert_eq!(made("%REQ(x-b)%", &mut record), None, "nothing to say");
        assert_eq!(made("%REQ(x-b?x-a):2%", &mut record).as_deref(), Some("on"));
        let address = made("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", &mut record).unwrap();
        assert!(address.parse::<std::net::IpAddr>().is_ok());
        assert!(HeaderFormat::parse("%REQ(x-b)%", true).unwrap().of_request(&mut record, &headers).is_some());
        assert!(HeaderFormat::parse("%NOTHING_LIKE_IT%", false).is_err());
        record.detail = Some("a\r\nx-b: c".into());
        assert_eq!(
            made("%SIDEGATE_DETAIL%", &mut record).as_deref(),
            Some(""),
            "and replaces what a client says"
        );
        assert_eq!(HeaderFormat::parse("50%%", false).unwrap().literal().as_deref(), Some("50%"));
        assert!(record.request_headers.is_empty(), "lent only");
    }
}
