//! The header section as a flat list, in order, with the names' case as received (HTTP/1.1) and repeated fields kept apart.
//!
//! A head parsed by the HTTP/1.1 codec is one buffer and a list of spans into it: no allocation and no reference count per field.
//! Fields from HTTP/2 keep the `http` crate's types, so that passing them on to HTTP/2 costs neither.
//! Lookup is linear: heads have about ten fields, and comparing lengths first settles most of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

mod spare;

pub(crate) use spare::drop_spare as drop_spare_fields;
use spare::{give_fields, give_map, take_fields, take_map};

/// A header section or trailer section.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    buffer: Bytes,
    fields: Vec<(Name, Value)>,
}

/// A field name: a token (RFC 9110 §5.1).
#[derive(Clone, Debug)]
pub(crate) enum Name {
    /// Start and length within the buffer.
    Span(u32, u32),
    /// A name that the program writes; lower case.
    Static(&'static str),
    /// From HTTP/2, or built; lower case.
    Http(HeaderName),
}

/// A field value (RFC 9110 §5.5): no CR, LF or NUL, no white space around.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Start and length within the buffer.
    Span(u32, u32),
    /// A value that the program writes.
    Static(&'static str),
    /// From HTTP/2, or built.
    Http(HeaderValue),
}

impl Headers {
    /// An empty section.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An empty section whose spans will point into `buffer`.
    pub(crate) fn with_buffer(buffer: Bytes, capacity: usize) -> Self {
        Self { buffer, fields: take_fields(capacity) }
    }

    /// Adds a field by spans into the buffer. The caller (the codec) has validated both.
    pub(crate) fn push_span(&mut self, name: (u32, u32), value: (u32, u32)) {
        self.fields.push((Name::Span(name.0, name.1), Value::Span(value.0, value.1)));
    }

    /// The number of fields.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Name and value of every field, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.name_bytes(name), self.value_bytes(value)))
    }

    /// The first value of a field; `name` in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(candidate, _)| self.name_is(candidate, name))
            .map(|(_, value)| self.value_bytes(value))
    }

    /// The first value of a field as text; `None` also when it is not ASCII/UTF-8.
    pub(crate) fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of a field, in order.
    pub(crate) fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(candidate, _)| self.name_is(candidate, name))
            .map(|(_, value)| self.value_bytes(value))
    }

    /// Whether the field is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a field at the end.
    pub(crate) fn append(&mut self, name: Name, value: Value) {
        debug_assert!(!matches!((&name, &value), (Name::Span(..), _) | (_, Value::Span(..))));
        self.fields.push((name, value));
    }

    /// Replaces every field of that name by one; adds it when there is none. Keeps the place of the first.
    pub(crate) fn insert(&mut self, name: Name, value: Value) {
        let wanted = match &name {
            Name::Static(text) => *text,
            Name::Http(text) => text.as_str(),
            Name::Span(..) => return,
        };
        let first = self.fields.iter().position(|(candidate, _)| self.name_is(candidate, wanted));
        let Some(first) = first else { return self.append(name, value) };
        if let Some(field) = self.fields.get_mut(first) {
            field.1 = value;
        }
        let buffer = &self.buffer;
        let mut index = 0;
        self.fields.retain(|(candidate, _)| {
            index += 1;
            index - 1 <= first || !is(bytes_of_name(buffer, candidate), wanted)
        });
    }

    /// Sets a field that the program itself writes.
    pub(crate) fn set(&mut self, name: &'static str, value: HeaderValue) {
        self.insert(Name::Static(name), Value::Http(value));
    }

    /// Removes every field of that name (lower case); says whether there was one.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.retain(|candidate, _| !is(candidate, name));
        before != self.fields.len()
    }

    /// Keeps only the fields for which `keep(name, value)` holds.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let buffer = &self.buffer;
        self.fields.retain(|(name, value)| keep(bytes_of_name(buffer, name), bytes_of_value(buffer, value)));
    }

    /// Bytes of names and values, plus 4 for each field: what HTTP/1.1 would carry.
    pub(crate) fn wire_len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len() + 4).sum()
    }

    /// Takes the fields of an HTTP/2 message, without copying them.
    pub(crate) fn from_map(mut map: HeaderMap) -> Self {
        let mut fields = take_fields(map.len());
        let mut last = None;
        for (name, value) in map.drain() {
            // The map names a repeated field only once.
            if name.is_some() {
                last = name;
            }
            if let Some(name) = &last {
                fields.push((Name::Http(name.clone()), Value::Http(value)));
            }
        }
        give_map(map);
        Self { buffer: Bytes::new(), fields }
    }

    /// The fields for an HTTP/2 message, with room for so many more. A name or value that HTTP/2 cannot carry is left out
    /// (the HTTP/1.1 grammar is the stricter one, so there is none), and so are those whose names are not wanted.
    pub(crate) fn to_map(&self, more: usize, wanted: impl Fn(&[u8]) -> bool) -> HeaderMap {
        let mut map = take_map(self.fields.len() + more);
        for (name, value) in self.fields.iter().filter(|(name, _)| wanted(self.name_bytes(name))) {
            append(&mut map, name_of(&self.buffer, name), value_of(&self.buffer, value));
        }
        map
    }

    /// As [`Self::to_map`], and passes on what it can as it is.
    pub(crate) fn into_map(self, more: usize) -> HeaderMap {
        self.into_map_of(more, |_| true)
    }

    /// As [`Self::into_map`], of the fields whose names are wanted.
    pub(crate) fn into_map_of(mut self, more: usize, wanted: impl Fn(&[u8]) -> bool) -> HeaderMap {
        let mut map = take_map(self.fields.len() + more);
        for (name, value) in self.fields.drain(..) {
            if !wanted(bytes_of_name(&self.buffer, &name)) {
                continue;
            }
            let name = match name {
                Name::Http(name) => Some(name),
                written => name_of(&self.buffer, &written),
            };
            let value = match value {
                Value::Http(value) => Some(value),
                written => value_of(&self.buffer, &written),
            };
            append(&mut map, name, value);
        }
        map
    }

    fn name_is(&self, candidate: &Name, wanted: &str) -> bool {
        is(self.name_bytes(candidate), wanted)
    }

    fn name_bytes<'a>(&'a self, name: &'a Name) -> &'a [u8] {
        bytes_of_name(&self.buffer, name)
    }

    fn value_bytes<'a>(&'a self, value: &'a Value) -> &'a [u8] {
        bytes_of_value(&self.buffer, value)
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        give_fields(std::mem::take(&mut self.fields));
    }
}

