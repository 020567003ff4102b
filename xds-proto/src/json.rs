//! Envoy's YAML/JSON form of its messages, read and written.
//!
//! Reading happens in three steps, each a file: `document` turns text into a bounded tree of values, `read` walks
//! that tree against the descriptors and notes **every** mistake (not just the first), and what stands without
//! mistakes is encoded and handed to `prost`. Writing is `render`. Both need the descriptors of all of Envoy's messages,
//! about 15 MiB once built: [`Descriptors`] is a value to be dropped after use, never a static.

mod document;
mod problem;
mod read;
mod render;
mod suggest;

use prost::{Message, Name};
use prost_reflect::{DescriptorError, DescriptorPool};
use serde_json::Value;

use crate::google::protobuf::Any;
use crate::resource::to_any;

pub use document::Format;
pub use problem::Problem;

/// The descriptors of every message in `envoy-types`, and what is done with them.
#[derive(Debug)]
pub struct Descriptors {
    pool: DescriptorPool,
}

impl Descriptors {
    /// Builds the descriptors: tens of milliseconds, about 15 MiB until dropped.
    ///
    /// # Errors
    /// Only if the set that was compiled in is damaged.
    pub fn load() -> Result<Self, DescriptorError> {
        DescriptorPool::decode(DESCRIPTOR_SET).map(|pool| Self { pool })
    }

    /// Reads one message of type `M` from a document.
    ///
    /// Unknown fields and unknown extension types are mistakes, as they are in Envoy's static configuration. A `TypedStruct`
    /// around a known type becomes that type; an empty `Any` (`typed_config: {}`) counts as absent.
    ///
    /// # Errors
    /// Every mistake of the document, in the order of its lines.
    pub fn decode<M: Message + Name + Default>(&self, text: &str, format: Format) -> Result<M, Vec<Problem>> {
        let bytes = self.encode(&M::full_name(), text, format)?;
        M::decode(bytes.as_slice()).map_err(|error| vec![Problem::whole(format!("cannot be used: {error}"))])
    }

    /// Reads a document as the message that is called `full_name`, and gives its wire form.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn encode(&self, full_name: &str, text: &str, format: Format) -> Result<Vec<u8>, Vec<Problem>> {
        let Some(descriptor) = self.pool.get_message_by_name(full_name) else {
            return Err(vec![Problem::whole(format!("no message is called {full_name}"))]);
        };
        let parsed = document::parse(text, format).map_err(|problem| vec![problem])?;
        let mut found = parsed.duplicates;
        let message = read::read(&self.pool, &descriptor, &parsed.value, &mut found);
        if found.is_empty() {
            return Ok(message.encode_to_vec());
        }
        Err(document::locate_all(text, parsed.format, found))
    }

    /// Writes a message in Envoy's form, under its proto field names and with its `@type`, for a configuration dump.
    ///
    /// Fields that Envoy marks as sensitive (private keys, tokens, passwords) come out as `[redacted]`. A message of unknown type,
    /// or one whose bytes are damaged, is shown as base64: a dump never fails.
    pub fn render(&self, any: &Any) -> Value {
        render::render(&self.pool, any)
    }

    /// Writes a message in Envoy's form, without `@type`.
    pub fn render_message<M: Message + Name>(&self, message: &M) -> Value {
        let mut value = self.render(&to_any(message));
        if let Value::Object(object) = &mut value {
            object.remove("@type");
        }
        value
    }
}

/// Writes values as YAML.
///
/// # Errors
/// What the YAML writer says; values that came from [`Descriptors::render`] have a YAML form.
pub fn to_yaml(value: &Value) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(value)
}

/// `envoy-types`' own descriptor set without comments, plus the two `TypedStruct`s it lacks; see `tests/descriptors.rs`.
const DESCRIPTOR_SET: &[u8] = include_bytes!("../descriptors/envoy.bin");

#[cfg(test)]
mod tests;
