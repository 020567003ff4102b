//! JSON formats: a template that has the shape of what is written.

use super::operator::{Field, Scratch, Value, push_number};
use super::{FormatError, Part, escape, fields, parse_parts, write_parts};
use crate::telemetry::record::Record;

/// Levels of nesting.
pub(super) const DEPTH_LIMIT: usize = 16;

/// A JSON value in which operators stand.
#[derive(Debug)]
pub(super) enum Template {
    /// Members, each with its key ready to be written: quoted, with the colon.
    Object(Vec<(Box<[u8]>, Template)>),
    List(Vec<Template>),
    /// One operator alone: keeps its type.
    Value(Field),
    /// A string with operators in it; literals are escaped already.
    Text(Vec<Part>),
    /// Anything without operators, ready to be written.
    Constant(Box<[u8]>),
}

impl Template {
    pub(super) fn parse(value: &serde_json::Value, depth: usize) -> Result<Self, FormatError> {
        if depth > DEPTH_LIMIT {
            return Err(FormatError::TooDeep);
        }
        Ok(match value {
            serde_json::Value::Object(members) => {
                let members = members
                    .iter()
                    .map(|(key, value)| Ok((quoted_key(key), Self::parse(value, depth + 1)?)))
                    .collect::<Result<_, FormatError>>()?;
                Self::Object(members)
            }
            serde_json::Value::Array(items) => {
                Self::List(items.iter().map(|item| Self::parse(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            serde_json::Value::String(text) => Self::parse_string(text)?,
            other => Self::Constant(other.to_string().into_bytes().into()),
        })
    }

    fn parse_string(text: &str) -> Result<Self, FormatError> {
        let mut parts = parse_parts(text)?;
        if parts.len() == 1
            && let Some(Part::Field(_)) = parts.first()
            && let Some(Part::Field(field)) = parts.pop()
        {
            return Ok(Self::Value(field));
        }
        for part in &mut parts {
            if let Part::Literal(text) = part {
                let mut escaped = Vec::new();
                escape::json(text.as_bytes(), &mut escaped);
                *text = String::from_utf8(escaped).unwrap_or_default().into();
            }
        }
        Ok(Self::Text(parts))
    }

    pub(super) fn for_each_field(&self, note: &mut impl FnMut(&Field)) {
        match self {
            Self::Object(members) => members.iter().for_each(|(_, value)| value.for_each_field(note)),
            Self::List(items) => items.iter().for_each(|item| item.for_each_field(note)),
            Self::Value(field) => note(field),
            Self::Text(parts) => fields(parts).for_each(note),
            Self::Constant(_) => {}
        }
    }

    pub(super) fn write(&self, record: &Record, omit_empty: bool, out: &mut Vec<u8>) {
        match self {
            Self::Object(members) => {
                out.push(b'{');
                let start = out.len();
                for (key, value) in members {
                    if omit_empty && value.is_missing(record) {
                        continue;
                    }
                    if out.len() > start {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    value.write(record, omit_empty, out);
                }
                out.push(b'}');
            }
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(record, omit_empty, out);
                }
                out.push(b']');
            }
            Self::Value(field) => write_value(field, record, out),
            Self::Text(parts) => {
                out.push(b'"');
                write_parts(parts, record, omit_empty, escape::json, out);
                out.push(b'"');
            }
            Self::Constant(text) => out.extend_from_slice(text),
        }
    }

    fn is_missing(&self, record: &Record) -> bool {
        match self {
            Self::Value(field) => matches!(field.value(record, &mut Scratch::default()), Value::Missing),
            _ => false,
        }
    }
}

fn write_value(field: &Field, record: &Record, out: &mut Vec<u8>) {
    match field.value(record, &mut Scratch::default()) {
        Value::Missing => out.extend_from_slice(b"null"),
        Value::Number(number) => push_number(number, out),
        Value::Text(bytes) => {
            out.push(b'"');
            escape::json(field.cut(bytes), out);
            out.push(b'"');
        }
    }
}

fn quoted_key(key: &str) -> Box<[u8]> {
    let mut text = vec![b'"'];
    escape::json(key.as_bytes(), &mut text);
    text.extend_from_slice(b"\":");
    text.into()
}