fn append(map: &mut HeaderMap, name: Option<HeaderName>, value: Option<HeaderValue>) {
    let (Some(name), Some(mut value)) = (name, value) else { return };
    if is_of_one_request(name.as_str()) {
        // Kept out of the compression's table, where it would take the place of what comes again; and each search for such a name there
        // would go by every value that it ever had.
        value.set_sensitive(true);
    }
    map.append(name, value);
}

/// Whether a field has another value in every request.
fn is_of_one_request(name: &str) -> bool {
    OF_ONE_REQUEST.contains(&name)
}

const OF_ONE_REQUEST: [&str; 8] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "b3",
    "grpc-timeout",
];

/// Names that we write into every request: made once.
static WRITTEN: [HeaderName; 3] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

fn name_of(buffer: &Bytes, name: &Name) -> Option<HeaderName> {
    match name {
        Name::Http(name) => Some(name.clone()),
        Name::Static(text) => {
            let known = WRITTEN.iter().find(|known| known.as_str() == *text).cloned();
            Some(known.unwrap_or_else(|| HeaderName::from_static(text)))
        }
        Name::Span(..) => HeaderName::from_bytes(bytes_of_name(buffer, name)).ok(),
    }
}

fn value_of(buffer: &Bytes, value: &Value) -> Option<HeaderValue> {
    match value {
        Value::Http(value) => Some(value.clone()),
        Value::Static(text) => Some(HeaderValue::from_static(text)),
        Value::Span(start, len) => {
            let (start, len) = (*start as usize, *len as usize);
            HeaderValue::from_maybe_shared(buffer.slice(start..start + len)).ok()
        }
    }
}

fn is(candidate: &[u8], wanted: &str) -> bool {
    candidate.len() == wanted.len() && candidate.eq_ignore_ascii_case(wanted.as_bytes())
}

fn bytes_of_name<'a>(buffer: &'a Bytes, name: &'a Name) -> &'a [u8] {
    match name {
        Name::Span(start, len) => span(buffer, *start, *len),
        Name::Static(text) => text.as_bytes(),
        Name::Http(name) => name.as_str().as_bytes(),
    }
}

