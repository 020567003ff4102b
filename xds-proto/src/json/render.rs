//! Message → tree, for dumps: proto field names, no defaults, secrets blacked out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::prost_types::{Duration, Timestamp};
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, ReflectMessage, Value,
};
use serde_json::{Map, Number, Value as Tree, json};

use crate::google::protobuf::Any;

/// Writes what an `Any` holds.
pub(super) fn render(pool: &DescriptorPool, any: &Any) -> Tree {
    let writer = Writer { pool, sensitive: pool.get_extension_by_name("udpa.annotations.sensitive") };
    writer.any(&any.type_url, &any.value, false)
}

struct Writer<'pool> {
    pool: &'pool DescriptorPool,
    sensitive: Option<ExtensionDescriptor>,
}

impl Writer<'_> {
    fn any(&self, type_url: &str, bytes: &[u8], secret: bool) -> Tree {
        let descriptor = type_url.rsplit_once('/').and_then(|(_, name)| self.pool.get_message_by_name(name));
        let message = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, bytes).ok());
        let content = match &message {
            Some(message) => self.message(message, secret),
            None if secret => Tree::String(REDACTED.to_owned()),
            None => Tree::String(STANDARD.encode(bytes)),
        };
        let has_own_form = |message: &DynamicMessage| self.well_known(message, secret).is_some();
        let mut object = match content {
            Tree::Object(fields) if !message.as_ref().is_some_and(has_own_form) => fields,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        object.insert("@type".to_owned(), Tree::String(type_url.to_owned()));
        Tree::Object(object)
    }

    fn message(&self, message: &DynamicMessage, secret: bool) -> Tree {
        if let Some(tree) = self.well_known(message, secret) {
            return tree;
        }
        let mut object = Map::new();
        for (field, value) in message.fields() {
            let secret = secret || self.is_sensitive(&field);
            let tree = self.value(&field.kind(), value, secret);
            object.insert(field.name().to_owned(), tree);
        }
        Tree::Object(object)
    }

    /// The messages that have a form of their own.
    fn well_known(&self, message: &DynamicMessage, secret: bool) -> Option<Tree> {
        let descriptor = message.descriptor();
        let field = |name: &str| message.get_field_by_name(name);
        match descriptor.full_name().strip_prefix("google.protobuf.")? {
            "Any" => {
                let (url, bytes) = (field("type_url")?, field("value")?);
                let is_empty = url.as_str()?.is_empty();
                Some(if is_empty { json!({}) } else { self.any(url.as_str()?, bytes.as_bytes()?, secret) })
            }
            "Duration" => Some(Tree::String(
                Duration { seconds: field("seconds")?.as_i64()?, nanos: field("nanos")?.as_i32()? }
                    .to_string(),
            )),
            "Timestamp" => Some(Tree::String(
                Timestamp { seconds: field("seconds")?.as_i64()?, nanos: field("nanos")?.as_i32()? }
                    .to_string(),
            )),
            "Struct" => {
                Some(self.value(&descriptor.get_field_by_name("fields")?.kind(), &*field("fields")?, secret))
            }
            "ListValue" => {
                Some(self.value(&descriptor.get_field_by_name("values")?.kind(), &*field("values")?, secret))
            }
            "Value" => Some(match message.fields().next() {
                None => Tree::Null,
                Some((field, _)) if field.name() == "null_value" => Tree::Null,
                Some((_, Value::F64(number))) if !secret => plain_number(*number),
                Some((field, value)) => self.value(&field.kind(), value, secret),
            }),
            "BoolValue" | "StringValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value"
            | "Int64Value" | "UInt32Value" | "UInt64Value" => {
                Some(self.value(&descriptor.get_field_by_name("value")?.kind(), &*field("value")?, secret))
            }
            _ => None,
        }
    }

    fn value(&self, kind: &Kind, value: &Value, secret: bool) -> Tree {
        match value {
            Value::List(elements) => {
                elements.iter().map(|element| self.value(kind, element, secret)).collect()
            }
            Value::Map(entries) => {
                let entry = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
                let kind = entry.as_ref().unwrap_or(kind);
                let written =
                    entries.iter().map(|(key, value)| (map_key(key), self.value(kind, value, secret)));
                Tree::Object(written.collect())
            }
            Value::Message(message) => self.message(message, secret),
            Value::Bytes(_) if secret => Tree::String(STANDARD.encode(REDACTED)),
            _ if secret => Tree::String(REDACTED.to_owned()),
            Value::Bool(value) => Tree::Bool(*value),
            Value::I32(value) => json!(value),
            Value::U32(value) => json!(value),
            Value::I64(value) => Tree::String(value.to_string()),
            Value::U64(value) => Tree::String(value.to_string()),
            // By way of its shortest decimal form, so that 0.1 does not become 0.10000000149011612.
            Value::F32(value) => float(value.to_string().parse().unwrap_or(f64::from(*value))),
            Value::F64(value) => float(*value),
            Value::String(text) => Tree::String(text.clone()),
            Value::Bytes(bytes) => Tree::String(STANDARD.encode(bytes)),
            Value::EnumNumber(number) => match kind
                .as_enum()
                .and_then(|descriptor| descriptor.get_value(*number))
            {
                Some(value) if value.parent_enum().full_name() == "google.protobuf.NullValue" => Tree::Null,
                Some(value) => Tree::String(value.name().to_owned()),
                None => json!(number),
            },
        }
    }

    fn is_sensitive(&self, field: &FieldDescriptor) -> bool {
        let marked = |extension| field.options().get_extension(extension).as_bool().unwrap_or(false);
        self.sensitive.as_ref().is_some_and(marked)
    }
}

/// A number of a `google.protobuf.Value`, which was an integer if it looks like one.
#[allow(clippy::cast_possible_truncation, reason = "a whole number within 2^53")]
fn plain_number(number: f64) -> Tree {
    if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
        json!(number as i64)
    } else {
        float(number)
    }
}

fn float(number: f64) -> Tree {
    Number::from_f64(number).map_or_else(
        || {
            let word = if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            Tree::String(word.to_owned())
        },
        Tree::Number,
    )
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

/// What stands in a secret's place, as in Envoy's own dumps.
const REDACTED: &str = "[redacted]";
