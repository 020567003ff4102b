//! The messages of `google.protobuf` whose JSON form is not an object of their fields. (`FieldMask` is missing because no message of Envoy's
//! has one.)

use std::collections::HashMap;

use prost_reflect::prost_types::{Duration, Timestamp};
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, Value};
use serde_json::{Map, Value as Tree};

use super::Notes;
use super::scalar;

/// The special forms.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Duration,
    Timestamp,
    /// `BoolValue` and its kin stand as the bare scalar.
    Wrapper,
    Struct,
    Value,
    List,
}

/// The special form of a message, if it has one. (`Any` has one too, but needs the reader.)
pub(super) fn form(full_name: &str) -> Option<Form> {
    Some(match full_name.strip_prefix("google.protobuf.")? {
        "Duration" => Form::Duration,
        "Timestamp" => Form::Timestamp,
        "Struct" => Form::Struct,
        "Value" => Form::Value,
        "ListValue" => Form::List,
        "BoolValue" | "StringValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value"
        | "Int64Value" | "UInt32Value" | "UInt64Value" => Form::Wrapper,
        _ => return None,
    })
}

/// Reads a message in its special form.
pub(super) fn read(
    form: Form,
    descriptor: &MessageDescriptor,
    tree: &Tree,
    notes: &mut Notes<'_>,
) -> Option<Value> {
    let message = match form {
        Form::Duration => duration(descriptor, tree, notes),
        Form::Timestamp => timestamp(descriptor, tree, notes),
        Form::Wrapper => wrapper(descriptor, tree, notes),
        Form::Value => value(descriptor, tree),
        Form::Struct => match tree {
            Tree::Object(object) => structure(descriptor, object),
            other => refuse("an object", other, notes),
        },
        Form::List => match tree {
            Tree::Array(elements) => list(descriptor, elements),
            other => refuse("a list", other, notes),
        },
    };
    message.map(Value::Message)
}

fn duration(descriptor: &MessageDescriptor, tree: &Tree, notes: &mut Notes<'_>) -> Option<DynamicMessage> {
    let Tree::String(text) = tree else {
        notes.expected(DURATION, tree);
        if let Tree::Number(number) = tree {
            notes.append(&format!("; write {number}s"));
        }
        return None;
    };
    let Some(duration) = text.parse::<Duration>().ok().filter(|read| read.seconds.unsigned_abs() <= LONGEST)
    else {
        notes.expected(DURATION, tree);
        if let Some(seconds) = in_seconds(text) {
            notes.append(&format!("; write {seconds}s"));
        }
        return None;
    };
    Some(seconds_and_nanos(descriptor, duration.seconds, duration.nanos))
}

/// What somebody meant who wrote minutes or milliseconds.
fn in_seconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let number: f64 = number.trim().parse().ok()?;
    match unit {
        "ms" => Some(number / 1e3),
        "us" => Some(number / 1e6),
        "m" | "min" => Some(number * 60.0),
        "h" => Some(number * 3600.0),
        _ => None,
    }
}

fn timestamp(descriptor: &MessageDescriptor, tree: &Tree, notes: &mut Notes<'_>) -> Option<DynamicMessage> {
    match tree
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok())
        .filter(|read| YEARS.contains(&read.seconds))
    {
        Some(timestamp) => Some(seconds_and_nanos(descriptor, timestamp.seconds, timestamp.nanos)),
        None => refuse("a time such as \"2026-01-31T12:00:00Z\"", tree, notes),
    }
}

fn seconds_and_nanos(descriptor: &MessageDescriptor, seconds: i64, nanos: i32) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_name("seconds", Value::I64(seconds));
    message.set_field_by_name("nanos", Value::I32(nanos));
    message
}

fn wrapper(descriptor: &MessageDescriptor, tree: &Tree, notes: &mut Notes<'_>) -> Option<DynamicMessage> {
    let field = descriptor.get_field_by_name("value")?;
    let value = scalar::read(&field.kind(), tree, notes)?;
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field(&field, value);
    Some(message)
}

fn structure(descriptor: &MessageDescriptor, object: &Map<String, Tree>) -> Option<DynamicMessage> {
    let fields = descriptor.get_field_by_name("fields")?;
    let entry = fields.kind();
    let value_kind = entry.as_message()?.map_entry_value_field().kind();
    let value_descriptor = value_kind.as_message()?;
    let mut values = HashMap::with_capacity(object.len());
    for (key, tree) in object {
        values.insert(MapKey::String(key.clone()), Value::Message(value(value_descriptor, tree)?));
    }
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field(&fields, Value::Map(values));
    Some(message)
}

fn list(descriptor: &MessageDescriptor, elements: &[Tree]) -> Option<DynamicMessage> {
    let field = descriptor.get_field_by_name("values")?;
    let kind = field.kind();
    let value_descriptor = kind.as_message()?;
    let values: Option<Vec<Value>> =
        elements.iter().map(|element| value(value_descriptor, element).map(Value::Message)).collect();
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field(&field, Value::List(values?));
    Some(message)
}

/// Any value at all has a form as a `google.protobuf.Value`.
fn value(descriptor: &MessageDescriptor, tree: &Tree) -> Option<DynamicMessage> {
    let (name, inner) = match tree {
        Tree::Null => ("null_value", Value::EnumNumber(0)),
        Tree::Bool(value) => ("bool_value", Value::Bool(*value)),
        Tree::Number(number) => ("number_value", Value::F64(number.as_f64()?)),
        Tree::String(text) => ("string_value", Value::String(text.clone())),
        Tree::Object(object) => {
            ("struct_value", Value::Message(structure(&field_message(descriptor, "struct_value")?, object)?))
        }
        Tree::Array(elements) => {
            ("list_value", Value::Message(list(&field_message(descriptor, "list_value")?, elements)?))
        }
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_name(name, inner);
    Some(message)
}

fn field_message(descriptor: &MessageDescriptor, name: &str) -> Option<MessageDescriptor> {
    descriptor.get_field_by_name(name)?.kind().as_message().cloned()
}

fn refuse<T>(expected: &str, tree: &Tree, notes: &mut Notes<'_>) -> Option<T> {
    notes.expected(expected, tree);
    None
}

const DURATION: &str = "a duration in seconds such as \"0.25s\"";

/// Ten thousand years, the most that a `Duration` may hold.
const LONGEST: u64 = 315_576_000_000;

/// The seconds of the years 1 to 9999, the range of a `Timestamp`.
const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