fn bytes_of_value<'a>(buffer: &'a Bytes, value: &'a Value) -> &'a [u8] {
    match value {
        Value::Span(start, len) => span(buffer, *start, *len),
        Value::Static(text) => text.as_bytes(),
        Value::Http(value) => value.as_bytes(),
    }
}

fn span(buffer: &Bytes, start: u32, len: u32) -> &[u8] {
    buffer.get(start as usize..(start + len) as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Headers {
        let buffer = Bytes::from_static(b"Host: a\r\nX-One: 1\r\nx-one: 2\r\n");
        let mut headers = Headers::with_buffer(buffer, 3);
        headers.push_span((0, 4), (6, 1));
        headers.push_span((9, 5), (16, 1));
        headers.push_span((19, 5), (26, 1));
        headers
    }

    #[test]
    fn looks_up_without_regard_to_case() {
        let headers = sample();
        assert_eq!(headers.get("x-one"), Some(&b"1"[..]));
        assert_eq!(headers.get_all("x-one").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get("x-two"), None);
    }

    #[test]
    fn text_is_what_is_utf8() {
        let mut headers = Headers::default();
        headers.append(Name::Static("x-text"), Value::Static("one"));
        headers.append(Name::Static("x-bytes"), Value::Http(HeaderValue::from_bytes(b"\xff").unwrap()));
        assert_eq!((headers.get_str("x-text"), headers.get_str("x-bytes")), (Some("one"), None));
        assert_eq!((headers.contains("x-bytes"), headers.contains("x-none")), (true, false));
    }

    #[test]
    fn insert_replaces_all_and_keeps_the_first_place() {
        let mut headers = sample();
        headers.insert(Name::Static("x-one"), Value::Static("3"));
        let fields: Vec<_> = headers.iter().collect();
        assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"X-One", b"3")]);
    }

    #[test]
    fn a_section_knows_its_size_and_both_maps_say_the_same() {
        let mut headers = sample();
        assert_eq!(headers.wire_len(), "Host: a\r\nX-One: 1\r\nx-one: 2\r\n".len());
        headers.append(Name::Static("x-ours"), Value::Static("3"));
        headers.set("x-built", HeaderValue::from_static("4"));
        assert_eq!((headers.len(), headers.is_empty(), Headers::new().is_empty()), (5, false, true));
        let map = headers.to_map(2, |_| true);
        let of =
            |name: &str| map.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().concat();
        assert_eq!((of("host"), of("x-one")), (b"a".to_vec(), b"12".to_vec()));
        assert_eq!((of("x-ours"), of("x-built")), (b"3".to_vec(), b"4".to_vec()));
        assert!(map.capacity() >= headers.len() + 2, "room for what a codec adds");
        assert_eq!(headers.into_map(0), map);
    }

    #[test]
    fn survives_the_way_through_http2() {
        let map = sample().into_map(0);
        assert_eq!(map.get_all("x-one").iter().count(), 2);
        let back = Headers::from_map(map);
        assert_eq!(back.get_all("x-one").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(back.len(), 3);
    }

    #[test]
    fn what_is_new_in_every_request_is_kept_out_of_the_compressions_table() {
        let mut headers = sample();
        headers.set("x-request-id", HeaderValue::from_static("a"));
        headers.set("grpc-timeout", HeaderValue::from_static("1S"));
        for map in [headers.to_map(0, |_| true), headers.into_map(0)] {
            let kept_out = map.iter().filter(|(_, value)| value.is_sensitive()).count();
            assert_eq!((map.len(), kept_out), (5, 2));
        }
    }

    #[test]
    fn a_map_that_is_used_again_holds_nothing_of_before() {
        drop(Headers::from_map(sample().into_map(0)));
        let mut headers = Headers::new();
        headers.set("x-two", HeaderValue::from_static("2"));
        let map = headers.to_map(0, |_| true);
        assert_eq!((map.len(), map.get("x-two")), (1, Some(&HeaderValue::from_static("2"))));
    }

    #[test]
    fn removes_every_field_of_a_name() {
        let mut headers = sample();
        assert!(headers.remove("x-one"));
        assert!(!headers.remove("x-one"));
        assert_eq!(headers.len(), 1);
    }
}
